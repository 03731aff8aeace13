"""`pitstop admin check` on a lab with a machine of each driver, by the
field's own simulators. All is well; then each device is broken in turn, in
each way it can be, and the check must name the broken part with its cause
while it finds nothing wrong with the others. Prints one line per step and
`ok` or what was wrong."""

import shutil
import socket

import common
from canary import Canary
from common import HERE, demand, play, say, until
from simulators import (BenchHost, Bmc, ConsoleServer, Hub, Libvirt, Pdu, Pdudaemon, Plug, RedfishBmc, Sleeper,
                        Terminal, keygen)

# Unique, so that they can be looked for.
PASSWORD, COMMUNITY = "pw-c0ffee17", "cm-decade42"

INVENTORY = """format = 1
[lab]
name = "wires"
{apart}
{machines}
"""
MACHINE = """[machine.{name}]
{power}
{console}
boot.power = {{}}
ready.agent = {{}}
"""


class Lab(common.Lab):
    """The devices, and a daemon whose machines hang on them."""

    def __init__(self):
        super().__init__()
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
        self.bench = BenchHost(self.dir / "bench")
        self.terminals = [Terminal() for _ in range(6)]
        carried = [terminal.connector() for terminal in self.terminals]
        self.server = ConsoleServer(self.dir / "server", list(zip(["telnet(rfc2217),tcp", "telnet,tcp", "tcp", "tcp"], carried)))
        # Serial ports that come and go with a plug: one here, one at the bench host.
        self.links = {4: self.dir / "tty", 5: self.dir / "tty-bench"}
        for at in self.links:
            self.plug_in(at)
        self.script, self.relay = self.dir / "status", self.dir / "relay"
        self.mend_script()
        shutil.copy(HERE / "switch", self.relay)
        self.devices = [self.bmc, self.redfish, self.pdu, self.server, self.plug, self.pdudaemon, self.libvirt, self.bench]
        self.write_inventory()

    def write_inventory(self):
        rfc2217, telnet, raw, other = (f"127.0.0.1:{port}" for port in self.server.ports)
        relay = lambda word: f'["{self.relay}", "{self.dir}", "m-bench", "{word}"]'
        wires = {
            "m-ipmi": (self.bmc.power(), "console.main.sol = {}"),
            "m-redfish": (self.redfish.power(', timeout = "2s"'), f'console.main.tcp = {{ address = "{other}" }}'),
            "m-snmp": ('power.outlet = { controller = "pdu-a", outlet = 7 }', f'console.main.rfc2217 = {{ address = "{rfc2217}" }}'),
            "m-http": (self.plug.power(), f'console.main.telnet = {{ address = "{telnet}" }}'),
            "m-command": (f'power.command = {{ on = ["true"], off = ["true"], status = ["{self.script}"], timeout = "2s" }}',
                          f'console.main.tcp = {{ address = "{raw}" }}'),
            "m-serial": ("power.none = {}", f'console.main.serial = {{ device = "{self.links[4]}" }}'),
            "m-bench": (f'power.command = {{ host = "bench1", on = {relay("on")}, off = {relay("off")}, '
                        f'status = {relay("state")}, is_on = "on", is_off = "off", timeout = "10s" }}',
                        f'console.main.serial = {{ host = "bench1", device = "{self.links[5]}" }}'),
            "m-pdud": (self.pdudaemon.power(5) + '\ntimeout.power = "20s"', "console = {}"),
            "m-libvirt": (self.libvirt.power(), "console = {}"),
            "m-usb": (self.hub.power(2), "console = {}"),
            "m-wol": (self.sleeper.power(), "console = {}"),
        }
        machines = "".join(MACHINE.format(name=name, power=power, console=console)
                           for name, (power, console) in wires.items())
        apart = self.pdu.controller("pdu-a") + self.bench.inventory("bench1")
        self.inventory.write_text(INVENTORY.format(apart=apart, machines=machines))

    def plug_in(self, at):
        self.links[at].unlink(missing_ok=True)
        self.links[at].symlink_to(self.terminals[at].path)

    def mend_script(self, body="exit 0"):
        self.script.write_text(f"#!/bin/sh\n{body}\n")
        self.script.chmod(0o700)

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
        until(f"{parts} fail with “{words}”", look)
        say(began, f"{', '.join(' '.join(part) for part in sorted(parts))}: {words}")


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

    def gone(file):
        whole = file.read_text()

        def back():
            file.write_text(whole)
            file.chmod(0o700)
        return file.unlink, back

    def unplug(at):
        def plug_in():
            lab.terminals[at] = Terminal()
            lab.plug_in(at)
        return (lambda: lab.terminals[at].end()), plug_in

    def another_key():
        stranger = lab.dir / "stranger"
        keygen(stranger)
        return (lambda: lab.bench.allow(stranger)), (lambda: lab.bench.allow(lab.bench.key))

    def another_host():
        own = {file: file.read_text() for file in (lab.bench.host_key, lab.bench.host_key.with_suffix(".pub"))}

        def back():
            lab.bench.end()
            for file, text in own.items():
                file.write_text(text)
            lab.bench.start()
        return lab.bench.renew, back

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
    yield [("m-command", "power")], "no such relay", script("echo no such relay >&2; exit 9")
    yield [("m-command", "power")], "not done within 2 s", script("sleep 600")
    yield [("m-command", "power")], "No such file", gone(lab.script)
    yield [("m-serial", "console main")], "could not open", unplug(4)
    yield carried, "Connection refused", kill(lab.server)
    yield [("m-ipmi", "power"), ("m-ipmi", "console main")], "the BMC does not answer", kill(lab.bmc)
    yield [("m-libvirt", "power")], "Failed to connect socket", kill(lab.libvirt)
    yield [("m-libvirt", "power")], "not done within 2 s", stop(lab.libvirt)
    yield [("m-usb", "power")], "permission problems", write(lab.hub.dir / "permission", "")
    yield [("m-usb", "power")], "cannot read port 2 status", write(lab.hub.dir / "unreadable", "")
    yield [("m-wol", "power")], "cannot tell", write(lab.sleeper.state, "")
    bench = [("m-bench", "power"), ("m-bench", "console main")]
    yield [("m-bench", "power")], "its ssh server gave no answer within 3 s", stop(lab.bench)
    yield bench, "Connection refused", kill(lab.bench)
    yield [("m-bench", "power")], "does not let", another_key()
    yield bench, "its key is not the one that `host_key` says", another_host()
    yield [("m-bench", "power")], "there is no program", gone(lab.relay)
    yield [("m-bench", "console main")], "is it plugged in?", unplug(5)


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


def story(lab, began):
    may = lambda argv: ["BMC"] if argv[0] == "ipmitool" else []
    with Canary(lab, {"BMC": PASSWORD, "PDU": COMMUNITY}, may) as canary:
        lab.start()
        lab.until_well()
        print(lab.ok("admin", "check"))
        say(began, "all is well")
        for parts, words, (harm, mend) in breaks(lab):
            harm()
            try:
                lab.broken(parts, words, began)
            finally:
                mend()
            lab.until_well()
        until("libvirtd has a client that stays", lab.libvirt.keep)
        switched(lab, began)
        canary.demand_silence()
    return "every broken part is named, and secrets are nowhere"


if __name__ == "__main__":
    play("admin check", Lab(), story)
