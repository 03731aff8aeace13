"""Secrets of devices are found nowhere: in no argument and no environment, no
log, no answer, no event, no journal and no database.

`Canary` is what looks, for any test. As a program: a lab with every driver
that takes a secret, each with passwords that are like no other, right ones
and wrong ones, devices that repeat what they are sent in their errors, and
the log at its most talkative. Then something is planted in each place, and
must be found there: a look that finds nothing anywhere shows nothing. Prints
one line per step and `ok` or what was wrong."""

import base64
import http.client
import json
import os
import pathlib
import re
import socket
import subprocess
import threading
import time
import urllib.parse

import common
from common import HERE, demand, play, say, until
from simulators import BenchHost, Bmc, LockedPlug, Pdu, RedfishBmc, Sleeper, Terminal

PAUSE = 0.004  # seconds between two looks at all processes; ipmitool lives for some 30 ms


def forms(secret):
    """A secret as it may stand somewhere: itself, as part of an address, in
    hexadecimal, and inside of something in base64, wherever it begins there."""
    plain = secret.encode()
    yield plain
    yield urllib.parse.quote(secret, safe="").encode()
    yield "".join(f"%{byte:02X}" for byte in plain).encode()
    yield plain.hex().encode()
    yield plain.hex().upper().encode()
    for before in range(3):
        # Characters that also hold bits of what is before or behind it are left out.
        text = base64.b64encode(b"x" * before + plain)
        yield text[(before * 4 + 2) // 3: (before + len(plain)) * 4 // 3]


class ByUnixSocket(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Canary:
    """Looks for secrets (name: text) around a lab's daemon, as long as it is
    entered. `may(argv)` gives the names of those that a program needs and has
    in its environment."""

    def __init__(self, lab, secrets, may=lambda argv: ()):
        self.lab, self.may = lab, may
        self.needles = [(name, form) for name, secret in secrets.items() for form in dict.fromkeys(forms(secret))]
        self.found, self.needed, self.read = set(), set(), 0
        self.stream = bytearray()
        self.over = threading.Event()

    def __enter__(self):
        self.watcher = threading.Thread(target=self.watch_processes, daemon=True)
        self.watcher.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.watcher.join()

    def look(self, place, data):
        for name, form in self.needles:
            if form in data:
                self.found.add((place, name))

    # Processes, all the time

    def watch_processes(self):
        seen = {}
        while not self.over.wait(PAUSE):
            now = {}
            for entry in os.listdir("/proc"):
                if entry.isdigit() and (line := self.arguments(entry, seen.get(entry))):
                    now[entry] = line
            seen = now

    def arguments(self, pid, before):
        """The arguments of a process; they and its environment are looked at
        when they are new."""
        try:
            line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            if line == before or not line:
                return line
            environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
            # It may just have become another program: then that is looked at next time.
            if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() != line:
                return None
        except OSError:
            return None  # it has ended
        argv = line.rstrip(b"\0").decode(errors="replace").split("\0")
        program = pathlib.Path(argv[0]).name
        self.look(f"argument of {program}", line)
        # Our own: some of these secrets come from there.
        if int(pid) == os.getpid() or argv[0] == common.PITSTOP:
            return line
        needs = self.may(argv)
        for name, form in self.needles:
            if form in environment:
                if name in needs:
                    self.needed.add(name)
                else:
                    self.found.add((f"environment of {program}", name))
        return line

    # What the daemon says to those who ask

    def follow(self):
        """Reads the stream of events from now on."""
        ask = socket.socket(socket.AF_UNIX)
        ask.connect(str(self.lab.socket))
        ask.sendall(b"GET /api/v1/events?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n")

        def read():
            while data := ask.recv(65536):
                self.stream += data
        threading.Thread(target=read, daemon=True).start()
        until("the stream begins", lambda: b"snapshot" in self.stream)

    def get(self, path):
        asked = ByUnixSocket(self.lab.socket)
        asked.request("GET", path)
        answer = asked.getresponse()
        body = answer.read()
        asked.close()
        self.look(f"GET {path}", str(answer.headers).encode() + body)
        return answer.status, body

    def ask_everything(self):
        """Every GET that the API describes, for every machine and reservation."""
        rows = json.loads(self.get("/api/v1/machines")[1])["machines"]
        held = json.loads(self.get("/api/v1/reservations")[1])["reservations"]
        machines, reservations = [row["name"] for row in rows], [row["id"] for row in held]
        described = json.loads(self.get("/api/v1/openapi.json")[1])["paths"]
        asked = 0
        for path in ["/metrics", *(path for path, methods in described.items() if "get" in methods)]:
            about = machines + reservations if "{about}" in path else reservations if "{id}" in path else machines
            for name in about if "{" in path else [""]:
                status, _ = self.get(re.sub(r"\{\w+\}", name, path))
                demand(status in (200, 404), f"GET {path} for {name}: {status}")
                asked += status == 200
        demand(asked > 3 * len(machines), f"only {asked} answers were had")
        for words in (["events", "--all"], ["events", "--all", "-o", "jsonl"], ["ls", "-o", "wide"], ["status"], ["report"],
                      *(["show", name] for name in machines), *(["why", name] for name in machines)):
            done = self.lab.cli(*words)
            self.look(f"pitstop {words[0]}", (done.stdout + done.stderr).encode())

    # What it leaves

    def look_around(self):
        """Log, answers, stream and files; what was found so far, anywhere."""
        if self.lab.daemon and self.lab.daemon.poll() is None:
            self.ask_everything()
        self.look("the stream of events", bytes(self.stream))
        self.look("the log", self.lab.log_file.read_bytes())
        for file in self.lab.data.rglob("*"):
            if file.is_file():
                self.look(f"{file.relative_to(self.lab.data)}", file.read_bytes())
        return set(self.found)

    def demand_silence(self):
        found = sorted(self.look_around())
        demand(not found, f"secrets were found: {found}")


# ── The lab with every driver that takes a secret ──

INVENTORY = """format = 1
[lab]
name = "canary"
{apart}
{machines}
"""
MACHINE = """[machine.{name}]
{wires}
boot.power = {{}}
ready.agent = {{}}
timeout.power = "30s"
"""


class Lab(common.Lab):
    def __init__(self):
        unique = lambda what: f"{what}-{os.urandom(5).hex()}"  # 16 characters at most, since some BMCs keep no more
        words = {what: unique(what) for what in ("ipmi", "sol", "bmc", "comm", "auth", "priv", "basic", "dig", "tas", "env", "pass")}
        wrong = {f"wrong {what}": unique("w" + what[:3]) for what in ("ipmi", "sol", "bmc", "comm", "auth", "priv", "basic", "dig", "tas", "pass")}
        super().__init__(env={"CANARY_PLUG": words["env"], "PITSTOP_LOG": "trace"})
        secure_on = os.urandom(6)
        switch = [HERE / "switch", self.dir]
        serial = socket.create_server(("127.0.0.1", 0))
        self.serial = serial
        port = serial.getsockname()[1]
        self.bmc = Bmc(self.dir / "bmc", [*switch, "m-ipmi"], port, words["ipmi"])
        self.sol = Bmc(self.dir / "sol", [*switch, "m-sol"], port, words["sol"])
        self.redfish = RedfishBmc(self.dir / "redfish", [*switch, "m-redfish"], words["bmc"])
        self.pdu = Pdu(self.dir / "pdu", switch, words["comm"], words["auth"], words["priv"])
        self.plugs = {scheme: LockedPlug(self.dir / scheme, scheme, words[word])
                      for scheme, word in (("basic", "basic"), ("digest", "dig"), ("tasmota", "tas"))}
        self.env_plug = LockedPlug(self.dir / "env", "basic", words["env"])
        self.sleeper = Sleeper(self.dir / "sleeper", secure_on)
        self.bench = BenchHost(self.dir / "bench", words["pass"])
        self.terminal = Terminal()
        self.devices = [self.bmc, self.sol, self.redfish, self.pdu, *self.plugs.values(), self.env_plug, self.bench]
        key = self.bench.key.read_text().splitlines()
        self.secrets = {**words, **wrong, "SecureOn": secure_on.hex(":"), "key": key[2], "planted": unique("plant")}
        # Where each is read from, and what is written there to be wrong.
        self.files = {
            self.bmc.password: "ipmi", self.sol.password: "sol", self.redfish.password: "bmc", self.pdu.community: "comm",
            self.pdu.auth: "auth", self.pdu.priv: "priv", self.plugs["basic"].password: "basic",
            self.plugs["digest"].password: "dig", self.plugs["tasmota"].password: "tas", self.bench.passphrase: "pass",
        }
        file = lambda word: f'["{HERE / "switch"}", "{self.dir}", "m-bench", "{word}"]'
        wires = {
            "m-ipmi": f"{self.bmc.power()}\nconsole.main.sol = {self.sol.access()}",
            "m-redfish": self.redfish.power(', timeout = "2s"'),
            "m-snmp": f"power.snmp = {{ {self.pdu.access()}, outlet = 1 }}",
            "m-snmp3": 'power.outlet = { controller = "pdu-a", outlet = 2 }',
            **{f"m-{scheme}": plug.power() for scheme, plug in self.plugs.items()},
            "m-env": self.env_plug.power('{ env = "CANARY_PLUG" }'),
            "m-wol": self.sleeper.power(),
            "m-bench": f'power.command = {{ host = "bench1", on = {file("on")}, off = {file("off")}, '
                       f'status = {file("state")}, is_on = "on", is_off = "off" }}',
            "m-line": f'power.none = {{}}\nconsole.main.serial = {{ device = "{self.terminal.path}" }}',
        }
        self.switched = [name for name in wires if name != "m-line"]
        machines = "".join(MACHINE.format(name=name, wires=text + ("" if "console" in text else "\nconsole = {}"))
                           for name, text in wires.items())
        apart = self.pdu.controller("pdu-a", self.pdu.access_as_user()) + self.bench.inventory("bench1")
        self.inventory.write_text(INVENTORY.format(apart=apart, machines=machines))

    def may(self, argv):
        """ipmitool has the password of the BMC that it asks."""
        if argv[0] != "ipmitool":
            return ()
        asked = [name for name, bmc in (("ipmi", self.bmc), ("sol", self.sol)) if str(bmc.port) in argv]
        return [*asked, *(f"wrong {name}" for name in asked)]

    def switch_all(self, action):
        """Commands them all at once; how each ended."""
        begun = {name: self.begin("power", name, action, "--timeout", "20s") for name in self.switched}
        said = {name: command.communicate(timeout=common.PATIENCE) for name, command in begun.items()}
        return {name: (command.returncode, "".join(said[name])) for name, command in begun.items()}


def story(lab, began):
    with Canary(lab, lab.secrets, lab.may) as canary:
        lab.start()
        canary.follow()
        lab.until_well()
        for name in [*lab.switched, "m-line"]:
            lab.ok("admin", "enrol", name, "--yes")
        for name in lab.switched:
            lab.ok("reserve", f"name={name}", "--want", "bare", "--for", "1h")
        for action in ("on", "off"):
            ended = lab.switch_all(action)
            demand(all(code == 0 for code, _ in ended.values()), f"with the right passwords, {action}: {ended}")
        demand({"ipmi", "sol"} <= canary.needed, f"ipmitool was not seen with its passwords, only {canary.needed}: nothing is shown")
        say(began, f"{len(lab.secrets)} secrets; with the right ones all machines were switched on and off")
        canary.demand_silence()

        right = {file: file.read_text() for file in lab.files}
        for file, name in lab.files.items():
            file.write_text(lab.secrets[f"wrong {name}"] + "\n")
        lab.env_plug.word = "something else"
        refused = [name for name in lab.switched if name != "m-wol"]  # a card says nothing to a wrong password

        def all_refuse():
            rows = lab.check()
            well = [name for name in refused if rows[(name, "power")]["ok"]]
            return True if not well and not rows[("m-ipmi", "console main")]["ok"] else f"{well} are well"
        # The line is held until its session ends.
        lab.sol.end()
        lab.sol.start()
        until("all refuse the wrong passwords", all_refuse)
        ended = lab.switch_all("on")
        demand(all(ended[name][0] != 0 for name in refused), f"with the wrong passwords: {ended}")
        say(began, "with the wrong ones none was")
        canary.demand_silence()

        for file, text in right.items():
            file.write_text(text)
        lab.env_plug.word = lab.secrets["env"]
        for plug in (*lab.plugs.values(), lab.env_plug):
            plug.echo = True
        echoing = ["m-basic", "m-digest", "m-tasmota", "m-env"]
        rows = lab.check(*echoing)
        demand(not any(rows[(name, "power")]["ok"] for name in echoing), f"devices that only repeat are well: {rows}")
        lab.switch_all("on")
        say(began, "devices repeat what they were sent in their errors")
        canary.demand_silence()
        for device in (lab.redfish, lab.bmc, lab.pdu, lab.bench):
            device.stop()
        lab.check()
        for device in (lab.redfish, lab.bmc, lab.pdu, lab.bench):
            device.go_on()
        say(began, "devices hang")
        canary.demand_silence()
        planted(lab, canary)
        say(began, "what was planted was found in each place")
    return f"{len(lab.secrets)} secrets of {len(lab.switched)} machines are nowhere, and what is planted is found everywhere"


def planted(lab, canary):
    """In each place something is found that was put there."""
    word = lab.secrets["planted"]
    before = canary.look_around()
    with_argument = subprocess.Popen(["cat", "-", word], stdin=subprocess.PIPE)
    in_environment = subprocess.Popen(["tail", "-f", "/dev/null"], env={**os.environ, "PLANTED": base64.b64encode(f"x:{word}".encode()).decode()})
    lab.ok("reserve", "name=m-line", "--want", "bare", "--for", "1h", "--reason", word)
    os.write(lab.terminal.machine, f"{word}\r\n".encode())
    wanted = {"argument of cat", "environment of tail", "the stream of events", "the log", "GET /api/v1/machines/m-line",
              "GET /api/v1/events", "GET /api/v1/reservations", "pitstop events"}
    kinds = {"a database": r"\.(db|sqlite)|-wal$", "a journal": r"\.log$"}
    lab.log.write(f"planted: {urllib.parse.quote(word)}\n".encode())
    lab.log.flush()

    def look():
        places = {place for place, name in canary.look_around() - before if name == "planted"}
        missing = wanted - places | {kind for kind, pattern in kinds.items() if not any(re.search(pattern, place) for place in places)}
        return True if not missing else f"not found: {missing}; found: {places}"
    try:
        until("what was planted is found", look)
    finally:
        for process in (with_argument, in_environment):
            process.kill()
            process.wait()


if __name__ == "__main__":
    play("secrets", Lab(), story)
