#!/usr/bin/env python3
"""usage: outlets.py DIR SWITCH…

Answers snmpd by its pass_persist protocol (snmpd.conf(5)) as an APC rPDU2
would: outlets are switched by `SWITCH… OUTLET on|off` and read by `SWITCH…
OUTLET state`. A file `state` in DIR is what is told instead."""

import pathlib
import subprocess
import sys

COMMAND = ".1.3.6.1.4.1.318.1.1.26.9.2.4.1.5."  # 1 on, 2 off
STATE = ".1.3.6.1.4.1.318.1.1.26.9.2.3.1.5."  # 2 on, 1 off
TOLD = pathlib.Path(sys.argv[1]) / "state"
SWITCH = sys.argv[2:]


def line():
    return sys.stdin.readline().strip()


def say(*words):
    print(*words, sep="\n", flush=True)


def get(oid):
    if oid.startswith(COMMAND):
        return 0
    if not oid.startswith(STATE):
        return None
    if TOLD.exists():
        return int(TOLD.read_text())
    done = subprocess.run([*SWITCH, oid[len(STATE):], "state"], capture_output=True, text=True)
    return {"on": 2, "off": 1}.get(done.stdout.strip())


def put(oid, value):
    word = {"1": "on", "2": "off"}.get(value)
    if not oid.startswith(COMMAND) or word is None:
        return "wrong-value"
    done = subprocess.run([*SWITCH, oid[len(COMMAND):], word])
    return "DONE" if done.returncode == 0 else "inconsistent-value"


while command := sys.stdin.readline():
    command = command.strip()
    if command == "PING":
        say("PONG")
    elif command == "get":
        oid = line()
        value = get(oid)
        say("NONE") if value is None else say(oid, "integer", value)
    elif command == "set":
        oid, value = line(), line().split(" ", 1)[1]
        say(put(oid, value))
    elif command == "getnext":
        line()
        say("NONE")
