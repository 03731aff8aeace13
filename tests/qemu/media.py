"""What is to be seen where the boot agent comes from a CD that the machine's
BMC fetches from the daemon and shows to it."""

import base64
import http.client
import json
import ssl
import time
import urllib.parse

from common import demand
from simulators import RedfishBmc

LOADED = b"pitstop: the boot agent is loaded from this medium"
SLOW = 45  # seconds; timeout.power of the journey is 30 s


def drive(lab):
    """What the BMC says of its drive for CDs."""
    bmc = lab.wires.bmc
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    line = http.client.HTTPSConnection("127.0.0.1", bmc.port, context=context, timeout=60)
    word = base64.b64encode(f"admin:{bmc.password.read_text().strip()}".encode()).decode()
    line.request("GET", f"/redfish/v1/Systems/{RedfishBmc.SYSTEM}/VirtualMedia/Cd", headers={"Authorization": f"Basic {word}"})
    return json.loads(line.getresponse().read())


def is_empty(lab):
    held = drive(lab)
    return not held["Inserted"] and not held["Image"] and not (lab.wires.dir / "cd").exists()


def kinds(lab, seen):
    return [e["kind"] for e in lab.events()[seen:]]


def booted(lab):
    said = lab.ok("console", "vm", "--all", "--no-follow")  # it has booted from its disk since
    demand(LOADED in said, "the console did not say that the agent came from the CD")
    lab.until("the drive is empty", lambda: is_empty(lab))


def slowly(lab):
    """A turn with a BMC that fetches for longer than power may take."""
    slow, seen, begun = lab.wires.bmc.dir / "slow-fetch", len(lab.events()), time.monotonic()
    slow.write_text(str(SLOW))
    lab.ok("reserve", "name=vm", "--want", "agent", "--for", "1h")
    slow.unlink()
    demand(time.monotonic() - begun > SLOW, "it was not slow: the test shows nothing")
    demand("phase-failed" not in kinds(lab, seen), f"a slow fetch was taken for a failure: {kinds(lab, seen)}")
    # The machine runs on in RAM, and its holder has no CD of ours.
    lab.until("the drive is empty", lambda: is_empty(lab))
    lab.ok("release", "vm")
    lab.until_state("free")


def overheard(lab):
    """Somebody who has learned where the CD is."""
    seen = len(lab.events())
    booking = lab.ok("reserve", "name=vm", "--want", "agent", "--for", "1h", "--no-wait").decode().split()[0]
    url = lab.until("a CD is in the drive", lambda: drive(lab)["Image"])
    place = urllib.parse.urlsplit(url)
    line = http.client.HTTPConnection(place.hostname, place.port, timeout=60, source_address=("127.0.0.2", 0))
    line.request("GET", place.path)
    answer = line.getresponse()
    demand(answer.status == 403, f"another address was answered {answer.status}")
    demand(b"pitstop.token" not in answer.read(), "another address was given the token")
    lab.ok("reserve", "--resume", booking)
    told = kinds(lab, seen)
    demand(told.count("attempt-burned") == 1 and told.count("phase-failed") == 1, f"one attempt is burned, and the next goes well: {told}")
    demand(lab.machine()["health"]["is"] == "good", "quarantined for what somebody else did")
    lab.ok("release", "vm")
    lab.until_state("free")
    lab.until("the drive is empty", lambda: is_empty(lab))
    key = place.path.split("/")[3].encode()
    demand(len(key) == 64, f"that is no key: {place.path}")
    kept = [lab.dir / "log", *(p for p in (lab.dir / "data").rglob("*") if p.is_file())]
    for file in kept:
        demand(key not in file.read_bytes(), f"the address of a CD is in {file}")
    demand(key not in lab.ok("events", "vm", "--all", "-n", "10000", "-o", "jsonl"), "the address of a CD is in an event")
