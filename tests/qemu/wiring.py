"""Machines that stand behind the devices of a lab: a QEMU that pitstop knows
nothing of, switched and heard through them."""

import json
import pathlib
import selectors
import socket
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lab"))
from simulators import Bmc, ConsoleServer, Pdu, RedfishBmc, free_port  # noqa: E402

SECRET = "pw-5e1c77a0"  # unique, so that it can be looked for


class SerialRelay:
    """The machine's serial port on one side, a device that carries it on the
    other. QEMU's port is a new connection at each power-on; the device keeps
    its own, as it would keep the wire."""

    def __init__(self, directory):
        self.device = socket.create_server(("127.0.0.1", 0))
        self.port = self.device.getsockname()[1]
        self.machine = socket.socket(socket.AF_UNIX)
        self.machine.bind(str(directory / "serial"))
        self.machine.listen()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        ends = {"device": None, "machine": None}
        with selectors.DefaultSelector() as waits:
            waits.register(self.device, selectors.EVENT_READ, "device")
            waits.register(self.machine, selectors.EVENT_READ, "machine")
            while True:
                for key, _ in waits.select():
                    side = key.data
                    if key.fileobj in (self.device, self.machine):
                        if ends[side]:
                            waits.unregister(ends[side])
                            ends[side].close()
                        ends[side], _ = key.fileobj.accept()
                        waits.register(ends[side], selectors.EVENT_READ, side)
                        # Whatever else was ready may be closed by now.
                        break
                    try:
                        data = key.fileobj.recv(4096)
                    except OSError:
                        data = b""
                    if not data:
                        waits.unregister(key.fileobj)
                        key.fileobj.close()
                        ends[side] = None
                        break
                    other = ends["machine" if side == "device" else "device"]
                    try:
                        if other:
                            other.sendall(data)
                    except OSError:
                        pass  # its own end is read next


class Wired:
    """The machine itself, its firmware told where to boot from."""

    def __init__(self, directory, disk, name="vm", boot_port=None):
        self.dir = directory / name
        self.dir.mkdir()
        self.boot_port = boot_port or free_port()
        url = f"http://10.0.2.2:{self.boot_port}/boot/{name}/script"
        (self.dir / "machine.json").write_text(json.dumps(
            {"memory": 384, "disk": disk, "url": url, "network_first": self.NETWORK_FIRST}))
        self.relay = SerialRelay(self.dir)
        self.devices = []

    def serve(self):
        """Options that the daemon needs."""
        return ["--boot-port", str(self.boot_port)]

    def machine(self, word):
        """Switches the machine itself, or tells its state, behind the devices' backs."""
        done = subprocess.run([HERE / "machine.py", self.dir, word], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def end(self):
        for device in self.devices:
            device.end()


class Ipmi(Wired):
    """Behind a BMC, serial over LAN included."""
    NETWORK_FIRST = False  # the BMC says when

    def __init__(self, directory, disk, **of_lab):
        super().__init__(directory, disk, **of_lab)
        chassis = [HERE / "machine.py", self.dir, "chassis"]
        self.bmc = Bmc(self.dir / "bmc", chassis, self.relay.port, SECRET)
        self.devices = [self.bmc]

    def inventory(self):
        return "", f'server = "10.0.2.2"\n{self.bmc.power()}\nconsole.main.sol = {{}}\nboot.http = {{}}\n'


class Redfish(Wired):
    """Behind a BMC with Redfish and a port of a console server."""
    NETWORK_FIRST = False  # the BMC says when

    def __init__(self, directory, disk, **of_lab):
        super().__init__(directory, disk, **of_lab)
        self.bmc = RedfishBmc(self.dir / "bmc", [HERE / "machine.py", self.dir, "chassis"], SECRET)
        self.server = ConsoleServer(self.dir / "server", [("tcp", f"tcp,127.0.0.1,{self.relay.port}")])
        self.devices = [self.bmc, self.server]

    def inventory(self):
        return "", (f'server = "10.0.2.2"\n{self.bmc.power()}\n'
                    f'console.main.tcp = {{ address = "127.0.0.1:{self.server.ports[0]}" }}\nboot.http = {{}}\n')


class Media(Redfish):
    """Behind a BMC with Redfish that has a virtual drive, and boots from nothing else of ours."""

    def inventory(self):
        controllers, wires = super().inventory()
        # The BMC is a program of this host; the machine sees the host as 10.0.2.2.
        drive = 'boot.virtual-media = { server = "127.0.0.1", fetch = "2m" }'
        return controllers, wires.replace("boot.http = {}", drive)


class Snmp(Wired):
    """Behind an outlet of a PDU and a port of a console server."""
    NETWORK_FIRST = True  # nobody can tell its firmware otherwise

    def __init__(self, directory, disk, **of_lab):
        super().__init__(directory, disk, **of_lab)
        self.pdu = Pdu(self.dir / "pdu", [HERE / "machine.py", self.dir, "outlet"], SECRET)
        ports = [("telnet(rfc2217),tcp", f"tcp,127.0.0.1,{self.relay.port}")]
        self.server = ConsoleServer(self.dir / "server", ports)
        self.devices = [self.pdu, self.server]

    def inventory(self):
        return (self.pdu.controller("pdu-a"),
                f'server = "10.0.2.2"\npower.outlet = {{ controller = "pdu-a", outlet = 3 }}\n'
                f'console.main.rfc2217 = {{ address = "127.0.0.1:{self.server.ports[0]}" }}\nboot.http = {{}}\n')


KINDS = {"ipmi": Ipmi, "redfish": Redfish, "media": Media, "snmp": Snmp}
