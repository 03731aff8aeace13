"""What the tests of a lab's devices have in common: a daemon with a directory
of its own, asked as people ask it, and words about what is wrong."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PITSTOP = os.environ.get("PITSTOP", str(HERE.parents[1] / "target/release/pitstop"))
PATIENCE = 180  # seconds; nothing that is waited for takes long, but the computer may be busy


class Wrong(Exception):
    """Something is not as it should be."""


def demand(truth, words):
    if not truth:
        raise Wrong(words)


def say(began, words):
    print(f"  {time.monotonic() - began:6.1f}s  {words}", flush=True)


def until(what, look, patience=PATIENCE):
    """Looks until that gives True; anything else tells what is missing yet."""
    end = time.monotonic() + patience
    while True:
        found = look()
        if found is True:
            return
        demand(time.monotonic() < end, f"{what}: not within {patience} s: {found}")
        time.sleep(0.1)


class Lab:
    """A lab and its daemon. `devices` are ended with it."""

    def __init__(self, prefix="pw", env=None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=prefix))
        self.inventory = self.dir / "inventory.toml"
        self.data, self.socket = self.dir / "data", self.dir / "sock"
        self.log_file = self.dir / "log"
        self.log = open(self.log_file, "ab")
        self.env = dict(os.environ, PITSTOP_SOCKET=str(self.socket), PITSTOP_DATA=str(self.data), **(env or {}))
        self.devices, self.daemon = [], None

    def start(self, *options):
        args = [PITSTOP, "serve", "--inventory", str(self.inventory), *options]
        self.daemon = subprocess.Popen(args, env=self.env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

        def serves():
            demand(self.daemon.poll() is None, "the daemon ended")
            return self.cli("status").returncode == 0
        until("the daemon serves", serves)

    def cli(self, *args):
        return subprocess.run([PITSTOP, *args], env=self.env, capture_output=True, text=True, errors="replace",
                              stdin=subprocess.DEVNULL, timeout=PATIENCE)

    def begin(self, *args):
        """The same, not waited for."""
        return subprocess.Popen([PITSTOP, *args], env=self.env, text=True, errors="replace", stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ok(self, *args):
        done = self.cli(*args)
        demand(done.returncode == 0, f"{' '.join(args)}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def show(self, name):
        return json.loads(self.ok("show", name, "--json"))

    def events(self, name):
        return [json.loads(line) for line in self.ok("events", name, "--all", "-n", "10000", "-o", "jsonl").splitlines()]

    def of_kind(self, name, *kinds):
        return [event for event in self.events(name) if event["kind"] in kinds]

    def until_state(self, name, *states, patience=PATIENCE):
        def look():
            row = self.show(name)
            return row["state"] in states or f"{row['state']}; {self.cli('why', name).stdout}"
        until(f"{name} is {' or '.join(states)}", look, patience)

    def check(self, *machines):
        done = self.cli("admin", "check", "-o", "jsonl", *machines)
        demand(done.returncode in (0, 1), f"admin check: exit {done.returncode}: {done.stderr}")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return {(row["machine"], row["part"]): row for row in rows}

    def until_well(self):
        def look():
            bad = [f"{row['machine']} {row['part']}: {row['says']}" for row in self.check().values() if not row["ok"]]
            return True if not bad else bad
        until("all is well", look)

    def end(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(60)
        for device in self.devices:
            device.end()
        self.log.close()
        subprocess.run(["rm", "-rf", str(self.dir)], check=True)


def play(what, lab, story):
    """Runs a story on a lab, ends the lab, and says how it went; for the last
    lines of a program."""
    try:
        words = story(lab, time.monotonic())
    except (Wrong, subprocess.TimeoutExpired) as wrong:
        print(lab.log_file.read_text(errors="replace")[-3000:])
        print(f"FAILED  {what}: {wrong}")
        sys.exit(1)
    finally:
        lab.end()
    print(f"ok      {what}: {words}")
