"""A BMC with Redfish: sushy-tools' emulator, with a chassis that is a program.
Runs with the Python that tests/lab/sushy prints.

usage: redfish.py DIR PORT CHASSIS…

CHASSIS, a list of words, is asked as OpenIPMI's ipmi_sim would ask it: `get
power` prints `power:1` or `power:0`; `set power 1`, `set boot pxe`, `set cd
FILE` for a CD that is put into its drive (`none`: taken out). DIR holds
`password` (of the user admin), and `cert.pem` and `key.pem` where it is to
speak TLS. A file `fault` there is what is answered instead of all else: a
status in the first line, a body in the others. A file `slow-fetch` there is how
many seconds it takes longer to fetch a CD."""

import pathlib
import ssl
import subprocess
import sys
import tempfile
import time

import bcrypt
import flask
from sushy_tools import error
from sushy_tools.emulator import main as emulator
from sushy_tools.emulator.resources.systems.base import AbstractSystemsDriver
from sushy_tools.emulator.resources.vmedia import StaticDriver

SYSTEM = "8e2f6b0a-5c1d-4f7e-9a30-7d1f0c5e1c77"
POWER = {"On": "1", "ForceOn": "1", "ForceOff": "0"}


class Chassis(AbstractSystemsDriver):
    """The emulator's one system."""

    program = []

    @classmethod
    def initialize(cls, config, logger):
        return cls

    def ask(self, *words):
        done = subprocess.run([*self.program, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise error.FishyError(f"the chassis refuses: {done.stderr.strip()}")
        return done.stdout.strip()

    def known(self, identity):
        if identity != SYSTEM:
            raise error.NotFound(f"there is no system {identity}")

    @property
    def driver(self):
        return "<chassis>"

    @property
    def systems(self):
        return [SYSTEM]

    def uuid(self, identity):
        self.known(identity)
        return SYSTEM

    def name(self, identity):
        self.known(identity)
        return "chassis"

    def get_power_state(self, identity):
        self.known(identity)
        return {"power:1": "On", "power:0": "Off"}.get(self.ask("get", "power"))

    def set_power_state(self, identity, state):
        self.known(identity)
        if state == "ForceRestart":
            self.ask("set", "reset", "1")
            return
        if state not in POWER:
            raise error.NotSupportedError(f"{state} is not for this chassis")
        self.ask("set", "power", POWER[state])

    def get_boot_device(self, identity):
        self.known(identity)
        return {"boot:pxe": "Pxe", "boot:cd": "Cd"}.get(self.ask("get", "boot"), "Hdd")

    def set_boot_device(self, identity, boot_source):
        self.known(identity)
        self.ask("set", "boot", boot_source.lower())

    def set_boot_image(self, identity, device, boot_image=None, write_protected=True):
        self.known(identity)
        self.ask("set", "cd", boot_image or "none")


def main():
    directory, port, Chassis.program = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    word = (directory / "password").read_text().strip().encode()
    users = directory / "users"
    # As weak as it gets: it is asked for at each call.
    users.write_text(f"admin:{bcrypt.hashpw(word, bcrypt.gensalt(4)).decode()}\n")
    emulator.fakedriver.FakeDriver = Chassis
    # What is in its drive, it keeps there; elsewhere it would be every emulator's of this host.
    tempfile.tempdir = str(directory)
    emulator.app.configure(extra_config={"SUSHY_EMULATOR_FAKE_DRIVER": True, "SUSHY_EMULATOR_AUTH_FILE": str(users),
                                         "SUSHY_EMULATOR_STATE_DIR": str(directory)})

    fetch = StaticDriver._get_image

    def slowly(*args):
        try:
            time.sleep(float((directory / "slow-fetch").read_text()))
        except FileNotFoundError:
            pass
        return fetch(*args)

    StaticDriver._get_image = slowly

    @emulator.app.before_request
    def fault():
        try:
            status, _, body = (directory / "fault").read_text().partition("\n")
        except FileNotFoundError:
            return None
        return flask.Response(body, int(status))

    context = None
    if (directory / "cert.pem").exists():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    emulator.app.run(host="127.0.0.1", port=port, ssl_context=context)


if __name__ == "__main__":
    main()
