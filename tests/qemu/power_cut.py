"""The daemon runs in a virtual machine, its database on the machine's disk,
and the power is cut.

usage: power_cut.py [--rounds N] [--seed N]

QEMU writes every write and every flush of the guest into a log beside the
disk (blklogwrites). SIGKILL takes the guest's memory with all it had not
written; from the log the disk is then put together as a cut leaves it: all
writes before the last flush, and of those after it

    kept   all (a disk whose cache survives),
    lost   none (one whose cache does not), or
    torn   some of them, drawn by lot, the last one cut short.

Clients in the guest say on the serial line what they were told. The next boot
hands the database out as it was found, by another disk; the oracle holds
every answer against it, starts a daemon on a copy and asks it again."""

import argparse
import json
import os
import pathlib
import pwd
import random
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PITSTOP = os.environ.get("PITSTOP", str(ROOT / "target/release/pitstop"))
PATIENCE = 180  # seconds; emulation on a busy machine is slow
DISK = 96 << 20
OUT = 96 << 20
MACHINES = 8

INVENTORY = f"""
format = 1
[lab]
name = "power-cut"
[class.keep]
tags        = {{ kind = "keep" }}
shared      = true
after_build = "keep"
power.none  = {{}}
console     = {{}}
boot.power  = {{}}
ready.agent = {{}}
[machine."keep[1-{MACHINES}]"]
class = "keep"
"""

# First process of the guest. It says on the serial line what clients hear; a line counts when it ends in " ."
INIT = f"""#!/bin/sh
export PATH=/bin PITSTOP_SOCKET=/run/sock PITSTOP_DATA=/data/lab PITSTOP_LOG=error NO_COLOR=1
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t tmpfs run /run; mount -t tmpfs tmp /tmp
while read -r module; do insmod "/modules/$module"; done </modules/order
ip link set lo up
tries=0
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do tries=$((tries+1)); [ $tries -lt 300 ] || poweroff -f; sleep 0.1; done
mount -t ext4 /dev/vda /data || {{ echo "SAY no-mount ."; poweroff -f; }}
mkdir -p /data/lab
sync
tar cf /dev/vdb -C /data lab && sync
echo "SAY handed-out ."
for word in $(cat /proc/cmdline); do case $word in round=*) round=${{word#round=}} ;; esac; done
pitstop serve --inventory /inventory.toml >/dev/ttyS0 2>&1 &
until pitstop status >/dev/null 2>&1; do sleep 0.1; done
pitstop admin enrol kind=keep --count {MACHINES} >/dev/null 2>&1
echo "SAY serves ."
work() {{
    n=0
    while :; do
        n=$((n+1)); key=b$round-w$1-$n
        id=$(pitstop --idempotency-key $key -o name reserve --no-wait kind=keep) || continue
        echo "ACK reserve $key $id ." >/dev/ttyS0
        pitstop --idempotency-key $key-e release $id >/dev/null 2>&1 || continue
        echo "ACK release $key-e $id ." >/dev/ttyS0
    done
}}
# Others write to the same disk and never ask for it to be safe.
echo 10 >/proc/sys/vm/dirty_writeback_centisecs; echo 10 >/proc/sys/vm/dirty_expire_centisecs
noise() {{ while :; do dd if=/dev/urandom of=/data/noise bs=16k count=16 2>/dev/null; done }}
noise & for w in 1 2 3; do work $w & done
wait
"""

# Buses and disks.
MODULES = ["virtio_pci", "virtio_blk", "virtio_rng"]


class Wrong(Exception):
    pass


def demand(truth, words):
    if not truth:
        raise Wrong(words)


def output(*args, **kw):
    return subprocess.run(args, check=True, capture_output=True, text=True, **kw).stdout


# ── what boots ──


def libraries(program):
    """What a dynamic program needs, with its loader."""
    found = []
    for line in output("ldd", program).splitlines():
        found += [word for word in line.split() if word.startswith("/")]
    return found


def modules(tree):
    """Files of modules, each after those it needs."""
    version = next((tree / "lib/modules").iterdir()).name
    tables = pathlib.Path(tempfile.mkdtemp(prefix="pqm"))
    (tables / "lib/modules").mkdir(parents=True)
    shutil.copytree(tree / "lib/modules" / version, tables / "lib/modules" / version)
    subprocess.run(["depmod", "-b", tables, version], check=True)
    order = []
    for module in MODULES:
        shown = subprocess.run(["modprobe", "-d", tables, "-S", version, "--show-depends", module], capture_output=True, text=True)
        for line in shown.stdout.splitlines():
            word = line.split()
            if word[0] == "insmod" and word[1] not in order:
                order.append(word[1])
    return tables, order


def make_initrd(tree, into):
    root = into / "root"
    for name in ("bin", "dev", "proc", "sys", "run", "tmp", "data", "modules", "lib64", "etc"):
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    shutil.copy(busybox, root / "bin/busybox")
    for applet in output(busybox, "--list").split():
        if not (root / "bin" / applet).exists():
            os.symlink("busybox", root / "bin" / applet)
    shutil.copy(PITSTOP, root / "bin/pitstop")
    for library in libraries(PITSTOP):
        place = root / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)
    tables, order = modules(tree)
    for path in order:
        shutil.copy(path, root / "modules")
    shutil.rmtree(tables)
    (root / "modules/order").write_text("".join(f"{pathlib.Path(p).name}\n" for p in order))
    # Keys are their owner's: here he has the name that he has outside.
    (root / "etc/passwd").write_text(f"{pwd.getpwuid(os.geteuid()).pw_name}:x:0:0::/:/bin/sh\n")
    (root / "inventory.toml").write_text(INVENTORY)
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    names = output("find", ".", cwd=root)
    with open(into / "initrd", "wb") as out:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], input=names.encode(), stdout=out, cwd=root, check=True)
    return into / "initrd"


# ── the machine ──


class Machine:
    """A boot of the guest, until its power is cut."""

    def __init__(self, dir, kernel, initrd, round):
        self.dir, self.lines, self.acks = dir, [], []
        self.log = dir / "writes"
        self.log.write_bytes(b"")
        (dir / "out").write_bytes(b"")
        os.truncate(dir / "out", OUT)
        base = f"driver=file,node-name=base,filename={dir}/disk"
        log = f"driver=file,node-name=log,filename={self.log}"
        logged = "driver=blklogwrites,node-name=disk,file=base,log=log,log-sector-size=512"
        out = f"driver=file,node-name=out,filename={dir}/out"
        self.qemu = subprocess.Popen(
            ["qemu-system-x86_64", "-M", "q35,accel=tcg", "-cpu", "max", "-m", "512M", "-smp", "1", "-nodefaults", "-display", "none",
             "-no-reboot", "-serial", "stdio", "-kernel", kernel, "-initrd", initrd,
             "-append", f"console=ttyS0 quiet panic=-1 round={round}",
             "-blockdev", base, "-blockdev", log, "-blockdev", logged, "-blockdev", out,
             "-device", "virtio-blk-pci,drive=disk,write-cache=on", "-device", "virtio-blk-pci,drive=out",
             "-object", "rng-random,id=r,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=r"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for raw in self.qemu.stdout:
            line = raw.decode(errors="replace").strip()
            self.lines.append(line)
            said = re.search(r"ACK (reserve|release) (\S+) (R-\d+) \.$", line)
            if said:
                self.acks.append(said.groups())

    def until(self, what, look):
        end = time.monotonic() + PATIENCE
        while not look():
            demand(self.qemu.poll() is None, f"the guest ended before {what}:\n" + "\n".join(self.lines[-20:]))
            demand(time.monotonic() < end, f"not within {PATIENCE} s: {what}\n" + "\n".join(self.lines[-20:]))
            time.sleep(0.002)

    def says(self, word):
        self.until(word, lambda: any(f"SAY {word} ." in line for line in self.lines))

    def cut(self):
        """All that the guest had not written is gone."""
        self.qemu.send_signal(signal.SIGKILL)
        self.qemu.wait()
        self.reader.join()


# ── the disk after the cut ──

FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


def entries(log):
    """The entries of a dm-log-writes log: sector, count, flags, data."""
    magic, version, count, size = struct.unpack("<QQQI", log.read(28))
    demand(magic == 0x6A736677736872 and version == 1, "the log of writes is none")
    at = size
    while True:
        log.seek(at)
        head = log.read(32)
        # The counter in front is written late; an entry that is whole counts.
        if len(head) < 32:
            return
        sector, sectors, flags, length = struct.unpack("<QQQQ", head)
        if (sector, sectors, flags, length) == (0, 0, 0, 0) or flags >= 16:
            return
        at += size + (length + size - 1) // size * size
        data = b""
        if not flags & DISCARD and sectors:
            log.seek(at)
            data = log.read(sectors * 512)
            if len(data) < sectors * 512:
                return
            at += (sectors * 512 + size - 1) // size * size
        yield sector, sectors, flags, data


def put_together(before, log, how, draw):
    """Makes of the disk as it was before the boot the disk after the cut."""
    with open(log, "rb") as file:
        writes = list(entries(file))
    flushes = [n for n, (_, _, flags, _) in enumerate(writes) if flags & FLUSH]
    safe = flushes[-1] if flushes else 0
    after = [n for n in range(safe, len(writes)) if writes[n][3]]
    chosen = {"kept": after, "lost": [], "torn": sorted(draw.sample(after, len(after) // 2))}[how]
    torn = chosen[-1] if how == "torn" and chosen else None
    with open(before, "r+b") as disk:
        for n, (sector, sectors, flags, data) in enumerate(writes):
            if n >= safe and n not in chosen and not flags & FUA:
                continue
            if flags & DISCARD:
                data = b"\0" * (sectors * 512)
            if n == torn and sectors > 1:
                data = data[: draw.randrange(1, sectors) * 512]
            if data:
                disk.seek(sector * 512)
                disk.write(data)
    return len(flushes), len(after), len(after) - len(chosen)


# ── the oracle ──


def check(dir, acks):
    """Everything that was acknowledged before the cut, in the database that the next boot found."""
    found = dir / "found"
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir()
    subprocess.run(["tar", "xf", dir / "out", "-C", found], check=True)
    database = found / "lab/lab.db"
    if not acks and not database.exists():
        return 0
    db = sqlite3.connect(database)
    demand(db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "the database is damaged")
    numbers = [n for (n,) in db.execute("SELECT number FROM record ORDER BY number")]
    demand(numbers == list(range(1, len(numbers) + 1)), "a record is missing, or there twice")
    (newest,) = db.execute("SELECT records FROM meta").fetchone()
    demand(newest == len(numbers), f"the newest record is {len(numbers)}, and {newest} are counted")
    records = [json.loads(text)["change"] for (text,) in db.execute("SELECT json FROM record")]
    keys = {r["key"]: r["answer"] for r in records if r["change"] == "key-remembered"}
    queued = {r["reservation"] for r in records if r["change"] == "queued"}
    ended = {r["reservation"] for r in records if r["change"] == "ended"}
    rows = [json.loads(text) for (text,) in db.execute("SELECT row FROM reservation")]
    ended_rows = {row["id"] for row in rows if row["status"]["status"] == "ended"}
    forgotten = {r["reservation"] for r in records if r["change"] == "reservation-forgotten"}
    demand({row["id"] for row in rows} == queued - forgotten, "the rows are not those of the records")
    demand(ended_rows == ended - forgotten, "a row is not where its records lead")
    db.close()
    for verb, key, id in acks:
        number = int(id[2:])
        happened = number in (queued if verb == "reserve" else ended)
        demand(happened, f"acknowledged and lost: {verb} {id} under {key}")
        demand(key in keys and keys[key]["reservation"] == id, f"key {key} was answered with {id}, and is {keys.get(key)}")
    return len(acks)


def ask_again(dir, acks, draw):
    """A daemon on a copy of what was found gives the same answers."""
    inventory, lab = dir / "inventory.toml", dir / "found/lab"
    inventory.write_text(INVENTORY)
    env = dict(os.environ, PITSTOP_SOCKET=str(dir / "sock"), PITSTOP_DATA=str(lab), PITSTOP_LOG="error", NO_COLOR="1")
    daemon = subprocess.Popen([PITSTOP, "serve", "--inventory", inventory], env=env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        run = lambda *args: subprocess.run([PITSTOP, *args], env=env, capture_output=True, text=True, timeout=PATIENCE)
        end = time.monotonic() + PATIENCE
        while run("status").returncode:
            demand(daemon.poll() is None and time.monotonic() < end, "no daemon starts on what was left")
            time.sleep(0.05)
        reserves = [(key, id) for verb, key, id in acks if verb == "reserve"]
        for key, id in draw.sample(reserves, min(len(reserves), 20)):
            again = run("--idempotency-key", key, "-o", "name", "reserve", "--no-wait", "kind=keep")
            demand(again.stdout.strip() == id, f"{key} was {id}, and is now {again.stdout} {again.stderr}")
    finally:
        daemon.kill()
        daemon.wait()


def oracle_can_object(dir, acks):
    """Told of an answer that never was, it must say so."""
    for lie in (("reserve", "never-asked", "R-999999"), ("release", acks[0][1], "R-999999")):
        try:
            check(dir, acks + [lie])
        except Wrong:
            continue
        raise AssertionError(f"the oracle believed {lie}")


def rounds(count, seed, dir, say):
    draw = random.Random(seed)
    tree = pathlib.Path(output(ROOT / "tests/images/fetch-kernel").strip())
    version = next((tree / "lib/modules").iterdir()).name
    kernel, initrd = tree / f"boot/vmlinuz-{version}", make_initrd(tree, dir)
    disk = dir / "disk"
    disk.write_bytes(b"")
    os.truncate(disk, DISK)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", disk], check=True,
                   env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"))
    acks, checked, figures = [], 0, {"rounds": 0, "answers": 0, "flushes": 0, "writes_lost": 0}
    for number in range(count + 1):
        shutil.copy(disk, dir / "before")
        guest = Machine(dir, kernel, initrd, number)
        try:
            guest.says("handed-out")
            if number:
                checked += check(dir, acks)
                ask_again(dir, acks, draw)
                oracle_can_object(dir, acks)
            if number == count:
                break
            guest.says("serves")
            wanted = draw.randrange(5, 60)
            guest.until(f"{wanted} answers", lambda: len(guest.acks) >= wanted)
            time.sleep(draw.random() * 0.3)
        finally:
            guest.cut()
        how = ("kept", "lost", "torn")[number % 3]
        shutil.copy(dir / "before", disk)
        flushes, after, lost = put_together(disk, guest.log, how, draw)
        acks += guest.acks
        figures["rounds"] += 1
        figures["flushes"] += flushes
        figures["writes_lost"] += lost
        say(f"cut {number + 1}: {len(guest.acks)} answers; {flushes} flushes, {after} writes after the last, {lost} of them lost ({how})")
    demand(figures["flushes"] > 0 and figures["writes_lost"] > 0, f"nothing was ever lost: this shows nothing: {figures}")
    figures["answers"] = len(acks)
    return figures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    args = parser.parse_args()
    dir = pathlib.Path(tempfile.mkdtemp(prefix="pc"))
    began = time.monotonic()
    say = lambda words: print(f"  {time.monotonic() - began:6.1f}s  {words}", flush=True)
    try:
        figures = rounds(args.rounds, args.seed, dir, say)
    except (Wrong, subprocess.SubprocessError) as wrong:
        print(f"FAILED  power cut, seed {args.seed}: {wrong}")
        sys.exit(1)
    finally:
        shutil.rmtree(dir, ignore_errors=True)
    print(f"ok      power cut {figures['rounds']} times, {figures['answers']} answers kept; {figures['writes_lost']} writes were lost "
          f"after {figures['flushes']} flushes; seed {args.seed}")


if __name__ == "__main__":
    main()
