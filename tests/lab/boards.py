"""Boards that never run our agent: up is what the console, an ssh server or a
program says; an SD switch is put home before each boot. Prints one line per
step and `ok` or what was wrong."""

import socket
import threading

import common
from common import PATIENCE, demand, play, say, until
from wiring import Line, Machine

INVENTORY = """format = 1
[class.board]
power.command = {{ on = ["touch", "{dir}/on-{{name}}"], off = ["rm", "-f", "{dir}/on-{{name}}"], status = ["test", "-e", "{dir}/on-{{name}}"] }}
boot.power = {{}}
timeout = {{ power = "20s" }}
[machine.speaks]
class = "board"
console.main.unix = {{ path = "{dir}/line-speaks" }}
ready.console = {{ line = "^speaks is on$", within = "60s" }}
switch.sd.command = {{ run = ["{mux}", "{dir}/sd", "{{position}}"], positions = ["host", "dut"], read = ["cat", "{dir}/sd"] }}
[machine.mute]
class = "board"
console.main.unix = {{ path = "{dir}/line-mute" }}
ready.console = {{ line = "^READY", within = "3s" }}
[machine.answers]
class = "board"
console = {{}}
ready.ssh = {{ address = "127.0.0.1:{ssh}", within = "60s" }}
[machine.asked]
class = "board"
console = {{}}
ready.command = {{ run = ["test", "-e", "{dir}/up"], within = "60s" }}
[circuit.rack]
max_starting = 1
[machine."rack[1-3]"]
tags = {{ kind = "rack" }}
circuit = "rack"
power.command = {{ on = ["{slow}", "{dir}", "{{name}}"], off = ["rm", "-f", "{dir}/on-{{name}}"], status = ["test", "-e", "{dir}/on-{{name}}"] }}
boot.power = {{}}
console = {{}}
ready.power = {{}}
[machine.powered]
class = "board"
console = {{}}
ready.power = {{}}
"""


class Greeter(threading.Thread):
    """An ssh server while the board has power."""

    def __init__(self, outlet):
        super().__init__(daemon=True)
        self.outlet = outlet
        self.server = socket.create_server(("127.0.0.1", 0))

    def run(self):
        while True:
            peer = self.server.accept()[0]
            if self.outlet.exists():
                peer.sendall(b"SSH-2.0-board\r\n")
            peer.close()


class Lab(common.Lab):
    def __init__(self):
        super().__init__(prefix="pb")
        self.stop = threading.Event()
        self.greeter = Greeter(self.dir / "on-answers")
        self.greeter.start()
        nowhere = "http://127.0.0.1:9"
        Machine("speaks", self.dir / "on-speaks", Line(self.dir / "line-speaks"), nowhere, self.stop).start()
        Machine("mute", self.dir / "on-mute", Line(self.dir / "line-mute"), nowhere, self.stop).start()
        mux = self.dir / "mux"
        mux.write_text('#!/bin/sh\necho "$2" >"$1"\n')
        mux.chmod(0o700)
        slow = self.dir / "slow"
        slow.write_text('#!/bin/sh\nmkdir "$1/starting" || touch "$1/together"\nsleep 0.5\nrmdir "$1/starting"\ntouch "$1/on-$2"\n')
        slow.chmod(0o700)
        (self.dir / "sd").write_text("host\n")
        port = self.greeter.server.getsockname()[1]
        self.inventory.write_text(INVENTORY.format(dir=self.dir, mux=mux, slow=slow, ssh=port))

    def end(self):
        self.stop.set()
        super().end()


def told(lab, machine, words):
    texts = [event["text"] for event in lab.events(machine)]
    demand(any(words in text for text in texts), f"{machine}: nothing says “{words}”: {texts}")


def boards(lab, began):
    lab.start()
    lab.ok("admin", "enrol", "state=new", "--count", "8")
    reserve = ("reserve", "--clean", "any", "--want", "image", "--timeout", "100s")
    refused = lab.cli("reserve", "name=speaks", "--want", "image", "--timeout", "5s")
    demand(refused.returncode == 3 and "proven clean" in refused.stderr, f"a board nobody proves: {refused}")
    lab.ok(*reserve, "name=speaks")
    told(lab, "speaks", "up: console main says: speaks is on")
    demand((lab.dir / "sd").read_text() == "dut\n", "the SD card is the host's still")
    say(began, "a line on the console shows that a board is up; its SD card is its own")
    lab.ok("switch", "speaks", "sd", "host")
    demand((lab.dir / "sd").read_text() == "host\n", "the holder's switch did not move")
    lab.ok("release", "speaks")
    lab.ok(*reserve, "name=speaks")
    demand((lab.dir / "sd").read_text() == "dut\n", "what one holder left is the next one's trouble")
    lab.ok("release", "speaks")
    say(began, "what a holder did to a switch is undone before the next boot")
    lab.ok(*reserve, "name=answers")
    told(lab, "answers", "up: its ssh server answers: SSH-2.0-board")
    lab.ok("release", "answers")
    waiting = lab.begin(*reserve, "name=asked")
    until("asked is switched on", (lab.dir / "on-asked").exists)
    (lab.dir / "up").touch()
    demand(waiting.wait(PATIENCE) == 0, f"asked: {waiting.stderr.read()}")
    lab.ok("release", "asked")
    lab.ok(*reserve, "name=powered")
    lab.ok("release", "powered")
    say(began, "so do an ssh server, a program, and power alone")
    lab.ok(*reserve, "kind=rack", "-n", "3")
    demand(not (lab.dir / "together").exists(), "two machines of a circuit that bears one started together")
    say(began, "no more machines of a circuit start together than it bears")
    # It is the only one that suits, so the reservation waits for it until it may no more.
    failed = lab.cli(*reserve[:-1], "60s", "name=mute")
    demand(failed.returncode == 6 and "quarantined: boot" in failed.stderr, f"a board that never says it: {failed}")
    told(lab, "mute", "nothing of what `ready.console` waits for")
    why = lab.cli("why", "mute").stdout
    demand("console: mute is on" in why, f"what it said instead is not shown: {why}")
    say(began, "a board that never says it fails, with what it said instead")
    return "what shows that they are up, and their switches"


if __name__ == "__main__":
    play("boards", Lab(), boards)
