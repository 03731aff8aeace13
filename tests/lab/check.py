"""`pitstop admin check` on a lab with a machine of each driver, by the
field's own simulators. All is well; then each device is broken in turn, in
each way it can be, and the check must name the broken part with its cause
while it finds nothing wrong with the others. Prints one line per step and
`ok` or what was wrong."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

from simulators import Bmc, ConsoleServer, Hub, Libvirt, Pdu, Pdudaemon, Plug, RedfishBmc, Sleeper, Terminal

HERE = pathlib.Path(__file__).resolve().parent
PITSTOP = os.environ.get("PITSTOP", str(HERE.parents[1] / "target/release/pitstop"))
PATIENCE = 120  # seconds
# Unique, so that they can be looked for.
PASSWORD, COMMUNITY = "pw-c0ffee17", "cm-decade42"

INVENTORY = """format = 1
[lab]
name = "wires"
{controllers}
{machines}
"""
MACHINE = """[machine.{name}]
{power}
{console}
boot.power = {{}}
ready.agent = {{}}
"""


class Wrong(Exception):
    pass


def demand(truth, words):
    if not truth:
        raise Wrong(words)


class Lab:
    """The devices, and a daemon whose machines hang on them."""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="pw"))
        self.daemon = None
        switch = [HERE / "switch", self.dir]
        self.serial = socket.create_server(("127.0.0.1", 0))
        self.bmc = Bmc(self.dir / "bmc", [*switch, "m-ipmi"], self.serial.getsockname()[1], PASSWORD)
        self.redfish = RedfishBmc(self.dir / "redfish", [*switch, "m-redfish"], PASSWORD)
        self.pdu = Pdu(self.dir / "pdu", switch, COMMUNITY)
        self.plug = Plug()
        self.pdudaemon = Pdudaemon(self.dir / "pdudaemon")
        self.libvirt = Libvirt(self.dir / "libvirt")
        self.hub = Hub(self.dir / "hub")
        self.sleeper = Sleeper(self.dir / "sleeper")
        self.terminals = [Terminal() for _ in range(5)]
        carried = [terminal.connector() for terminal in self.terminals]
        self.server = ConsoleServer(self.dir / "server", list(zip(["telnet(rfc2217),tcp", "telnet,tcp", "tcp", "tcp"], carried)))
        self.link = self.dir / "tty"
        self.plug_in(self.terminals[4])
        self.script = self.dir / "status"
        self.mend_script()
        self.write_inventory()
        self.env = dict(os.environ, PITSTOP_SOCKET=str(self.dir / "sock"), PITSTOP_DATA=str(self.dir / "data"))
        self.log = open(self.dir / "log", "ab")

    def write_inventory(self):
        rfc2217, telnet, raw, other = (f"127.0.0.1:{port}" for port in self.server.ports)
        wires = {
            "m-ipmi": (self.bmc.power(), "console.main.sol = {}"),
            "m-redfish": (self.redfish.power(', timeout = "2s"'), f'console.main.tcp = {{ address = "{other}" }}'),
            "m-snmp": ('power.outlet = { controller = "pdu-a", outlet = 7 }', f'console.main.rfc2217 = {{ address = "{rfc2217}" }}'),
            "m-http": (self.plug.power(), f'console.main.telnet = {{ address = "{telnet}" }}'),
            "m-command": (f'power.command = {{ on = ["true"], off = ["true"], status = ["{self.script}"], timeout = "2s" }}',
                          f'console.main.tcp = {{ address = "{raw}" }}'),
            "m-serial": ("power.none = {}", f'console.main.serial = {{ device = "{self.link}" }}'),
            "m-pdud": (self.pdudaemon.power(5) + '\ntimeout.power = "20s"', "console = {}"),
            "m-libvirt": (self.libvirt.power(), "console = {}"),
            "m-usb": (self.hub.power(2), "console = {}"),
            "m-wol": (self.sleeper.power(), "console = {}"),
        }
        machines = "".join(MACHINE.format(name=name, power=power, console=console)
                           for name, (power, console) in wires.items())
        text = INVENTORY.format(controllers=self.pdu.controller("pdu-a"), machines=machines)
        (self.dir / "inventory.toml").write_text(text)

    def plug_in(self, terminal):
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(terminal.path)

    def mend_script(self, body="exit 0"):
        self.script.write_text(f"#!/bin/sh\n{body}\n")
        self.script.chmod(0o700)

    def start(self):
        args = [PITSTOP, "serve", "--inventory", str(self.dir / "inventory.toml")]
        self.daemon = subprocess.Popen(args, env=self.env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def cli(self, *args):
        return subprocess.run([PITSTOP, *args], env=self.env, capture_output=True, text=True, timeout=PATIENCE)

    def ok(self, *args):
        done = self.cli(*args)
        demand(done.returncode == 0, f"{' '.join(args)}: exit {done.returncode}: {done.stdout}{done.stderr}")

    def check(self):
        done = self.cli("admin", "check", "-o", "jsonl")
        demand(done.returncode in (0, 1), f"admin check: exit {done.returncode}: {done.stderr}")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return {(row["machine"], row["part"]): row for row in rows}

    def until(self, what, look):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = look()
            if found is True:
                return
            time.sleep(0.2)
        raise Wrong(f"{what}: not within {PATIENCE} s: {found}")

    def until_well(self):
        def look():
            bad = [f"{row['machine']} {row['part']}: {row['says']}" for row in self.check().values() if not row["ok"]]
            return True if not bad else bad
        self.until("all is well", look)

    def broken(self, parts, words, began):
        """Exactly these parts fail, with these words; the others go on."""
        machines = {machine for machine, _ in parts}

        def look():
            rows = self.check()
            # A BMC that is stopped has its serial line stopped too, which is noticed later.
            others = [key for key, row in rows.items()
                      if not row["ok"] and key not in parts and not (key[0] == "m-ipmi" and "m-ipmi" in machines)]
            demand(not others, f"{others} failed too: {[rows[key]['says'] for key in others]}")
            slow = [key for key, row in rows.items() if key[0] not in machines and row["ms"] > 10_000]
            demand(not slow, f"{slow} were held up")
            told = {key: rows[key]["says"] for key in parts}
            return True if all(not rows[key]["ok"] and words in told[key] for key in parts) else told
        self.until(f"{parts} fail with “{words}”", look)
        say(began, f"{', '.join(' '.join(part) for part in sorted(parts))}: {words}")

    def end(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(60)
        for device in (self.bmc, self.redfish, self.pdu, self.server, self.plug, self.pdudaemon, self.libvirt):
            device.end()
        subprocess.run(["rm", "-rf", str(self.dir)], check=True)


def say(began, words):
    print(f"  {time.monotonic() - began:6.1f}s  {words}", flush=True)


def breaks(lab):
    """Each way a device can be broken: what is done, what is mended, and what
    the check must say of which part."""
    def kill(device):
        return device.end, device.start

    def stop(device):
        return device.stop, device.go_on

    def write(file, text):
        whole = file.read_text() if file.exists() else None
        return (lambda: file.write_text(text)), (lambda: file.write_text(whole) if whole else file.unlink())

    def answer(code, body):
        return (lambda: setattr(lab.plug, "answer", (code, body))), (lambda: setattr(lab.plug, "answer", None))

    def script(body):
        return (lambda: lab.mend_script(body)), lab.mend_script

    def gone():
        lab.script.unlink()

    def unplug():
        lab.terminals[4].end()

    def plug_in():
        lab.terminals[4] = Terminal()
        lab.plug_in(lab.terminals[4])

    carried = [(machine, "console main") for machine in ("m-redfish", "m-snmp", "m-http", "m-command")]
    yield [("m-ipmi", "power")], "does not answer", stop(lab.bmc)
    yield [("m-ipmi", "power")], "does not take the password", write(lab.bmc.password, "wrong")
    yield [("m-redfish", "power")], "no answer within 2 s", stop(lab.redfish)
    yield [("m-redfish", "power")], "Connection refused", kill(lab.redfish)
    yield [("m-redfish", "power")], "the BMC said 401", write(lab.redfish.password, "wrong")
    yield [("m-redfish", "power")], "the BMC said 503", write(lab.redfish.fault, "503\nbusy")
    yield [("m-redfish", "power")], "answered no JSON: <html>", write(lab.redfish.fault, "200\n<html>")
    yield [("m-redfish", "power")], "tells of no systems", write(lab.redfish.fault, "200\n{}")
    yield [("m-snmp", "power")], "does not answer", stop(lab.pdu)
    yield [("m-snmp", "power")], "does not answer", kill(lab.pdu)
    yield [("m-snmp", "power")], "does not answer", write(lab.pdu.community, "wrong")
    yield [("m-snmp", "power")], "neither on nor off", write(lab.pdu.dir / "state", "9")
    yield [("m-http", "power")], "the device said 503", answer(503, "busy")
    yield [("m-http", "power")], "the device said 401", answer(401, "who are you")
    yield [("m-http", "power")], "neither on nor off", answer(200, "<html>")
    yield [("m-http", "power")], "no answer within 2 s", (lab.plug.hangs.clear, lab.plug.hangs.set)
    yield [("m-command", "power")], "cannot tell", script("exit 9")
    yield [("m-command", "power")], "not done within 2 s", script("sleep 600")
    yield [("m-command", "power")], "No such file", (gone, lab.mend_script)
    yield [("m-serial", "console main")], "could not open", (unplug, plug_in)
    yield carried, "Connection refused", kill(lab.server)
    yield [("m-ipmi", "power"), ("m-ipmi", "console main")], "the BMC does not answer", kill(lab.bmc)
    yield [("m-libvirt", "power")], "Failed to connect socket", kill(lab.libvirt)
    yield [("m-libvirt", "power")], "not done within 2 s", stop(lab.libvirt)
    yield [("m-usb", "power")], "permission problems", write(lab.hub.dir / "permission", "")
    yield [("m-usb", "power")], "cannot read port 2 status", write(lab.hub.dir / "unreadable", "")
    yield [("m-wol", "power")], "cannot tell", write(lab.sleeper.state, "")


def switched(lab, began):
    """What these drivers drive obeys, and one that cannot names its cause."""
    outlet = lab.pdudaemon.dir / "on-5"
    is_on = {
        "m-pdud": outlet.exists,
        "m-libvirt": lab.libvirt.is_on,
        "m-usb": (lab.hub.dir / "on-2").exists,
        "m-wol": lambda: lab.sleeper.state.read_text() == "up",
    }
    for machine, on in is_on.items():
        lab.ok("admin", "enrol", machine, "--yes")
        lab.ok("reserve", f"name={machine}", "--want", "bare", "--for", "1h")
        for word in ("on", "off", "on"):
            lab.ok("power", machine, word)
            demand(on() == (word == "on"), f"{machine} was read {word}, and is not")
    say(began, f"{', '.join(is_on)}: switched")
    lab.pdudaemon.end()
    done = lab.cli("power", "m-pdud", "off")
    demand(done.returncode != 0 and "Connection refused" in done.stdout + done.stderr,
           f"without its pdudaemon: exit {done.returncode}: {done.stdout}{done.stderr}")
    demand(outlet.exists(), "who switched it?")
    say(began, "m-pdud: without its pdudaemon a command fails, and says why")


def canary(lab):
    """Secrets are in no log, no answer, no journal, no argument, no database."""
    pids = [lab.daemon.pid]
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if int((entry / "stat").read_bytes().rsplit(b")", 1)[1].split()[1]) == lab.daemon.pid:
                pids.append(int(entry.name))
        except OSError:
            pass
    found = []
    for pid in pids:
        try:
            line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        found += [f"argument of {pid}"] * sum(word.encode() in line for word in (PASSWORD, COMMUNITY))
    files = [lab.dir / "log", *(p for p in (lab.dir / "data").rglob("*") if p.is_file())]
    for file in files:
        data = file.read_bytes()
        found += [str(file)] * sum(word.encode() in data for word in (PASSWORD, COMMUNITY))
    for args in (["show", "m-ipmi", "-o", "json"], ["show", "m-redfish", "-o", "json"], ["events", "--all", "-o", "jsonl"], ["admin", "check", "-o", "json"], ["ls", "-o", "json"]):
        out = lab.cli(*args)
        found += [" ".join(args)] * sum(word in out.stdout + out.stderr for word in (PASSWORD, COMMUNITY))
    demand(not found, f"secrets are in {found}")


def main():
    lab, began = Lab(), time.monotonic()
    try:
        lab.start()
        lab.until("the daemon serves", lambda: lab.cli("status").returncode == 0)
        lab.until_well()
        table = lab.cli("admin", "check")
        demand(table.returncode == 0, f"admin check: exit {table.returncode}: {table.stdout}{table.stderr}")
        print(table.stdout)
        canary(lab)
        say(began, "all is well, and secrets are nowhere")
        for parts, words, (harm, mend) in breaks(lab):
            harm()
            try:
                lab.broken(parts, words, began)
            finally:
                mend()
            lab.until_well()
        lab.until("libvirtd has a client that stays", lab.libvirt.keep)
        switched(lab, began)
        canary(lab)
        say(began, "mended each time; secrets are still nowhere")
    except (Wrong, subprocess.TimeoutExpired) as wrong:
        print((lab.dir / "log").read_text()[-3000:])
        print(f"FAILED  admin check: {wrong}")
        sys.exit(1)
    finally:
        lab.end()
    print("ok      admin check: every broken part is named")


if __name__ == "__main__":
    main()
