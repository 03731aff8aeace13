"""A magic packet on the wire. In a network namespace of its own, two ends of a
cable: the daemon wakes a machine through one, and what comes out of the other
is read as frames, as a network card reads them. Prints one line."""

import os
import pathlib
import socket
import subprocess
import tempfile
import threading
import time

PITSTOP = os.environ.get("PITSTOP", str(pathlib.Path(__file__).resolve().parents[2] / "target/release/pitstop"))
PATIENCE = 90  # seconds
MAC = bytes.fromhex("02aabb0cddee")
PASSWORD = bytes.fromhex("002244668899")
ETH_P_ALL = 3

INVENTORY = """format = 1
[lab]
name = "wake"
[machine.sleeper]
power.wol = {{ mac = "{mac}", interface = "lab0", password = {{ file = "{dir}/password" }}, status = ["cat", "{dir}/state"], is_on = "^up$", is_off = "^down$", off = ["cp", "{dir}/down", "{dir}/state"] }}
console = {{}}
boot.power = {{}}
ready.agent = {{}}
"""


class Card(threading.Thread):
    """The sleeping machine's network card: it looks for the packet in each
    frame, wherever in it that is (AMD 20213)."""

    def __init__(self, interface, state):
        super().__init__(daemon=True)
        self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.wire.bind((interface, 0))
        self.state, self.woken_by = state, []

    def run(self):
        while True:
            frame = self.wire.recv(2048)
            if b"\xff" * 6 + MAC * 16 + PASSWORD in frame:
                self.woken_by.append(frame)
                self.state.write_text("up")


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def demand(truth, words):
    if not truth:
        raise SystemExit(f"FAILED  wake: {words}")


def until(truth, words):
    end = time.monotonic() + PATIENCE
    while not truth():
        demand(time.monotonic() < end, f"{words}: not within {PATIENCE} s")
        time.sleep(0.1)


def main():
    ip("link", "set", "lo", "up")
    ip("link", "add", "lab0", "type", "veth", "peer", "name", "card0")
    # Another network, where the packet must not go although the routes say so.
    ip("link", "add", "else0", "type", "veth", "peer", "name", "else1")
    for name in ("lab0", "card0", "else0", "else1"):
        ip("link", "set", name, "up")
    ip("address", "add", "192.0.2.1/24", "dev", "lab0")
    ip("address", "add", "198.51.100.1/24", "dev", "else0")
    ip("route", "add", "default", "dev", "else0")
    with tempfile.TemporaryDirectory(prefix="pw") as name:
        directory = pathlib.Path(name)
        state = directory / "state"
        for file in (state, directory / "down"):
            file.write_text("down")
        (directory / "password").write_text(PASSWORD.hex(":") + "\n")
        (directory / "inventory.toml").write_text(INVENTORY.format(dir=directory, mac=MAC.hex(":")))
        card, bystander = Card("card0", state), Card("else1", directory / "nobody")
        card.start()
        bystander.start()
        env = dict(os.environ, PITSTOP_SOCKET=str(directory / "sock"), PITSTOP_DATA=str(directory / "data"))

        def cli(*words):
            done = subprocess.run([PITSTOP, *words], env=env, capture_output=True, text=True, timeout=PATIENCE)
            return done.returncode, done.stdout + done.stderr

        def ok(*words):
            code, said = cli(*words)
            demand(code == 0, f"{' '.join(words)}: exit {code}: {said}")
            return said

        with open(directory / "log", "ab") as log:
            daemon = subprocess.Popen([PITSTOP, "serve", "--inventory", str(directory / "inventory.toml")], env=env,
                                      stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            until(lambda: cli("status")[0] == 0, "the daemon does not serve")
            ok("admin", "enrol", "sleeper", "--yes")
            ok("reserve", "name=sleeper", "--want", "bare", "--for", "1h")
            demand(not card.woken_by, "it was woken before anybody asked for it")
            ok("power", "sleeper", "on")
            until(lambda: len(card.woken_by) >= 3, "fewer than three packets")
            demand(state.read_text() == "up", "on was read, and it is not up")
            demand(all(frame[:6] == b"\xff" * 6 for frame in card.woken_by), "a frame was not for everybody")
            demand(not bystander.woken_by, "the packet went into another network")
            ok("power", "sleeper", "off")
            demand(state.read_text() == "down", "off was read, and it is not down")
            demand(len(card.woken_by) == 3, f"{len(card.woken_by)} packets for one command")
            out = ok("show", "sleeper", "-o", "json") + ok("events", "--all", "-o", "jsonl")
            demand(PASSWORD.hex(":") not in out, "the password is shown")
        finally:
            daemon.terminate()
            daemon.wait(PATIENCE)
    print("ok: three frames to everybody, through the interface that was named")


main()
