"""The devices of a lab, each by the field's own simulator or server. They
listen on loopback, keep their files in a directory that is given to them, and
end with `end()`."""

import base64
import getpass
import hashlib
import http.server
import json
import os
import pathlib
import re
import shlex
import signal
import socket
import struct
import subprocess
import threading
import time
import tty
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Process:
    """A program that runs until it is ended."""

    def __init__(self, directory, argv, env=None):
        self.dir, self.argv, self.env = directory, argv, {**os.environ, **(env or {})}
        self.log = open(directory / "log", "ab")
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.argv, cwd=self.dir, env=self.env, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)

    def stop(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        self.process.kill()
        self.process.wait()


def wait_for_port(port, device):
    end = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if device.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{device.argv[0]} does not serve: {(device.dir / 'log').read_text()[-2000:]}") from None
            time.sleep(0.05)


class Bmc(Process):
    """OpenIPMI's ipmi_sim: `chassis get|set …` is asked of `chassis`, a list
    of words, and the serial line is at a TCP port of loopback."""

    def __init__(self, directory, chassis, serial_port, password):
        directory.mkdir()
        self.port = free_port(socket.SOCK_DGRAM)
        self.password = directory / "password"
        self.password.write_text(password + "\n")
        auths = "none md2 md5 straight"
        levels = "".join(f"allowed_auths_{level} {auths}\n" for level in ("callback", "user", "operator", "admin"))
        (directory / "lan.conf").write_text(
            f'name "bmc"\nset_working_mc 0x20\nstartlan 1\naddr 127.0.0.1 {self.port}\npriv_limit admin\n{levels}'
            f'guid a123456789abcdefa123456789abcdef\nendlan\nsol "tcp:127.0.0.1:{serial_port}" 115200\n'
            f'chassis_control "{" ".join(map(str, chassis))}"\n'
            f'user 1 true "" "nobody" user 10 {auths}\nuser 2 true "admin" "{password}" admin 10 {auths}\n')
        (directory / "emu").write_text(
            "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n")
        (directory / "state").mkdir()
        super().__init__(directory, ["ipmi_sim", "-c", "lan.conf", "-f", "emu", "-s", "state", "-n"])

    def power(self):
        return f"power.ipmi = {self.access()}"

    def access(self):
        return (f'{{ address = "127.0.0.1:{self.port}", user = "admin", '
                f'password = {{ file = "{self.password}" }}, cipher = 3 }}')

    def take_sessions(self):
        """Begins sessions until the BMC has none left, as clients do that
        never come back to end theirs; how many that took. (IPMI 2.0, 13.17:
        Open Session Request; cipher suite 3.)"""
        algorithms = b"".join(bytes([kind, 0, 0, 8, 1, 0, 0, 0]) for kind in range(3))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", self.port))
            client.settimeout(10)
            for count in range(1000):
                payload = struct.pack("<BBHI", count & 0xFF, 0, 0, count + 1) + algorithms
                client.send(bytes([6, 0, 0xFF, 7, 6, 0x10]) + bytes(8) + struct.pack("<H", len(payload)) + payload)
                # Message tag, then the status code, behind the headers.
                if client.recv(1024)[17] == 1:  # insufficient resources to create a session
                    return count
        raise RuntimeError("a BMC without end")


class RedfishBmc(Process):
    """sushy-tools' emulator with a certificate it signed itself; `chassis` is
    asked as that of Bmc. A file `fault` makes it answer that (redfish.py)."""

    PYTHON = HERE.parent / ".cache" / "sushy" / "bin" / "python3"  # by tests/lab/sushy
    SYSTEM = "8e2f6b0a-5c1d-4f7e-9a30-7d1f0c5e1c77"  # of redfish.py

    def __init__(self, directory, chassis, password):
        directory.mkdir()
        self.port = free_port()
        self.password = directory / "password"
        self.password.write_text(password + "\n")
        self.fault = directory / "fault"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-subj", "/CN=bmc", "-days", "2", "-keyout", directory / "key.pem", "-out", directory / "cert.pem"],
                       check=True, capture_output=True)
        printed = subprocess.run(["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", directory / "cert.pem"],
                                 check=True, capture_output=True, text=True).stdout
        self.fingerprint = printed.strip().split("=")[1]
        super().__init__(directory, list(map(str, [self.PYTHON, HERE / "redfish.py", directory, self.port, *chassis])))

    def start(self):
        super().start()
        wait_for_port(self.port, self)

    def power(self, more=""):
        return (f'power.redfish = {{ address = "127.0.0.1:{self.port}", user = "admin", '
                f'password = {{ file = "{self.password}" }}, fingerprint = "{self.fingerprint}"{more} }}')


class Pdu(Process):
    """net-snmp's snmpd with outlets as APC's newer PDUs have them; `switch` is
    a list of words that `OUTLET on|off|state` is added to. With the passwords
    `auth` and `priv` it has a user of SNMPv3 too."""

    def __init__(self, directory, switch, community, auth=None, priv=None):
        directory.mkdir()
        self.port = free_port(socket.SOCK_DGRAM)
        self.community, self.auth, self.priv = directory / "community", directory / "auth", directory / "priv"
        self.community.write_text(community + "\n")
        user = ""
        if auth:
            self.auth.write_text(auth + "\n")
            self.priv.write_text(priv + "\n")
            user = f"createUser admin SHA-256 {auth} AES {priv}\nrwuser admin priv\n"
        persistent = directory / "persistent"
        persistent.mkdir()
        words = " ".join(shlex.quote(str(word)) for word in [HERE / "outlets.py", directory, *switch])
        (directory / "snmpd.conf").write_text(
            f"agentaddress udp:127.0.0.1:{self.port}\nrwcommunity {community}\n{user}pass_persist .1.3.6.1.4.1.318 {words}\n")
        super().__init__(directory, ["/usr/sbin/snmpd", "-f", "-C", "-c", "snmpd.conf", "-Lo"],
                         {"SNMP_PERSISTENT_DIR": str(persistent)})

    def access(self):
        return f'profile = "apc-rpdu2", address = "127.0.0.1:{self.port}", community = {{ file = "{self.community}" }}'

    def access_as_user(self):
        return (f'profile = "apc-rpdu2", address = "127.0.0.1:{self.port}", user = "admin", auth = "sha256", '
                f'auth_password = {{ file = "{self.auth}" }}, priv_password = {{ file = "{self.priv}" }}')

    def controller(self, name, access=None):
        return f"[controller.{name}]\nsnmp = {{ {access or self.access()} }}\n"


class Pdudaemon(Process):
    """pdudaemon from PyPI; outlet N of its PDU `bench` is the file `on-N`."""

    def __init__(self, directory):
        directory.mkdir()
        self.port = free_port()
        conf = {"daemon": {"hostname": "127.0.0.1", "port": self.port, "listener": "http"},
                "pdus": {"bench": {"driver": "localcmdline", "cmd_on": f"touch {directory}/on-%s",
                                   "cmd_off": f"rm -f {directory}/on-%s"}}}
        (directory / "conf").write_text(json.dumps(conf))
        fetched = subprocess.run([HERE / "fetch-pdudaemon"], capture_output=True, text=True, check=True)
        tree = fetched.stdout.strip()
        super().__init__(directory, ["/usr/bin/python3", f"{tree}/bin/pdudaemon", "--conf", "conf"], {"PYTHONPATH": tree})

    def power(self, outlet):
        return (f'power.pdudaemon = {{ address = "127.0.0.1:{self.port}", hostname = "bench", outlet = {outlet}, '
                f'status = ["test", "-e", "{self.dir}/on-{outlet}"] }}')


class Libvirt(Process):
    """libvirtd with its own test hypervisor, whose domain is `test`."""

    def __init__(self, directory):
        directory.mkdir()
        (directory / "conf").write_text(f'unix_sock_dir = "{directory}"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n')
        self.uri, self.keeper = f"test+unix:///default?socket={directory}/libvirt-sock", None
        homes = {name: str(directory) for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
        # No other driver: each would look for its own daemons and devices.
        super().__init__(directory, ["/usr/sbin/libvirtd", "--config", "conf", "--pid-file", f"{directory}/pid"],
                         {"LIBVIRT_DRIVER_DIR": str(directory / "no-drivers"), **homes})

    def keep(self):
        """Stays connected: the test hypervisor forgets everything when its
        last client goes."""
        self.keeper = subprocess.Popen(["virsh", "--connect", self.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       stderr=subprocess.DEVNULL)
        return self.keeper.stdout.read(1) != b""  # It greets once it is connected.

    def end(self):
        if self.keeper:
            self.keeper.kill()
            self.keeper.wait()
            self.keeper = None
        super().end()

    def is_on(self):
        done = subprocess.run(["virsh", "--connect", self.uri, "domstate", "test"], capture_output=True, text=True)
        return {"running": True, "shut off": False}[done.stdout.strip()]

    def power(self):
        return f'power.libvirt = {{ domain = "test", uri = "{self.uri}", timeout = "2s" }}'


class Hub:
    """A USB hub: what uhubctl would print, by a script; its ports are files."""

    def __init__(self, directory):
        directory.mkdir()
        self.dir = directory
        self.command = directory / "uhubctl"
        self.command.write_text((HERE / "uhubctl").read_text())
        self.command.chmod(0o700)

    def power(self, port):
        return f'power.usb-hub = {{ hub = "1-1.4", port = {port}, command = "{self.command}" }}'


class Sleeper:
    """A machine that a magic packet wakes: its file says `up` or `down`."""

    MAC = bytes.fromhex("02aabb0cddee")

    def __init__(self, directory, password=b""):
        directory.mkdir()
        self.state, self.down, self.password = directory / "state", directory / "down", directory / "password"
        self.packet = b"\xff" * 6 + self.MAC * 16 + password
        if password:
            self.password.write_text(password.hex(":") + "\n")
        for file in (self.state, self.down):
            file.write_text("down")
        self.card = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.card.bind(("127.0.0.1", 0))
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            if self.card.recv(2048) == self.packet:
                self.state.write_text("up")

    def power(self):
        password = f'password = {{ file = "{self.password}" }}, ' if self.password.exists() else ""
        return (f'power.wol = {{ mac = "{self.MAC.hex(":")}", broadcast = "127.0.0.1", port = {self.card.getsockname()[1]}, {password}'
                f'off = ["cp", "{self.down}", "{self.state}"], status = ["cat", "{self.state}"], is_on = "^up$", is_off = "^down$" }}')


class Plug:
    """A smart plug: paths and what they answer, by a real HTTP server."""

    def __init__(self):
        self.on, self.answer, self.hangs = False, None, threading.Event()
        self.hangs.set()
        plug = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                plug.hangs.wait()
                code, body, headers = plug.says(self.path, self.headers)
                if plug.gave_up(self.connection):
                    return
                self.send_response(code)
                for name, value in {"Content-Length": str(len(body.encode())), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def says(self, path, headers):
        """Status, body and headers of the answer."""
        if path in ("/on", "/off"):
            self.on = path == "/on"
        return (*(self.answer or (200, "on" if self.on else "off")), {})

    def gave_up(self, connection):
        """Whether the client went while this was hanging."""
        connection.setblocking(False)
        try:
            return connection.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        finally:
            connection.setblocking(True)

    def power(self):
        return (f'power.http = {{ address = "127.0.0.1:{self.port}", on = "/on", off = "/off", status = "/state", '
                f'timeout = "2s" }}')

    def end(self):
        self.hangs.set()
        self.server.shutdown()
        self.server.server_close()


class LockedPlug(Plug):
    """A plug that asks for a password: by `basic` (RFC 7617) or `digest`
    (RFC 7616), or as Tasmota does in the query. With `echo` it answers with an
    error that repeats all it was sent."""

    def __init__(self, directory, scheme, password):
        directory.mkdir()
        self.scheme, self.word, self.echo = scheme, password, False
        self.password = directory / "password"
        self.password.write_text(password + "\n")
        super().__init__()

    def says(self, path, headers):
        if self.scheme == "tasmota":
            return self.tasmota(path)
        proof = headers.get("Authorization")
        if not proof:
            challenge = {"basic": 'Basic realm="plug"', "digest": f'Digest realm="plug", nonce="{os.urandom(8).hex()}", qop="auth", algorithm=MD5'}
            return 401, "who are you", {"WWW-Authenticate": challenge[self.scheme]}
        if self.echo:
            return 500, f"cannot do {path} for {proof}", {}
        known = self.basic(proof) if self.scheme == "basic" else self.digest(path, proof)
        return super().says(path, headers) if known else (401, "you are not", {})

    def basic(self, proof):
        return proof == "Basic " + base64.b64encode(f"admin:{self.word}".encode()).decode()

    def digest(self, path, proof):
        told = dict(re.findall(r'(\w+)="?([^",]*)"?', proof.partition(" ")[2]))
        md5 = lambda *words: hashlib.md5(":".join(words).encode()).hexdigest()
        wanted = md5(md5("admin", told["realm"], self.word), told["nonce"], told["nc"], told["cnonce"], told["qop"], md5("GET", path))
        return told["response"] == wanted

    def tasmota(self, path):
        if self.echo:
            return 404, f"File Not Found\n\nURI: {path}", {}
        asked = dict(urllib.parse.parse_qsl(path.partition("?")[2]))
        if (asked.get("user"), asked.get("password")) != ("admin", self.word):
            return 401, json.dumps({"WARNING": "Need user=<username>&password=<password>"}), {}
        if asked["cmnd"] in ("Power On", "Power Off"):
            self.on = asked["cmnd"] == "Power On"
        return 200, json.dumps({"POWER": "ON" if self.on else "OFF"}), {}

    def access(self, password=None):
        password = password or f'{{ file = "{self.password}" }}'
        return f'address = "127.0.0.1:{self.port}", user = "admin", password = {password}, timeout = "2s"'

    def power(self, password=None):
        paths = 'profile = "tasmota"' if self.scheme == "tasmota" else 'on = "/on", off = "/off", status = "/state"'
        return f"power.http = {{ {self.access(password)}, {paths} }}"


class Terminal:
    """A serial port: a pty that changes no byte."""

    def __init__(self):
        self.machine, self.port = os.openpty()
        tty.setraw(self.port)
        self.path = os.ttyname(self.port)

    def connector(self):
        return f"serialdev,{self.path},115200n81,local"

    def end(self):
        os.close(self.machine)
        os.close(self.port)


class ConsoleServer(Process):
    """ser2net: one port for each (gensio, what it carries)."""

    def __init__(self, directory, ports):
        directory.mkdir()
        self.ports = [free_port() for _ in ports]
        text = "%YAML 1.1\n---\n"
        for at, ((gensio, connector), port) in enumerate(zip(ports, self.ports)):
            text += (f"connection: &con{at}\n    accepter: {gensio},127.0.0.1,{port}\n"
                     f"    connector: {connector}\n    options:\n        kickolduser: true\n")
        (directory / "ser2net.yaml").write_text(text)
        super().__init__(directory, ["/usr/sbin/ser2net", "-n", "-c", "ser2net.yaml"])


class BenchHost(Process):
    """OpenSSH's sshd. One key may log in: `key`, which is encrypted where a
    passphrase is given."""

    def __init__(self, directory, passphrase=""):
        directory.mkdir()
        self.port, self.dir = free_port(), directory
        self.key, self.host_key, self.passphrase = directory / "key", directory / "host", directory / "passphrase"
        self.allowed = directory / "allowed"
        keygen(self.key, passphrase)
        if passphrase:
            self.passphrase.write_text(passphrase + "\n")
        self.allow(self.key)
        self.new_host_key()
        self.known = " ".join(self.host_key.with_suffix(".pub").read_text().split()[:2])
        (directory / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n"
            f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nAuthorizedKeysFile {self.allowed}\nHostKey {self.host_key}\n")
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)  # where root's sshd confines what it does not trust yet
        super().__init__(directory, ["/usr/sbin/sshd", "-D", "-e", "-f", str(directory / "sshd_config")])

    def start(self):
        super().start()
        wait_for_port(self.port, self)

    def allow(self, key):
        self.allowed.write_text(key.with_suffix(".pub").read_text())

    def new_host_key(self):
        self.host_key.unlink(missing_ok=True)
        keygen(self.host_key)

    def renew(self):
        """Set up anew: it is another host to those who knew it."""
        self.end()
        self.new_host_key()
        self.start()

    def end(self):
        """The whole host: who is logged in is out as well, and who is about to be."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)  # it forks no more
        sessions = descendants(self.process.pid)
        super().end()
        for pid in sessions:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended with its parent

    def inventory(self, name):
        passphrase = f', passphrase = {{ file = "{self.passphrase}" }}' if self.passphrase.exists() else ""
        return (f'[host.{name}]\nssh = {{ address = "127.0.0.1:{self.port}", user = "{getpass.getuser()}", '
                f'key = {{ file = "{self.key}" }}{passphrase}, host_key = "{self.known}", timeout = "3s" }}\n')


def keygen(file, passphrase=""):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "test", "-f", file], check=True)


def descendants(root):
    """Processes that this one started, and those that they did."""
    parents = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_bytes().rsplit(b")", 1)[1].split()[1])
        except OSError:
            pass  # it has ended
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {root}
