"""Programs of the lab's: hooks that leave marks, and boards whose flash is a
file that a program on a bench host (a real sshd) or here writes and reads back.
With `--kill` the daemon is killed with SIGKILL while such programs run. Prints
one line per step and `ok` or what was wrong."""

import pathlib
import signal
import sys

import common
from common import demand, play, say, until
from simulators import BenchHost

INVENTORY = """format = 1
{host}
[class.board]
image = "firmware"
power.command = {{ on = ["touch", "{dir}/on-{{name}}"], off = ["rm", "-f", "{dir}/on-{{name}}"], status = ["test", "-e", "{dir}/on-{{name}}"] }}
console = {{}}
boot.power = {{}}
ready.power = {{}}
timeout = {{ power = "15s" }}
[[class.board.hook.before_power]]
prepare = {{ run = ["{mark}", "{dir}", "before_power", "{{machine}}"], timeout = "30s" }}
[[class.board.hook.after_image]]
fuse = {{ host = "bench1", run = ["{mark}", "{dir}", "after_image", "{{machine}}", "{{image.name}}"], timeout = "30s" }}
soft = {{ run = ["false"], on_error = "warn" }}
[[class.board.hook.before_release]]
fetch = {{ run = ["{mark}", "{dir}", "before_release", "{{machine}}"], timeout = "30s" }}
[[class.board.hook.on_failure]]
tell = {{ run = ["{mark}", "{dir}", "on_failure", "{{machine}}"] }}
[machine.there-1]
class = "board"
reimage.command = {{ host = "bench1", run = ["{write}", "{dir}", "there-1", "{{image}}"], read_back = ["{read}", "{dir}", "there-1"], timeout = "12s" }}
[machine.{second}]
class = "board"
power.command = {{ on = ["touch", "{dir}/on-there-2"], off = ["rm", "-f", "{dir}/on-there-2"], status = ["test", "-e", "{dir}/on-there-2"] }}
reimage.command = {{ host = "bench1", run = ["{write}", "{dir}", "there-2", "{{image}}"], read_back = ["{read}", "{dir}", "there-2"], timeout = "12s" }}
[machine.here-1]
class = "board"
reimage.command = {{ run = ["{write}", "{dir}", "here-1", "{{image}}"], read_back = ["{read}", "{dir}", "here-1"], timeout = "12s" }}
"""

# What each does, and who it is while `hold-WHAT` says that it takes its time.
HOLD = """
hold() { while [ -e "$1" ]; do sleep 0.1; done; }
"""
MARK = "#!/bin/sh" + HOLD + """
echo $$ >"$1/hook-$2-$3.pid"
echo "$2 $4" >>"$1/marks-$3"
hold "$1/hold-$2-$3"
"""
WRITE = "#!/bin/sh" + HOLD + """
echo $$ >"$1/writer-$2.pid"
echo "$3" >>"$1/path-$2"
[ -e "$1/on-$2" ] || { echo "no target: $2 has no power" >&2; exit 1; }
head -c 100 "$3" >"$1/flash-$2"
hold "$1/hold-write-$2"
cp "$3" "$1/flash-$2"
"""
READ = """#!/bin/sh
cat "$1/flash-$2"
[ -e "$1/lie-$2" ] && printf 'not erased'
head -c 4096 /dev/zero | tr '\\\\000' '\\\\377'
"""


class Lab(common.Lab):
    def __init__(self):
        super().__init__(prefix="pp")
        self.bench = BenchHost(self.dir / "bench1")
        self.devices.append(self.bench)
        for name, text in (("mark", MARK), ("write", WRITE), ("read", READ)):
            (self.dir / name).write_text(text)
            (self.dir / name).chmod(0o700)
        self.firmware = bytes(range(256)) * 4000 + b"end"
        (self.dir / "firmware.bin").write_bytes(self.firmware)
        self.write_inventory("there-2")

    def write_inventory(self, second):
        tools = {name: self.dir / name for name in ("mark", "write", "read")}
        self.inventory.write_text(INVENTORY.format(
            host=self.bench.inventory("bench1"), dir=self.dir, second=second, **tools))

    def flash(self, name):
        return self.dir / f"flash-{name}"

    def marks(self, name):
        file = self.dir / f"marks-{name}"
        return file.read_text().split() if file.exists() else []

    def kill(self):
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()

    def pid(self, what):
        """Who runs, once it does."""
        file = self.dir / f"{what}.pid"
        until(f"{what} runs", lambda: file.exists() and file.read_text().strip() != "")
        return file.read_text().strip()

    def says(self, name, words):
        texts = [event["text"] for event in self.events(name)]
        demand(any(words in text for text in texts), f"{name}: nothing says “{words}”: {texts[-30:]}")


def gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() == b""
    except OSError:
        return True


RESERVE = ("reserve", "--clean", "by-command", "--timeout", "170s")


def boards(lab, began):
    lab.start()
    lab.ok("image", "add", "firmware", str(lab.dir / "firmware.bin"))
    lab.ok("admin", "enrol", "state=new", "--count", "3")
    refused = lab.cli("reserve", "name=there-1", "--timeout", "5s")
    demand(refused.returncode == 3 and "proven clean" in refused.stderr, f"a command's word passes for a proof: {refused}")
    lab.ok(*RESERVE, "name=there-1", "--want", "image")
    demand(lab.flash("there-1").read_bytes() == lab.firmware, "the flash is not the image")
    lab.says("there-1", f"by command: {lab.dir}/read on bench1 read back {len(lab.firmware) + 4096} bytes")
    demand(lab.marks("there-1") == ["before_power", "after_image", "firmware"], f"hooks: {lab.marks('there-1')}")
    lab.says("there-1", "▲ hook after_image soft, which only warns")
    say(began, "a board is written and read back on a bench host, with its hooks around that")

    lab.flash("there-1").write_bytes(b"the last holder's bytes")
    lab.ok("release", "there-1")
    lab.until_state("there-1", "free")
    row = lab.show("there-1")
    demand(row["clean"] == "by-command", f"clean: {row['clean']}")
    demand(row["disks"][0]["content"] == "by-command" and "proven" not in row["disks"][0], f"{row['disks']}")
    demand(lab.flash("there-1").read_bytes() == lab.firmware, "the last holder's bytes are still there")
    demand("before_release" in lab.marks("there-1"), f"hooks: {lab.marks('there-1')}")
    lab.ok(*RESERVE, "name=there-1")  # bare
    demand(lab.flash("there-1").read_bytes() == lab.firmware, "a bare board has other bytes")
    lab.ok("release", "there-1")
    lab.until_state("there-1", "free")
    say(began, "what a holder leaves is gone before the next one gets the board, bare or not")

    both = [lab.begin(*RESERVE, f"name={name}", "--want", "image") for name in ("there-1", "there-2")]
    for reservation in both:
        demand(reservation.wait(common.PATIENCE) == 0, f"two boards at once: {reservation.stderr.read()}")
    paths = [set((lab.dir / f"path-{name}").read_text().split()) for name in ("there-1", "there-2")]
    demand(not paths[0] & paths[1], f"two boards share a file: {paths}")
    demand(not any(pathlib.Path(path).exists() for path in paths[0] | paths[1]), f"files are left behind: {paths}")
    for name in ("there-1", "there-2"):
        lab.ok("release", name)
        lab.until_state(name, "free")
    say(began, "two boards of one bench host have a file each, and none is left behind")


def failures(lab, began):
    (lab.dir / "lie-here-1").touch()
    waiting = lab.begin(*RESERVE, "name=here-1")
    lab.until_state("here-1", "quarantined")
    why = lab.cli("why", "here-1").stdout
    demand("disk failure in phase disk" in why and "behind the image" in why, f"why: {why}")
    until("its hook tells of the failure", lambda: "on_failure" in lab.marks("here-1"))
    (lab.dir / "lie-here-1").unlink()
    lab.ok("admin", "prove", "here-1")
    demand(waiting.wait(common.PATIENCE) == 0, f"here-1: {waiting.stderr.read()}")
    lab.ok("release", "here-1")
    lab.until_state("here-1", "free")
    say(began, "what is read back and differs is no image: the board is quarantined, and says why")

    take(lab, "here-1")
    lab.flash("here-1").write_bytes(b"a holder's bytes")
    blobs, away = lab.data / "images" / "blobs", lab.data / "images" / "away"
    blobs.rename(away)
    lab.ok("release", "here-1")

    def told():
        why = lab.cli("why", "here-1").stdout
        return "not its fault" in why or why
    until("the daemon's own disk is blamed", told)
    away.rename(blobs)
    lab.until_state("here-1", "free")
    failed = lab.of_kind("here-1", "phase-failed")
    demand(all("byte" in event["text"] or "behind" in event["text"] for event in failed), f"the board is blamed: {failed}")
    say(began, "an image that the daemon cannot read is not the board's fault, and is tried again")


def kills(lab, began):
    for name, point in (("here-1", "before_power"), ("there-1", "after_image")):
        take(lab, name)
        lab.flash(name).write_bytes(b"a holder's bytes")
        (lab.dir / f"hook-{point}-{name}.pid").unlink(missing_ok=True)
        (lab.dir / f"hold-{point}-{name}").touch()
        lab.ok("release", name)
        pid = lab.pid(f"hook-{point}-{name}")
        why = lab.cli("why", name).stdout
        demand(f"hook {point}" in why and "the limit is `timeout` of the hook" in why, f"why: {why}")
        runs = lab.marks(name).count(point)
        lab.kill()
        until(f"hook {point} of {name} is gone with its daemon", lambda: gone(pid))
        (lab.dir / f"hold-{point}-{name}").unlink()
        lab.start()
        lab.until_state(name, "free")
        demand(lab.marks(name).count(point) > runs, f"the hook was not run again: {lab.marks(name)}")
        lab.says(name, f"✗ hook {point}")
        failed = [event["text"] for event in lab.of_kind(name, "phase-failed")]
        demand(not any("hook" in text for text in failed), f"{name} is blamed for the daemon's death: {failed}")
        demand(lab.show(name)["clean"] == "by-command", f"clean: {lab.show(name)['clean']}")
        say(began, f"a daemon killed during hook {point} of {name} takes it along; the next one runs it again")

    for name in ("here-1", "there-1"):
        take(lab, name)
        (lab.dir / f"writer-{name}.pid").unlink(missing_ok=True)
        lab.flash(name).write_bytes(b"a holder's bytes")
        (lab.dir / f"hold-write-{name}").touch()
        lab.ok("release", name)
        pid = lab.pid(f"writer-{name}")
        demand("its flash is written" in lab.cli("why", name).stdout, f"why: {lab.cli('why', name).stdout}")
        demand(lab.show(name)["clean"] == "writing", f"clean: {lab.show(name)['clean']}")
        lab.kill()
        until(f"the programmer of {name} is gone with its daemon", lambda: gone(pid))
        (lab.dir / f"hold-write-{name}").unlink()
        demand(lab.flash(name).read_bytes() == lab.firmware[:100], "it wrote on")
        lab.start()
        lab.until_state(name, "free")
        demand(lab.flash(name).read_bytes() == lab.firmware, "half an image is left")
        demand(lab.show(name)["clean"] == "by-command", f"clean: {lab.show(name)['clean']}")
        say(began, f"a daemon killed while {name} was written takes the programmer along; it is written again")


def take(lab, name):
    lab.ok(*RESERVE, f"name={name}", "--want", "image")


def renamed(lab, began):
    name = "there-2"
    take(lab, name)
    (lab.dir / f"writer-{name}.pid").unlink(missing_ok=True)
    (lab.dir / f"hold-write-{name}").touch()
    lab.ok("release", name)
    pid = lab.pid(f"writer-{name}")
    lab.write_inventory("there-9")
    lab.ok("admin", "reload")
    until("the programmer is ended under the old name", lambda: gone(pid))
    (lab.dir / f"hold-write-{name}").unlink()
    demand(lab.show("there-9")["state"] == "new", "the new name is in use, and nobody has enrolled it")
    say(began, "a board that gets another name keeps no programmer under the old one")


def programs(lab, began):
    boards(lab, began)
    failures(lab, began)
    if "--kill" in sys.argv[1:]:
        kills(lab, began)
    renamed(lab, began)
    return "hooks, and boards that a program writes and reads back"


if __name__ == "__main__":
    play("programs", Lab(), programs)
