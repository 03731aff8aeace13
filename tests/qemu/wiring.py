"""What stands between pitstop and a machine that is not its own: the devices
of a lab, each by the field's own simulator."""

import json
import pathlib
import selectors
import socket
import subprocess
import threading

HERE = pathlib.Path(__file__).resolve().parent
PASSWORD = "pw-5e1c77a0"  # unique, so that it can be looked for


def free_port(kind):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


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
                        continue
                    try:
                        data = key.fileobj.recv(4096)
                    except OSError:
                        data = b""
                    if not data:
                        waits.unregister(key.fileobj)
                        key.fileobj.close()
                        ends[side] = None
                        continue
                    other = ends["machine" if side == "device" else "device"]
                    try:
                        if other:
                            other.sendall(data)
                    except OSError:
                        pass  # its own end is read next


class Ipmi:
    """A machine behind a BMC: OpenIPMI's ipmi_sim, serial over LAN included."""

    def __init__(self, directory, disk):
        self.dir = directory / "vm"
        self.dir.mkdir()
        self.boot_port = free_port(socket.SOCK_STREAM)
        url = f"http://10.0.2.2:{self.boot_port}/boot/vm/script"
        (self.dir / "machine.json").write_text(json.dumps({"memory": 384, "disk": disk, "url": url}))
        self.relay = SerialRelay(self.dir)
        self.port = free_port(socket.SOCK_DGRAM)
        (self.dir / "password").write_text(PASSWORD + "\n")
        auths = "none md2 md5 straight"
        levels = "".join(f"allowed_auths_{level} {auths}\n" for level in ("callback", "user", "operator", "admin"))
        (self.dir / "lan.conf").write_text(
            f'name "bmc"\nset_working_mc 0x20\nstartlan 1\naddr 127.0.0.1 {self.port}\npriv_limit admin\n{levels}'
            f'guid a123456789abcdefa123456789abcdef\nendlan\nsol "tcp:127.0.0.1:{self.relay.port}" 115200\n'
            f'chassis_control "{HERE / "machine.py"} {self.dir} chassis"\n'
            f'user 1 true "" "nobody" user 10 {auths}\nuser 2 true "admin" "{PASSWORD}" admin 10 {auths}\n')
        (self.dir / "emu").write_text(
            "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n")
        (self.dir / "state").mkdir()
        self.log = open(self.dir / "bmc.log", "ab")
        self.bmc = None
        self.start()

    def start(self):
        self.bmc = subprocess.Popen(["ipmi_sim", "-c", "lan.conf", "-f", "emu", "-s", "state", "-n"], cwd=self.dir,
                                    stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def inventory(self):
        return (f'server = "10.0.2.2"\n'
                f'power.ipmi = {{ address = "127.0.0.1:{self.port}", user = "admin", '
                f'password = {{ file = "{self.dir}/password" }}, cipher = 3 }}\n'
                f"console.main.sol = {{}}\nboot.http = {{}}\n")

    def serve(self):
        """Options that the daemon needs."""
        return ["--boot-port", str(self.boot_port)]

    def end(self):
        self.bmc.kill()
        self.bmc.wait()


KINDS = {"ipmi": Ipmi}
