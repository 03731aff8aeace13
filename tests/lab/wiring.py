"""`pitstop admin check --wiring`: a lab of three machines whose cables lead
where the inventory says, and the same lab with cables swapped. The machines
are threads: each looks at the outlet it is plugged into, speaks on its serial
line while it has power, and asks what to boot. Where that is the agent, it
says what the agent would: which machine it is. Prints one line per step and
`ok` or what was wrong."""

import hashlib
import json
import secrets
import signal
import socket
import ssl
import struct
import threading
import time
import urllib.request

import common
from common import demand, play, say

NAMES = ("a", "b", "c")

MACHINE = """[machine.{name}]
power.command = {{ on = ["touch", "{outlet}"], off = ["rm", "-f", "{outlet}"], status = ["test", "-e", "{outlet}"] }}
console.main.unix = {{ path = "{line}" }}
boot.http = {{}}
disk.root = {{}}
ready.agent = {{}}
timeout.power = "20s"
"""


class Line:
    """A serial line: a socket that one reader has."""

    def __init__(self, path):
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()
        self.peer = None
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            self.peer = self.server.accept()[0]

    def say(self, text):
        try:
            if self.peer:
                self.peer.sendall(text.encode())
        except OSError:
            self.peer = None


class Agent:
    """The boot agent of a machine, as far as it looks and says so."""

    def __init__(self, machine, cmdline):
        said = dict(word.removeprefix("pitstop.").split("=", 1) for word in cmdline.split() if word.startswith("pitstop."))
        host, port = said["server"].rsplit(":", 1)
        context = ssl.create_default_context()
        # What is tested here is not whom the agent believes.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        tcp = socket.create_connection((host, int(port)), timeout=10)
        self.stream, self.came = context.wrap_socket(tcp), b""
        self.machine = machine
        self.send({"hello": "attach", "protocol": [1, 1], "version": "test", "kind": "boot", "machine": said["machine"],
                   "nonce": said["nonce"], "boot_id": secrets.token_hex(8), "token": said["token"],
                   "key_hash": hashlib.sha256(b"key").hexdigest()})

    def send(self, message):
        head = json.dumps(message).encode()
        self.stream.sendall(struct.pack(">II", 4 + len(head), len(head)) + head)

    def heard(self):
        """The next message; what came of it before a timeout is kept."""
        while len(self.came) < 8 or len(self.came) < 4 + struct.unpack_from(">I", self.came)[0]:
            more = self.stream.recv(65536)
            if not more:
                raise OSError("the daemon hung up")
            self.came += more
        total, head = struct.unpack_from(">II", self.came)
        message = json.loads(self.came[8:8 + head])
        self.came = self.came[4 + total:]
        return message

    def live(self):
        """Until the daemon hangs up, or the power goes."""
        self.stream.settimeout(1)
        while self.machine.outlet.exists():
            try:
                message = self.heard()
            except TimeoutError:
                self.send({"type": "beat"})
                continue
            if message.get("type") == "do" and message["work"]["work"] == "look":
                self.send({"type": "done", "step": message["step"], "outcome": {"outcome": "seen", **self.machine.found()}})
        self.stream.close()


class Machine(threading.Thread):
    """What hangs on an outlet and a line, whatever the inventory says."""

    def __init__(self, name, outlet, line, boot, stop):
        super().__init__(daemon=True)
        self.name, self.outlet, self.line, self.boot, self.stop = name, outlet, line, boot, stop
        self.serial = f"S-{name}"

    def found(self):
        disk = {"path": "/dev/sda", "bytes": 1 << 30, "serial": f"D-{self.serial}", "bus": "sata"}
        return {"disks": [disk], "macs": [f"52:54:00:00:00:{ord(self.name[0]):02x}"], "memory": 1 << 30, "cpus": 1,
                "serial": self.serial}

    def boots(self, script):
        kernel = [line for line in script.splitlines() if line.startswith("kernel ")]
        if kernel:
            Agent(self, kernel[0]).live()

    def run(self):
        was = False
        while not self.stop.is_set():
            on = self.outlet.exists()
            if on and self.line:
                self.line.say(f"{self.name} is on\r\n")
            if on and not was:
                try:
                    script = urllib.request.urlopen(f"{self.boot}/boot/{self.name}/script", timeout=10).read()
                    self.boots(script.decode())
                except OSError as e:
                    self.line and self.line.say(f"{e}\r\n")
            was = on
            time.sleep(0.1)


class Lab(common.Lab):
    """`outlets` and `lines`: for each machine, whose cable it hangs on; `-` for none."""

    def __init__(self, outlets, lines):
        super().__init__(prefix="pc")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        outlet = {name: self.dir / f"outlet-{name}" for name in NAMES}
        line = {name: Line(self.dir / f"line-{name}") for name in NAMES}
        self.stop = threading.Event()
        boot = f"http://127.0.0.1:{port}"
        self.machines = {name: Machine(name, outlet[on], line.get(speaks), boot, self.stop)
                         for name, on, speaks in zip(NAMES, outlets, lines)}
        for machine in self.machines.values():
            machine.start()
        self.inventory.write_text("format = 1\n" + "".join(
            MACHINE.format(name=name, outlet=outlet[name], line=self.dir / f"line-{name}") for name in NAMES))
        self.port = port

    def wiring(self, *args):
        done = self.cli("admin", "check", "--wiring", "--within", "5s", "-o", "jsonl", *args)
        demand(done.returncode in (0, 1), f"admin check --wiring: exit {done.returncode}: {done.stderr}")
        return done.returncode, [json.loads(row) for row in done.stdout.splitlines()]

    def states(self):
        return {m["name"]: m["state"] for m in json.loads(self.ok("ls", "-o", "json"))["machines"]}

    def end(self):
        self.stop.set()
        super().end()


def told(rows, machine, part, ok, words):
    found = [row["says"] for row in rows if (row["machine"], row["part"], row["ok"]) == (machine, part, ok)]
    demand(any(words in says for says in found), f"{machine} {part} does not say “{words}”: {rows}")


def right(lab, began):
    demand(set(lab.states().values()) == {"new"}, f"not all new: {lab.states()}")
    code, rows = lab.wiring("a", "b", "c")
    demand(code == 0 and all(row["ok"] for row in rows), f"something is wrong with a lab that is right: {rows}")
    demand(len(rows) == 12, f"power, console, boot and agent of three machines: {rows}")
    for name in NAMES:
        told(rows, name, "agent", True, f"serial S-{name}, 52:54:00:00:00:{ord(name):02x}, disk D-S-{name}")
        told(rows, name, "agent", True, "nothing was known of it: recorded")
    demand(set(lab.states().values()) == {"new"}, "they were enrolled by being looked at")
    demand(not any(lab.dir.glob("outlet-*")), "a machine was left on")
    say(began, "a lab as it should be: nothing is wrong, all are off and new as before")
    done = lab.cli("admin", "check", "--wiring", "a")
    demand("asked what to boot" in done.stdout and "as it was enrolled" in done.stdout, done.stdout)
    demand("a  boots our agent" in done.stderr, f"nobody is told how far it is: {done.stderr}")
    print(done.stdout)


def swapped_machine(lab, began):
    code, rows = lab.wiring("a")
    demand(code == 0, f"it is as it should be: {rows}")
    lab.machines["a"].serial = "S-x"
    code, rows = lab.wiring("a")
    demand(code == 1, "nothing was found out")
    told(rows, "a", "boot", True, "asked what to boot")
    told(rows, "a", "agent", False, "its serial number is S-x, was S-a: another machine")
    say(began, "another machine where the enrolled one was: found out by what its agent reports")
    code, rows = lab.wiring("--no-agent", "a")
    demand(code == 0 and len(rows) == 3, f"the agent was booted all the same: {rows}")
    demand(lab.states()["a"] == "new" and not any(lab.dir.glob("outlet-*")), "it was not put back")


def cut_off(lab, began):
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        check = lab.begin("admin", "check", "--wiring", "--within", "60s", "b")
        common.until("b is on", lambda: (lab.dir / "outlet-b").exists())
        check.send_signal(number)
        out, err = check.communicate(timeout=common.PATIENCE)
        demand(check.returncode == code, f"{number.name}: exit {check.returncode}, not {code}: {out}{err}")

        def put_back():
            row = lab.show("b")
            return (not (lab.dir / "outlet-b").exists() and row["state"] == "new" and not row.get("checked_by")) or row
        common.until(f"b is put back after {number.name}", put_back)
        say(began, f"a check that {number.name} ends: the machine is off, and as it was before")


def swapped_outlets(lab, began):
    code, rows = lab.wiring("a")
    demand(code == 1, "nothing was found out")
    told(rows, "a", "console main", False, "b did instead")
    told(rows, "a", "b boot", False, "their power is swapped: look at the cables of a and b")
    say(began, "two outlets swapped: found out by switching one machine")
    code, rows = lab.wiring("c")
    demand(code == 0, f"c is as it should be: {rows}")


def swapped_consoles(lab, began):
    code, rows = lab.wiring("b")
    demand(code == 1, "nothing was found out")
    told(rows, "b", "boot", True, "asked what to boot")
    told(rows, "b", "c console main", False, "their consoles are swapped: look at the cables of b and c")
    say(began, "two consoles swapped: found out by switching one machine")


def dead_line(lab, began):
    code, rows = lab.wiring("c")
    demand(code == 1, "nothing was found out")
    told(rows, "c", "console main", False, "is it plugged in")
    told(rows, "c", "boot", True, "asked what to boot")
    say(began, "a console that is not plugged in: found out")


def cables(check):
    """The check, on a daemon that is started for it."""
    def story(lab, began):
        lab.start("--boot-port", str(lab.port))
        check(lab, began)
        return check.__name__.replace("_", " ")
    return story


if __name__ == "__main__":
    play("wiring", Lab("abc", "abc"), cables(right))
    play("wiring", Lab("bac", "abc"), cables(swapped_outlets))
    play("wiring", Lab("abc", "acb"), cables(swapped_consoles))
    play("wiring", Lab("abc", "ab-"), cables(dead_line))
    play("wiring", Lab("abc", "abc"), cables(swapped_machine))
    play("wiring", Lab("abc", "abc"), cables(cut_off))
    print("ok      wiring: swapped outlets, consoles and machines and a dead line are found out; all is put back")
