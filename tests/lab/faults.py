"""Devices that fail as real ones do, and what becomes of the machines that
hang on them: nothing unknown counts as off, nobody is handed a machine over a
command that may still land, a failure says what was read, and machines on
other devices go on. By the field's own simulators.

usage: faults.py boards|turns

boards: boards that are a file, so that nothing has to boot. turns: virtual
machines behind a BMC and behind a PDU, in whole turns (needs what
tests/qemu/assets makes, by PITSTOP_QEMU_ASSETS). Prints one line per step and
`ok` or what was wrong."""

import datetime
import os
import pathlib
import signal
import socket
import sys
import threading
import time

import common
from common import HERE, demand, play, say, until
from simulators import Bmc, Pdu, Plug, RedfishBmc, Terminal, free_port

PASSWORD = "pw-fa017"


def seconds(event):
    return datetime.datetime.fromisoformat(event["time"]).timestamp()


class Lab(common.Lab):
    def reload(self):
        self.write_inventory()
        self.ok("admin", "reload")

    def queue(self, *words):
        """Asks for a machine, and does not wait for it; the reservation."""
        return self.ok("reserve", *words, "--no-wait").split()[0]

    def console(self, name):
        """What a machine said, as far as its journal goes back, and the notes between."""
        done = self.cli("console", name, "--no-follow", "--since", "10000000")
        demand(done.returncode == 0, f"console {name}: {done.stderr}")
        return done.stdout, done.stderr

    def until_gap(self, name):
        """The line was lost and is open again, and both can be seen in the journal."""
        def look():
            said, notes = self.console(name)
            rows = self.check(name)
            line = rows[(name, "console main")]
            return ("line down" in notes and line["ok"]) or f"{line['says']}; {notes[-300:]}"
        until(f"the line of {name} is open again, and its gap is marked", look)

    def demand_quarantined(self, name, cls, words):
        """It failed twice and no more, and says why to who looks."""
        row = self.show(name)
        health = row["health"]
        demand((health["is"], health["class"]) == ("quarantined", cls), f"{name}: {health}")
        demand(words in health["evidence"], f"the evidence of {name} does not say “{words}”: {health['evidence']}")
        why = self.ok("why", name)
        for part in (cls, health["evidence"], f"admin prove {name}"):
            demand(part in why, f"why {name} does not say “{part}”: {why}")
        demand(name in self.ok("status"), f"nobody is alarmed about {name}")
        demand("failed in" in self.console(name)[1] or not row["consoles"], f"the journal of {name} does not say that it failed")
        return health["evidence"]


# ── Boards ──


class Bystander(threading.Thread):
    """Somebody with a machine on a device of its own, who goes on using it."""

    def __init__(self, lab, name):
        super().__init__(daemon=True)
        self.lab, self.name, self.over = lab, name, threading.Event()
        self.took, self.wrong = [], None

    def run(self):
        try:
            while not self.over.is_set():
                began = time.monotonic()
                self.lab.ok("reserve", f"name={self.name}", "--want", "bare", "--for", "1h")
                for word in ("on", "off"):
                    self.lab.ok("power", self.name, word)
                self.lab.ok("release", self.name)
                self.lab.until_state(self.name, "free")
                self.took.append(time.monotonic() - began)
        except Exception as wrong:  # told to whoever waits for this thread
            self.wrong = wrong

    def end(self):
        self.over.set()
        self.join()
        if self.wrong:
            raise self.wrong
        demand(self.took, f"{self.name} was never used")
        return f"{self.name} went round {len(self.took)} times meanwhile, in {max(self.took):.1f} s at most"


class Boards(Lab):
    INVENTORY = """format = 1
[lab]
name = "boards"
{pdu}
{machines}
"""
    MACHINE = """[machine.{name}]
{power}
console.main.{console}
boot.http = {{}}
ready.agent = {{}}
timeout = {{ power = "{limit}s", firmware = "20s", attach = "20s" }}
"""

    def __init__(self):
        super().__init__()
        switch = [HERE / "switch", self.dir]
        self.serial = socket.create_server(("127.0.0.1", 0))  # a line that says nothing
        port = self.serial.getsockname()[1]
        self.bmc = Bmc(self.dir / "bmc", [*switch, "board-ipmi"], port, PASSWORD)
        self.redfish = RedfishBmc(self.dir / "redfish", [*switch, "board-redfish"], PASSWORD)
        self.pdu = Pdu(self.dir / "pdu", switch, "cm-fa017")
        self.plug = Plug()
        self.devices = [self.bmc, self.redfish, self.pdu, self.plug]
        self.terminals = {name: Terminal() for name in ("redfish", "outlet", "plug")}
        self.link = self.dir / "tty"
        self.limit = 60  # longer than a BMC keeps the sessions of those who left
        self.plug_in("plug")
        agent = self.data / "agent"
        agent.mkdir(parents=True)
        for name in ("vmlinuz", "initrd"):
            (agent / name).write_text("no board ever boots it")
        self.write_inventory()

    def write_inventory(self):
        port = lambda name: f'serial = {{ device = "{self.terminals[name].path}" }}'
        wires = {
            "ipmi": (self.bmc.power(), "sol = {}"),
            "redfish": (self.redfish.power(), port("redfish")),
            "outlet": ('power.outlet = { controller = "pdu-a", outlet = 7 }', port("outlet")),
            "plug": (self.plug.power(), f'serial = {{ device = "{self.link}" }}'),
        }
        machines = "".join(self.MACHINE.format(name=name, power=power, console=console, limit=self.limit)
                           for name, (power, console) in wires.items())
        self.inventory.write_text(self.INVENTORY.format(pdu=self.pdu.controller("pdu-a"), machines=machines))

    def plug_in(self, name):
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(self.terminals[name].path)

    def file(self, name):
        """The board itself: on if there is this file."""
        return self.dir / ("7" if name == "outlet" else f"board-{name}")

    def deaf(self, name):
        """While there is this one, it does nothing of what it takes."""
        file = self.file(name)
        return file.with_name(f"{file.name}.deaf")


def boards(lab, began):
    lab.start()
    for name in ("ipmi", "redfish", "outlet", "plug"):
        lab.ok("admin", "enrol", name, "--yes")
    lab.until_well()
    unplugged(lab)
    say(began, "a serial port was unplugged and plugged in again: the gap is marked, and it is heard again")
    bystander = Bystander(lab, "plug")
    bystander.start()
    try:
        no_session_left(lab, began)
        lab.limit = 15
        lab.reload()
        deaf_devices(lab, began)
    finally:
        meanwhile = bystander.end()
    say(began, meanwhile)
    return "each failure has its cause, and nobody else noticed"


def unplugged(lab):
    """A USB serial adapter goes and comes back as another device."""
    machine = lambda text: os.write(lab.terminals["plug"].machine, text)
    watcher = lab.begin("console", "plug", "--since", "100000")
    machine(b"before\r\n")
    until("what it says is heard", lambda: "before" in lab.console("plug")[0])
    lab.terminals["plug"].end()
    until("its line is down", lambda: not lab.check("plug")[("plug", "console main")]["ok"])
    demand("could not open" in (says := lab.check("plug")[("plug", "console main")]["says"]), f"the check says {says}")
    lab.terminals["plug"] = Terminal()
    lab.plug_in("plug")
    lab.until_gap("plug")
    machine(b"after\r\n")
    until("what it says is heard again", lambda: "after" in lab.console("plug")[0])
    watcher.send_signal(signal.SIGINT)
    said, notes = watcher.communicate(timeout=common.PATIENCE)
    demand(said.split() == ["before", "after"], f"who watched all the time heard {said!r}: {notes}")
    demand("line down" in notes, f"who watched all the time was not told of the gap: {notes}")


def no_session_left(lab, began):
    """Others have used up all sessions of a BMC. That passes, and what was
    commanded meanwhile is done then."""
    held = ("ipmi", "redfish")
    for name in held:
        lab.ok("reserve", f"name={name}", "--want", "bare", "--for", "1h")
    seen = {name: len(lab.events(name)) for name in held}
    lab.redfish.fault.write_text("503\nall sessions are in use")
    demand(lab.bmc.take_sessions() > 0, "this BMC had no session to begin with")
    begun = {name: lab.begin("power", name, "on") for name in held}
    rows = lab.check(*held)
    for name, words in (("ipmi", "no session left"), ("redfish", "503")):
        row = rows[(name, "power")]
        demand(not row["ok"] and words in row["says"], f"the check of {name} does not say “{words}”: {row}")
    waiting = {name: command.poll() is None and not lab.file(name).exists() for name, command in begun.items()}
    demand(all(waiting.values()), f"without a session it was switched, or given up: {waiting}")
    lab.redfish.fault.unlink()
    for name, command in begun.items():
        said = command.communicate(timeout=common.PATIENCE)
        demand(command.returncode == 0, f"power {name} on: exit {command.returncode}: {said}")
        demand(lab.file(name).exists(), f"{name} was read on, and is not")
        demand(lab.show(name)["state"] == "in-use", f"{name} was taken from its holder")
        failed = [e["text"] for e in lab.events(name)[seen[name]:] if e["kind"] in ("phase-failed", "health-set")]
        demand(not failed, f"that others are logged in was taken for a failure of {name}: {failed}")
        lab.ok("release", name)
        lab.until_state(name, "free")
    say(began, "BMCs had no session left: said so, and obeyed when they had one again")


def deaf_devices(lab, began):
    """A BMC accepts "on" and nothing happens; an outlet does not go off."""
    lab.ok("reserve", "name=outlet", "--want", "bare", "--for", "1h")
    lab.ok("power", "outlet", "on")
    harmed = ("ipmi", "redfish", "outlet")
    seen = {name: len(lab.events(name)) for name in harmed}
    for name in harmed:
        lab.deaf(name).touch()
    lab.ok("release", "outlet")
    waiting = {"outlet": lab.queue("name=outlet", "--want", "bare", "--for", "1h")}
    for name in ("ipmi", "redfish"):
        waiting[name] = lab.queue(f"name={name}", "--want", "agent", "--for", "1h")
    for name, words in (("ipmi", "off"), ("redfish", "off"), ("outlet", "on")):
        lab.until_state(name, "quarantined", patience=2 * common.PATIENCE)
        evidence = lab.demand_quarantined(name, "power", words)
        events = lab.events(name)[seen[name]:]
        failed = [e for e in events if e["kind"] == "phase-failed"]
        demand(len(failed) == 2, f"{name} was tried {len(failed)} times: {[e['text'] for e in failed]}")
        commands = [e for e in events if e["kind"] == "power-intended"]
        demand(len(commands) <= 30, f"{name} was commanded {len(commands)} times")
        handed = [e["text"] for e in events if e["kind"] in ("machine-ready", "in-use") and seconds(e) > seconds(failed[0])]
        demand(not handed, f"{name} was handed over: {handed}")
        state = lab.show(waiting[name])["state"]
        demand(state in ("waiting", "ended"), f"{waiting[name]} has {name}, which did nothing of what it was told: {state}")
        say(began, f"{name}: {evidence}")
    demand(lab.file("outlet").exists(), "who switched it off?")
    for name in ("ipmi", "redfish"):
        lab.cli("release", waiting[name])
    for name in harmed:
        lab.deaf(name).unlink()
        lab.ok("admin", "prove", name)
    lab.ok("reserve", "--resume", waiting["outlet"])
    demand(not lab.file("outlet").exists(), "it was handed over as off, and is on")
    for name in ("ipmi", "redfish"):
        lab.until_state(name, "free")
    say(began, "mended and proven: who waited for it has it, and it is off")


# ── Turns ──


class Turns(Lab):
    INVENTORY = """format = 1
[lab]
name = "turns"
{controllers}
{machines}
"""
    MACHINE = """[machine.{name}]
{wires}
disk.root = {{}}
ready.agent = {{}}
timeout = {{ {limits} }}
"""
    PATIENT = 'power = "30s", firmware = "3m", attach = "2m", reimage = "5m", evidence = "3m"'
    SHORT = 'power = "15s", firmware = "15s", attach = "15s", reimage = "5m", evidence = "3m"'
    DISK = 256 << 20

    def __init__(self):
        super().__init__("pq")
        # Not this directory's module of that name.
        sys.path.insert(0, str(HERE.parent / "qemu"))
        from wiring import Ipmi, Snmp
        self.assets = pathlib.Path(os.environ["PITSTOP_QEMU_ASSETS"])
        self.boot_port = free_port()
        self.vms = {name: kind(self.dir, self.DISK, name=name, boot_port=self.boot_port)
                    for name, kind in (("bmc", Ipmi), ("pdu", Snmp))}
        self.limits = dict.fromkeys(self.vms, self.PATIENT)
        self.devices = [*self.vms.values()]
        agent = self.data / "agent"
        agent.mkdir(parents=True)
        for name in ("vmlinuz", "initrd", "manifest.json"):
            os.symlink(self.assets / "agent" / name, agent / name)
        self.write_inventory()

    def write_inventory(self):
        controllers, machines = "", ""
        for name, vm in self.vms.items():
            apart, wires = vm.inventory()
            controllers += apart
            machines += self.MACHINE.format(name=name, wires=wires, limits=self.limits[name])
        self.inventory.write_text(self.INVENTORY.format(controllers=controllers, machines=machines))

    def lie(self, name):
        return self.vms[name].dir / "lie"

    def pid(self, name):
        return int((self.vms[name].dir / "pid").read_text())

    def disk(self, name):
        return (self.vms[name].dir / "disk.img").read_bytes()

    def phase(self, name):
        entered = self.of_kind(name, "turn-started", "phase-entered", "freed", "machine-ready")
        return entered[-1]["text"] if entered else ""

    def until_phase(self, name, phase):
        """A phase that was missed was not tested."""
        def look():
            row = self.show(name)
            demand(row["state"] not in ("ready", "in-use", "free"), f"phase {phase} of {name} was over before it was seen")
            return (now := self.phase(name)).startswith(phase) or now
        until(f"phase {phase} of {name}", look)

    def end(self):
        super_end = super().end
        for vm in self.vms.values():
            vm.machine("off")
        super_end()


def turns(lab, began):
    lab.start("--boot-port", str(lab.boot_port))
    for name in lab.vms:
        lab.ok("admin", "enrol", name, "--yes")
    lab.ok("image", "add", "test", str(lab.assets / "test.img"))
    lines_drop(lab, began)
    power_flaps_while_held(lab, began)
    power_goes_in_a_turn(lab, began)
    off_is_a_lie(lab, began)
    return "lines that drop, power that flaps and a BMC that lies"


def lines_drop(lab, began):
    """In the middle of a boot a BMC starts anew, and a console server."""
    held = {name: lab.queue(f"name={name}", "--image", "test", "--for", "1h") for name in lab.vms}
    for name, device in (("bmc", lab.vms["bmc"].bmc), ("pdu", lab.vms["pdu"].server)):
        lab.until_phase(name, "boot agent")
        until(f"{name} boots", lambda: bool(lab.console(name)[0]) or "it said nothing yet")
        device.end()
        device.start()
    for name, reservation in held.items():
        lab.ok("reserve", "--resume", reservation)
        failed = [e["text"] for e in lab.of_kind(name, "phase-failed")]
        demand(not failed, f"a line that dropped was taken for a failure of {name}: {failed}")
        lab.until_gap(name)
        said = lab.ok("run", name, "--", "uname")
        demand("Linux" in said, f"{name} said {said}")
        say(began, f"{name}: its line dropped in its boot and is open again, its gap marked, its turn green")


def untouched(lab, name, seen, what):
    """The machine is its holder's, and nobody commanded or blamed it since."""
    demand(lab.show(name)["state"] == "in-use", f"{what}, and the machine is {lab.show(name)['state']}")
    kinds = {"power-intended", "turn-started", "phase-entered", "phase-failed", "health-set"}
    done = [e["text"] for e in lab.events(name)[seen:] if e["kind"] in kinds]
    demand(not done, f"{what}, and it was taken for our affair: {done}")


def power_flaps_while_held(lab, began):
    """Somebody trips over the cable of a machine that is in use."""
    name = "pdu"
    seen, before = len(lab.events(name)), lab.show(name)["agent"]["boot_id"]
    os.kill(lab.pid(name), signal.SIGKILL)
    until("its silence is seen", lambda: not lab.show(name)["agent"]["connected"])
    untouched(lab, name, seen, "its power went by itself")
    demand(any(e["kind"] == "agent-lost" for e in lab.events(name)[seen:]), "nothing on record says that it went away")
    lab.vms[name].machine("on")
    until("it is back, with another boot", lambda: (lab.show(name).get("agent") or {}).get("boot_id") not in (None, before))
    demand("Linux" in lab.ok("run", name, "--", "uname"), "nothing runs on it any more")
    untouched(lab, name, seen, "its power came back by itself")
    say(began, f"{name}: power went and came back while held: on record, and nothing else")


def power_goes_in_a_turn(lab, began):
    """The same while its disk is written: that turn cannot go on."""
    name = "pdu"
    lab.ok("release", name)
    lab.until_phase(name, "disk")
    seen = len(lab.events(name))
    os.kill(lab.pid(name), signal.SIGKILL)
    lab.until_state(name, "free", patience=2 * common.PATIENCE)
    events = lab.events(name)[seen:]
    failed = [e for e in events if e["kind"] == "phase-failed"]
    demand(len(failed) == 1, f"power went once, and {len(failed)} phases failed: {[e['text'] for e in failed]}")
    failure = failed[0]["data"]["failure"]
    demand(failure["class"] == "power" and "reads off" in failure["evidence"], f"what was read is not said: {failure}")
    row = lab.show(name)
    demand((row["health"]["is"], row["clean"]) == ("good", "proven"), f"{name} was tried again, and is {row['health']} {row['clean']}")
    say(began, f"{name}: {failed[0]['text']}; the second try proved it")


def off_is_a_lie(lab, began):
    """A BMC says off and on while the machine runs all the time: the last
    tenant's system must not pass for a new boot."""
    name, mark = "bmc", f"mark-{os.urandom(8).hex()}"
    lab.ok("run", name, "--", "sh", "-c", f"echo {mark} > /marker && sync")
    demand(mark.encode() in lab.disk(name), "the tenant's mark never reached the disk: the test shows nothing")
    lab.limits[name] = lab.SHORT
    lab.reload()
    pid, seen = lab.pid(name), len(lab.events(name))
    lab.lie(name).write_text("on")
    lab.ok("release", name)
    waiting = lab.queue(f"name={name}", "--want", "bare", "--image", "test", "--for", "1h")
    lab.until_state(name, "quarantined", patience=2 * common.PATIENCE)
    demand(lab.pid(name) == pid and lab.vms[name].machine("state") == "on", "it was off: the test shows nothing")
    evidence = lab.demand_quarantined(name, "boot", "no agent in")
    events = lab.events(name)[seen:]
    failed = [e["text"] for e in events if e["kind"] == "phase-failed"]
    demand(len(failed) == 2, f"it was tried {len(failed)} times: {failed}")
    obeyed = [e["text"] for e in events if e["kind"] in ("agent-attached", "agent-resumed", "disk-proven", "machine-ready", "in-use")]
    demand(not obeyed, f"the last tenant's system was believed: {obeyed}")
    demand(lab.show(waiting)["state"] == "waiting", f"{waiting} has a machine that was never off: {lab.show(waiting)}")
    demand(lab.show(name)["clean"] != "proven", "it counts as clean")
    say(began, f"{name}: {evidence}")
    lab.limits[name] = lab.PATIENT
    lab.reload()
    lab.lie(name).unlink()
    lab.ok("admin", "prove", name)
    lab.ok("reserve", "--resume", waiting)
    demand(lab.vms[name].machine("state") == "off", "it was handed over as off, and is on")
    demand(mark.encode() not in lab.disk(name), "the last tenant's mark is still on the disk")
    say(began, f"{name}: when it went off indeed, it was proven, and who waited got it without the mark")


def main():
    what = sys.argv[1]
    lab, story = {"boards": (Boards, boards), "turns": (Turns, turns)}[what]
    play(f"faults of {what}", lab(), story)


if __name__ == "__main__":
    main()
