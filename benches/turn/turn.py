"""Turns of a virtual machine, and where their time goes. Started by `run`.

One round is a reservation with an image (a turn that prepares the machine)
and its release (a turn that makes it clean). README.md says what the tables
mean."""

import argparse
import collections
import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/qemu"))
from journey import ASSETS, DISK, PATIENCE, Lab, Wrong, demand  # noqa: E402

LOG = "info,pitstop::loop=debug"
# A line of src/daemon/decide/lag.rs.
DECIDED = re.compile(r'pitstop::loop: decided event="([^"]*)" .* micros=(\d+)')
# A line of the boot agent, stamped with the seconds since its kernel began.
SAID = re.compile(r"\[ *(\d+\.\d{6})\] pitstop-agent: ([^\r\n]*)")
# Milestones of the boot agent: what its line begins or ends with, and what was done by then.
FIRST = "first process"
MILESTONES = [
    ("version ", "its child, the agent, runs"),
    (" modules loaded", "then modules, until all were loaded"),
    ("address ", "then, until it had an address"),
    ("attached as boot agent", "then TLS, until it was attached"),
]


class Follower:
    """The lab's events as they come: nobody asks the daemon while a turn is measured."""

    def __init__(self, lab):
        self.child = lab.popen("events", "vm", "--follow", "--all", "-o", "jsonl", stdin=subprocess.DEVNULL)
        self.events = []
        self.news = threading.Condition()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.child.stdout:
            with self.news:
                self.events.append(json.loads(line))
                self.news.notify_all()

    def until(self, kind, since):
        """The events from `since` on, up to the next of `kind`."""

        def found():
            kinds = [event["kind"] for event in self.events[since:]]
            demand("phase-failed" not in kinds, "a phase failed: this turn measures nothing")
            return kind in kinds

        with self.news:
            demand(self.news.wait_for(found, PATIENCE), f"no {kind} within {PATIENCE} s")
            events = self.events[since:]
        return events[: [event["kind"] for event in events].index(kind) + 1]

    def end(self):
        self.child.terminate()
        self.child.wait()


def seconds(event):
    return datetime.datetime.fromisoformat(event["time"]).timestamp()


def phases(events):
    """Seconds in each phase, in order, from the turn's beginning to the last event; then the whole."""
    story = [e for e in events if e["kind"] in ("turn-started", "phase-entered")]
    demand(story and story[0]["kind"] == "turn-started", "no turn began")
    story[0]["text"] = "off"  # the phase that a turn begins in
    marks = [(e["text"], seconds(e)) for e in story] + [("", seconds(events[-1]))]
    took = collections.OrderedDict()
    for (name, began), (_, ended) in zip(marks, marks[1:]):
        took[name] = took.get(name, 0) + ended - began
    took["whole turn"] = seconds(events[-1]) - seconds(story[0])
    return took


def cpu(pid):
    """Seconds of processor time that all threads of a process used (clock_getcpuclockid(3): finer than the
    clock ticks of /proc/PID/stat, and the same account)."""
    return time.clock_gettime((~pid << 3) | 2)


class Share:
    """What the decision loop says of itself, and the daemon's processor time, since it was asked last."""

    def __init__(self, lab):
        self.lab, self.at, self.used = lab, 0, 0.0

    def take(self):
        text = (self.lab.dir / "log").read_bytes()[self.at :].decode()
        whole = text.rfind("\n") + 1
        self.at += len(text[:whole].encode())
        found = DECIDED.findall(text[:whole])
        # The holder claims the machine when its turn is over.
        waits = [(event, int(micros) / 1000) for event, micros in found if event != "claim"]
        used = cpu(self.lab.daemon.pid)
        spent, self.used = (used - self.used) * 1000, used
        return waits, spent


def boot(lab):
    """Seconds between the milestones of the newest boot of the boot agent, and the whole."""
    text = lab.ok("console", "vm", "--since", "4000000", "--no-follow").decode(errors="replace")
    said = [(float(stamp), words) for stamp, words in SAID.findall(text)]
    first = max((i for i, (_, words) in enumerate(said) if words.startswith(FIRST)), default=None)
    demand(first is not None, f"the console shows no boot agent: {text[-500:]}")
    took = collections.OrderedDict({"kernel, until its first process": said[first][0]})
    before = said[first][0]
    for mark, name in MILESTONES:
        at = next((stamp for stamp, words in said[first:] if mark in words), None)
        demand(at is not None, f"the console shows no `{mark}`: {said[first:]}")
        # An address may come while the last modules load.
        took[name], before = max(at - before, 0), max(at, before)
    took["PID 1 to attached"] = before - said[first][0]
    return took


class Samples:
    """Measurements by name, in the order the names came first."""

    def __init__(self):
        self.by_name = collections.OrderedDict()
        self.rounds = 0

    def add(self, measured):
        self.rounds += 1
        for name, value in measured.items():
            self.by_name.setdefault(name, []).append(value)

    def cell(self, name, digits):
        values = self.by_name.get(name)
        if not values:
            return "–"
        middle, least, most = statistics.median(values), min(values), max(values)
        return f"{middle:.{digits}f} ({least:.{digits}f}–{most:.{digits}f})"


def table(head, rows):
    print(f"| {' | '.join(head)} |")
    print(f"|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


def measure(args):
    turns = {"prepare": Samples(), "turnaround": Samples()}
    shares = {"prepare": Samples(), "turnaround": Samples()}
    each = collections.defaultdict(list)
    boots = Samples()
    lab = Lab(args.boot)
    lab.env["PITSTOP_LOG"] = LOG
    follower = None
    try:
        lab.start()
        lab.ok("admin", "enrol", "kind=vm", "--yes")
        lab.ok("image", "add", "test", str(ASSETS / "test.img"))
        follower, share = Follower(lab), Share(lab)
        for at in range(args.rounds + 1):
            for turn, ask, last in (
                ("prepare", ("reserve", "name=vm", "--image", "test", "--for", "1h"), "machine-ready"),
                ("turnaround", ("release", "vm"), "freed"),
            ):
                since = len(follower.events)
                share.take()
                lab.ok(*ask)
                events = follower.until(last, since)
                waits, spent = share.take()
                took, booted = phases(events), boot(lab)
                print(f"  round {at}, {turn}: {took['whole turn']:.1f} s", file=sys.stderr)
                # The first round finds a machine that nobody knows, and files that nobody has read yet.
                if at == 0:
                    continue
                turns[turn].add(took)
                boots.add(booted)
                demand(waits, "the decision loop says nothing of itself")
                own = [ms for _, ms in waits]
                shares[turn].add({"events": len(own), "sum": sum(own), "longest": max(own), "cpu": spent})
                for event, ms in waits:
                    each[event].append(ms)
    except Exception:
        print((lab.dir / "log").read_text()[-2000:], file=sys.stderr)
        raise
    finally:
        if follower:
            follower.end()
        lab.end()
    return turns, shares, each, boots


def report(args, turns, shares, each, boots):
    size = sum((ASSETS / "agent" / name).stat().st_size for name in ("vmlinuz", "initrd"))
    manifest = json.loads((ASSETS / "agent/manifest.json").read_text())
    print(f"{args.rounds} rounds, boot {args.boot}, QEMU without KVM, disk {DISK >> 20} MiB, image {(ASSETS / 'test.img').stat().st_size >> 20} MiB;")
    print(f"{os.cpu_count()} processors ({platform.machine()}), load {os.getloadavg()[0]:.1f} at the end.")
    print("Median (least–greatest).\n")
    names = list(dict.fromkeys(name for samples in turns.values() for name in samples.by_name))
    names.sort(key=lambda name: name == "whole turn")
    table(["phase, s", "prepare", "turnaround"],
          [[name, *(turns[turn].cell(name, 2) for turn in ("prepare", "turnaround"))] for name in names])
    ours = [("events that led to something", "events", 0), ("Σ arrived → effects left, ms", "sum", 1),
            ("longest of them, ms", "longest", 1), ("daemon's processor time, ms", "cpu", 0)]
    table(["ours", "prepare", "turnaround"],
          [[words, *(shares[turn].cell(name, digits) for turn in ("prepare", "turnaround"))] for words, name, digits in ours])
    order = sorted(each, key=lambda event: -sum(each[event]))
    table(["event", "per turn", "arrived → effects left, ms"],
          [[event, f"{len(each[event]) / (2 * args.rounds):.1f}",
            f"{statistics.median(each[event]):.1f} ({min(each[event]):.1f}–{max(each[event]):.1f})"] for event in order])
    table([f"boot agent, s ({boots.rounds} boots)", "took"], [[name, boots.cell(name, 3)] for name in boots.by_name])
    print(f"Boot image: {size / 2**20:.1f} MiB, {len(manifest['modules'])} modules.")


def main():
    parser = argparse.ArgumentParser(prog="benches/turn/run", description="Where the time of a turn goes.")
    parser.add_argument("--boot", choices=("direct", "http"), default="direct")
    parser.add_argument("--rounds", type=int, default=5, help="after one that does not count (5)")
    parser.add_argument("--usual-modules", action="store_true", help="the boot image as labs have it")
    args = parser.parse_args()
    try:
        report(args, *measure(args))
    except (Wrong, subprocess.TimeoutExpired) as wrong:
        sys.exit(f"benches/turn: {wrong}")


main()
