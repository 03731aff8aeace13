#!/usr/bin/env python3
"""A machine as a lab has it: a QEMU that other devices switch, and that
nobody else knows of. It outlives whoever started it.

usage: machine.py DIR on|off|state
       machine.py DIR outlet NUMBER on|off|state
       machine.py DIR chassis [MC] get|set NAME [VALUE] …

`chassis` is what OpenIPMI's ipmi_sim asks of the machine of its BMC. DIR
holds `machine.json` (memory, disk, url: what its network card is told to
boot, network_first: whether it boots from there unless told otherwise), the
disk, and `serial`, a socket that the machine's serial port
connects to when it is switched on. While there is a file `lie`, the devices
that switch it do nothing, and say what that file says: `on` or `off`."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time


class Machine:
    def __init__(self, directory):
        self.dir = pathlib.Path(directory)
        self.pidfile = self.dir / "pid"
        self.lie = self.dir / "lie"

    def pid(self):
        """The process, if it is that: its number may be another's by now."""
        try:
            pid = int(self.pidfile.read_text())
            line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if str(self.pidfile).encode() in line else None

    def state(self):
        """What those say who switch it."""
        return self.lie.read_text() if self.lie.exists() else "on" if self.pid() else "off"

    def switch(self, word):
        """What they do when they are told to."""
        if self.lie.exists():
            self.lie.write_text(word)
        elif word == "on":
            self.on()
        else:
            self.off()

    def on(self):
        if self.pid():
            return
        plan = json.loads((self.dir / "machine.json").read_text())
        disk = self.dir / "disk.img"
        if not disk.exists():
            with open(disk, "wb") as file:
                file.truncate(plan["disk"])
        from_cd = self.boots_from() == "cd"
        network = self.boots_from() == "pxe" or (plan["network_first"] and not from_cd)
        (self.dir / "boot").unlink(missing_ok=True)  # it holds for one boot
        drive = []
        if self.cd():
            drive = ["-drive", f"if=none,id=cd,file={self.cd()},format=raw,media=cdrom,readonly=on",
                     "-device", f"ide-cd,drive=cd,bootindex={0 if from_cd else 9}"]
        card = "virtio-net-pci,netdev=net0"
        card += ",bootindex=0" if network else ",rombar=0"
        subprocess.run(
            ["qemu-system-x86_64", "-machine", "q35,graphics=off", "-accel", "tcg", "-cpu", "max",
             "-m", str(plan["memory"]), "-smp", "1", "-display", "none", "-nodefaults", "-no-user-config",
             "-drive", f"if=none,id=disk,file={disk},format=raw,discard=unmap",
             "-device", "virtio-blk-pci,drive=disk,serial=root,bootindex=1",
             "-netdev", f"user,id=net0,bootfile={plan['url']}", "-device", card,
             "-device", "virtio-rng-pci", *drive,
             "-chardev", f"socket,id=line,path={self.dir}/serial,server=off", "-serial", "chardev:line",
             "-pidfile", str(self.pidfile), "-daemonize"],
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)

    def off(self):
        pid = self.pid()
        if pid:
            os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 20
        while self.pid():
            if time.monotonic() > end:
                sys.exit(f"{pid} does not end")
            time.sleep(0.01)

    def boots_from(self):
        try:
            return (self.dir / "boot").read_text().strip()
        except OSError:
            return "default"

    def cd(self):
        """The file that is in its drive."""
        try:
            return (self.dir / "cd").read_text().strip()
        except OSError:
            return None

    def get(self, name):
        if name == "power":
            return f"power:{1 if self.state() == 'on' else 0}"
        if name == "boot":
            return f"boot:{self.boots_from()}"
        sys.exit(f"there is no {name} to get")

    def set(self, name, value):
        with open(self.dir / "chassis.log", "a") as log:
            print(name, value, file=log)
        if name == "boot":
            (self.dir / "boot").write_text(value)
        elif (name, value) == ("cd", "none"):
            # One that runs keeps what it has open until it is switched off.
            (self.dir / "cd").unlink(missing_ok=True)
        elif name == "cd":
            (self.dir / "cd").write_text(value)
        elif name == "reset" or (name, value) == ("power", "1"):
            if name == "reset":
                self.switch("off")
            self.switch("on")
        elif name == "shutdown" or (name, value) == ("power", "0"):
            self.switch("off")
        else:
            sys.exit(f"{name} cannot be set to {value}")


def main():
    machine, verb, words = Machine(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if verb in ("on", "off"):
        getattr(machine, verb)()
    elif verb == "state":
        print("on" if machine.pid() else "off")
    elif verb == "outlet":
        print(machine.state()) if words[1] == "state" else machine.switch(words[1])
    elif verb == "chassis":
        if words[0].startswith("0x"):
            words = words[1:]
        if words[0] == "get":
            for name in words[1:]:
                print(machine.get(name))
        else:
            for name, value in zip(words[1::2], words[2::2]):
                machine.set(name, value)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
