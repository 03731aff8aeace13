"""A virtual machine with its own firmware, serial line, disk and network
card goes through whole turns, driven as a user would: by the command line.

usage: journey.py direct|http|ipmi|redfish|media|snmp [--kill]

direct and http: a machine of pitstop's own making. The others: one that
stands behind the devices of a lab (wiring.py). Looks at the truth from outside: the raw file of the disk, the processes,
the events. With --kill the daemon is killed in preparation, in use and in
turnaround. Prints one line per step and `ok` or what was wrong."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import wiring  # first: it says where `common` is
import media
from common import Wrong, demand

ROOT = pathlib.Path(__file__).resolve().parents[2]
PITSTOP = os.environ.get("PITSTOP", str(ROOT / "target/release/pitstop"))
ASSETS = pathlib.Path(os.environ["PITSTOP_QEMU_ASSETS"])
PATIENCE = 300  # seconds; emulation on a busy machine is slow
MARKER = b"PITSTOP-MARKER-" + os.urandom(16).hex().encode()
DISK = 256 << 20
RAW_AT = 200 << 20  # behind the image's end: free space to everybody

INVENTORY = """
format = 1
[lab]
name = "qemu-journey"
{controllers}
[machine.vm]
tags              = {{ kind = "vm" }}
{wires}
disk.root         = {{}}
ready.agent       = {{}}
timeout           = {{ power = "30s", firmware = "3m", attach = "2m", reimage = "5m", evidence = "3m" }}
"""


OWN = """power.qemu = {{ memory = "384M", cpus = 1, disk = "{mib}M" }}
console.main.unix = {{}}
boot.{boot} = {{}}"""


class Lab:
    def __init__(self, boot):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="pq"))
        kind = wiring.KINDS.get(boot)
        self.wires = kind(self.dir, DISK) if kind else None
        controllers, wires = self.wires.inventory() if kind else ("", OWN.format(boot=boot, mib=DISK >> 20))
        (self.dir / "inventory.toml").write_text(INVENTORY.format(controllers=controllers, wires=wires))
        agent = self.dir / "data" / "agent"
        agent.mkdir(parents=True)
        for file in (ASSETS / "agent").iterdir():
            os.symlink(file, agent / file.name)
        self.env = dict(os.environ, PITSTOP_SOCKET=str(self.dir / "sock"), PITSTOP_DATA=str(self.dir / "data"))
        self.daemon = None
        self.log = open(self.dir / "log", "ab")

    def start(self):
        args = [PITSTOP, "serve", "--inventory", str(self.dir / "inventory.toml")]
        args += self.wires.serve() if self.wires else []
        self.daemon = subprocess.Popen(args, env=self.env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.until("the daemon serves", lambda: self.cli("status").returncode == 0)

    def kill(self):
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()

    def popen(self, *args, **kw):
        return subprocess.Popen([PITSTOP, *args], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)

    def cli(self, *args, stdin=b""):
        return subprocess.run([PITSTOP, *args], env=self.env, input=stdin, capture_output=True, timeout=PATIENCE)

    def ok(self, *args, stdin=b""):
        done = self.cli(*args, stdin=stdin)
        demand(done.returncode == 0, f"pitstop {' '.join(args)}: exit {done.returncode}: {done.stderr.decode()}")
        return done.stdout

    def machine(self):
        return json.loads(self.ok("show", "vm", "--json"))

    def events(self):
        lines = self.ok("events", "vm", "--all", "-n", "10000", "-o", "jsonl").splitlines()
        return [json.loads(line) for line in lines]

    def until(self, what, look):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = look()
            if found:
                return found
            time.sleep(0.1)
        raise Wrong(f"{what}: not within {PATIENCE} s; {self.cli('why', 'vm').stdout.decode()}")

    def until_phase(self, phase):
        """A phase that was missed was not tested."""
        def look():
            demand(self.machine()["state"] not in ("ready", "in-use", "free"), f"phase {phase} was over before it was seen")
            return self.phase().startswith(phase)
        self.until(f"phase {phase}", look)

    def until_state(self, state):
        return self.until(f"vm is {state}", lambda: self.machine()["state"] == state)

    def qemus(self):
        """Processes that have this lab's machine directory on their command line."""
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"qemu-system" in line.split(b"\0")[0] and str(self.dir).encode() in line:
                parent = int((entry / "stat").read_bytes().rsplit(b")", 1)[1].split()[1])
                found.append((int(entry.name), parent))
        # While it starts, -daemonize has a parent that waits for its child.
        pids = {pid for pid, _ in found}
        return [pid for pid, parent in found if parent not in pids]

    def one_qemu(self):
        """Never two that run on one disk. One that was started while another has the
        disk is refused by the lock on it, and ends by itself at once."""
        end = time.monotonic() + 10
        while len(self.qemus()) > 1:
            demand(time.monotonic() < end, f"two QEMUs on one disk: {self.qemus()}")
            time.sleep(0.05)

    def phase(self):
        """The phase of the turn under way, as the newest record says."""
        entered = [e for e in self.events() if e["kind"] in ("turn-started", "phase-entered", "freed", "machine-ready")]
        return entered[-1]["text"] if entered else ""

    def disk(self):
        files = [p for p in self.dir.rglob("*") if p.is_file() and p.stat().st_size == DISK]
        demand(len(files) == 1, f"one disk file expected, found {files}")
        return files[0]

    def end(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(30)
        if self.wires:
            self.wires.end()
        for pid in self.qemus():
            os.kill(pid, signal.SIGKILL)
        subprocess.run(["rm", "-rf", str(self.dir)], check=True)


def say(began, words):
    print(f"  {time.monotonic() - began:6.1f}s  {words}", flush=True)


def scan(path, image):
    """The whole file: no marker, the image exactly, zeroes behind it."""
    whole = path.read_bytes()
    demand(MARKER not in whole, f"the marker is still on the disk at {whole.find(MARKER)}")
    wanted = image.read_bytes()
    demand(whole[: len(wanted)] == wanted, "the disk does not hold the image exactly")
    demand(not whole[len(wanted) :].strip(b"\0"), "there is something behind the image's end")


def use(lab, began):
    """What a tenant does."""
    said = lab.ok("run", "vm", "--", "uname", "-a")
    demand(b"Linux" in said, f"uname said {said}")
    say(began, f"run uname -a: {said.decode().strip()}")
    demand(lab.cli("run", "vm", "--", "sh", "-c", "exit 7").returncode == 7, "exit 7 did not arrive")
    text = os.urandom(40_000).hex().encode()
    demand(lab.ok("run", "vm", "--", "cat", stdin=text) == text, "standard input did not come back whole")
    talk = lab.popen("run", "vm", "--", "sh", "-c", "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done",
                     stdin=subprocess.DEVNULL)
    demand(talk.stdout.readline() == b"ready\n", "the command did not start")
    talk.send_signal(signal.SIGINT)
    out, _ = talk.communicate(timeout=PATIENCE)
    demand((out, talk.returncode) == (b"caught\n", 5), f"SIGINT: {out} {talk.returncode}")
    say(began, "exit code, standard input and SIGINT pass")
    mark = MARKER.decode()
    lab.ok("run", "vm", "--", "sh", "-c", f"echo {mark} > /marker && sync")
    block = (MARKER + b"\n").ljust(4096, b".")
    lab.ok("run", "vm", "--", "sh", "-c",
           f"cat > /tmp/b && dd if=/tmp/b of=/dev/vda bs=4096 seek={RAW_AT // 4096} conv=notrunc 2>/dev/null && sync", stdin=block)
    demand(MARKER in lab.disk().read_bytes(), "the tenant's marker never reached the disk: the test shows nothing")
    say(began, "marker file and raw marker blocks are on the disk")


def reboot(lab, began, words, *how):
    """The tenant boots the machine himself: still his, seen, no retry."""
    before, seen = lab.machine()["agent"]["boot_id"], len(lab.events())
    lab.ok(*how)
    lab.until("the machine boots again", lambda: (lab.machine().get("agent") or {}).get("boot_id") not in (None, before))
    row = lab.machine()
    demand(row["state"] == "in-use", f"after his own reboot the machine is {row['state']}")
    kinds = [e["event"] if "event" in e else e.get("kind") for e in lab.events()[seen:]]
    demand(not [k for k in kinds if k in ("phase-entered", "phase-failed", "power-intended", "turn-started")],
           f"the reboot was taken for a failure: {kinds}")
    demand(b"test" in lab.ok("run", "vm", "--", "hostname"), "no command runs after the reboot")
    say(began, f"{words}: still his, a new boot id, nothing was retried")


def journey(boot):
    lab, began = Lab(boot), time.monotonic()
    image = ASSETS / "test.img"
    try:
        lab.start()
        lab.ok("admin", "enrol", "kind=vm", "--yes")
        lab.ok("image", "add", "test", str(image))
        lab.ok("reserve", "name=vm", "--image", "test", "--for", "1h")
        say(began, f"reserved, booted by {boot}, disk written and proven, handed over")
        said = lab.ok("console", "vm", "--no-follow")
        demand(b"SeaBIOS" in said or b"iPXE" in said, f"the console missed the firmware: {said[:300]}")
        if boot == "media":
            media.booted(lab)
            say(began, "the boot agent came from the CD in its drive, which is empty now")
        use(lab, began)
        reboot(lab, began, "tenant's reboot", "run", "vm", "--", "sh", "-c", "(sleep 1; reboot) >/dev/null 2>&1 &")
        if boot == "direct":
            reboot(lab, began, "tenant's reset", "power", "vm", "reset")
        lab.ok("release", "vm")
        lab.until_state("free")
        demand(not lab.qemus(), "free, and a QEMU still runs")
        proofs = [e for e in lab.events() if "disk-proven" in json.dumps(e)]
        demand(len(proofs) >= 2, f"{len(proofs)} proofs on record")
        whole = lab.disk().read_bytes()
        demand(MARKER not in whole, "the marker is still on the disk after the turnaround")
        say(began, "released, reimaged, proven; no marker in the whole file")
        lab.ok("reserve", "name=vm", "--want", "bare", "--image", "test", "--for", "1h")
        scan(lab.disk(), image)
        say(began, "the next holder's disk holds the image exactly, zeroes behind it")
        lab.ok("release", "vm")
        lab.until_state("free")
        if boot == "media":
            media.slowly(lab)
            say(began, "a BMC that fetched for longer than timeout.power says was waited for")
            media.overheard(lab)
            say(began, "somebody else asked for the CD: nothing was given out, the attempt was burned, another one went well")
    except Exception:
        print((lab.dir / "log").read_text()[-2000:])
        raise
    finally:
        lab.end()


def killed(boot):
    """kill -9 in preparation, in use and in turnaround."""
    lab, began = Lab(boot), time.monotonic()
    try:
        lab.start()
        lab.ok("admin", "enrol", "kind=vm", "--yes")
        lab.ok("image", "add", "test", str(ASSETS / "test.img"))
        booking = lab.ok("reserve", "name=vm", "--image", "test", "--for", "1h", "--no-wait").decode().split()[0]
        for phase in ("boot agent", "disk", "evidence"):
            lab.until_phase(phase)
            lab.kill()
            lab.one_qemu()
            lab.start()
            say(began, f"killed in phase {phase}")
        lab.ok("reserve", "--resume", booking)
        demand(lab.machine()["health"]["is"] == "good", "quarantined without a fault")
        say(began, f"{booking} is in use all the same")
        use(lab, began)
        boot_id = lab.machine()["agent"]["boot_id"]
        seen = len(lab.events())
        count = lab.popen("run", "vm", "--", "sh", "-c", "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep 0.05; done; exit 9",
                          stdin=subprocess.DEVNULL)
        demand(count.stdout.readline() == b"line 0\n", "the command did not start")
        for _ in range(2):
            lab.kill()
            lab.start()
        out, err = count.communicate(timeout=PATIENCE)
        demand(out == b"".join(b"line %d\n" % i for i in range(1, 200)), f"output is not complete: {out[-200:]} {err}")
        demand(count.returncode == 9, f"exit code {count.returncode}")
        demand(lab.machine()["agent"]["boot_id"] == boot_id, "the machine booted")
        demand(not [e for e in lab.events()[seen:] if "power-intended" in json.dumps(e)], "power was touched in use")
        say(began, "killed twice in use: same boot, the command went on, its output is whole")
        lab.ok("release", "vm")
        for phase in ("boot agent", "disk"):
            lab.until_phase(phase)
            lab.kill()
            lab.one_qemu()
            lab.start()
            say(began, f"killed in turnaround, phase {phase}")
        lab.until_state("free")
        demand(lab.machine()["health"]["is"] == "good", "quarantined without a fault")
        demand(MARKER not in lab.disk().read_bytes(), "the marker is still on the disk after the turnaround")
        say(began, "free and good; no marker in the whole file")
    except Exception:
        print((lab.dir / "log").read_text()[-2000:])
        raise
    finally:
        lab.end()


def main():
    boot, kill = sys.argv[1], "--kill" in sys.argv[2:]
    try:
        killed(boot) if kill else journey(boot)
    except (Wrong, subprocess.TimeoutExpired) as wrong:
        print(f"FAILED  qemu {boot}{' --kill' if kill else ''}: {wrong}")
        sys.exit(1)
    print(f"ok      qemu {boot}{' --kill' if kill else ''}")


if __name__ == "__main__":
    main()
