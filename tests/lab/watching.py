"""Who may watch the consoles of a machine that is held: users of this host
watch, are refused, are hung up on, and look for what the last tenant's machine
said. Needs root, to be them. Prints one line per step and `ok` or what was
wrong."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import threading

import common
from common import PATIENCE, demand, play, say, until

# Users that every Debian has. The first two are a group.
ANNA, TOM, EVE = "daemon", "bin", "games"

INVENTORY = """format = 1
[lab]
watch_consoles = "{rule}"
[group.firmware]
members = ["{anna}", "{tom}"]
may = {{ watch_consoles = "group" }}
[machine.a]
power.command = {{ on = ["touch", "{dir}/on"], off = ["rm", "-f", "{dir}/on"], status = ["test", "-e", "{dir}/on"] }}
console.main.unix = {{ path = "{dir}/line" }}
boot.power = {{}}
ready.power = {{}}
timeout = {{ power = "20s" }}
"""

# As any program would ask for the console, past our own.
BY_HAND = """
import socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(60)
peer.connect(sys.argv[1])
body = b'{"all": true}'
peer.sendall(b"POST /api/v1/machines/a/console HTTP/1.1\\r\\nHost: pitstop\\r\\nContent-Type: application/json\\r\\n"
             b"Connection: upgrade\\r\\nUpgrade: pitstop-frames/1\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
answer = b""
while b"}" not in answer and (got := peer.recv(65536)):
    answer += got
print(answer.decode(errors="replace"))
"""


class Line:
    """A serial line that keeps the last thing it was told while nobody reads
    it, as a BMC does."""

    def __init__(self, path):
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()
        self.peer, self.kept, self.changed = None, "", threading.Condition()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            peer = self.server.accept()[0]
            with self.changed:
                if self.kept is None:
                    peer.close()
                    continue
                peer.sendall(self.kept.encode())
                self.peer = peer
                self.changed.notify_all()

    def say(self, text):
        with self.changed:
            demand(self.changed.wait_for(lambda: self.peer, PATIENCE), "nobody reads the line")
            self.peer.sendall(text.encode())

    def lose(self):
        """From now on nobody gets the line."""
        with self.changed:
            self.kept = None
            self.peer.shutdown(socket.SHUT_RDWR)
            self.peer.close()
            self.peer = None

    def come_back(self, kept):
        with self.changed:
            self.kept = kept


class Lab(common.Lab):
    def __init__(self):
        demand(os.geteuid() == 0, "this test becomes other users, and needs root for it")
        super().__init__(prefix="pv")
        self.line = Line(self.dir / "line")
        self.dir.chmod(0o711)
        # They may not look into our home.
        self.program = shutil.copy(common.PITSTOP, self.dir / "pitstop")
        self.rule("holder")

    def rule(self, rule):
        self.inventory.write_text(INVENTORY.format(dir=self.dir, rule=rule, anna=ANNA, tom=TOM))

    def start(self):
        super().start()
        self.socket.chmod(0o666)

    def identity(self, user):
        entry = pwd.getpwnam(user)
        return dict(user=entry.pw_uid, group=entry.pw_gid, extra_groups=[], cwd="/",
                    env=dict(self.env, HOME="/", LC_ALL="C.UTF-8"))

    def by(self, user, *args):
        return subprocess.run([self.program, *args], capture_output=True, text=True, errors="replace",
                              stdin=subprocess.DEVNULL, timeout=PATIENCE, **self.identity(user))

    def by_ok(self, user, *args):
        done = self.by(user, *args)
        demand(done.returncode == 0, f"{user}: {' '.join(args)}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def watch(self, user):
        """Watches live; what it prints goes to a file."""
        out = self.dir / f"seen-{user}"
        with open(out, "wb") as file:
            child = subprocess.Popen([self.program, "console", "a", "-o", "raw"], stdin=subprocess.DEVNULL,
                                     stdout=file, stderr=subprocess.STDOUT, **self.identity(user))
        until(f"{user} watches", lambda: "watch" in out.read_text(errors="replace"))
        return child, out

    def past(self, user):
        """All that this user can get of what was said, by every way to ask."""
        ways = (["--all"], ["--all", "-o", "raw"], ["--all", "--hex"], ["--all", "--timestamps"], ["--lines", "1000"],
                ["--since", "1h"], ["--since", "boot"], ["--since", "reserve"], ["--since", "1000000"])
        seen = [self.by_ok(user, "console", "a", "--no-follow", *way) for way in ways]
        found = self.by(user, "console", "a", "--grep", ".")
        demand(found.returncode in (0, 1), f"{user} cannot search: {found.stderr}")
        return "\n".join([*seen, found.stdout])

    def heard(self, words):
        """Says a line, and waits until it was read."""
        self.line.say(f"{words}\r\n")
        until(f"“{words}” is in the journal", lambda: self.cli("console", "a", "--grep", words).returncode == 0)


def refused(lab, user, holder):
    for way in ([], ["--no-follow"], ["-o", "raw", "--no-follow"], ["--grep", "."], ["--all", "--hex", "--no-follow"]):
        done = lab.by(user, "console", "a", *way)
        words = done.stdout + done.stderr
        demand(done.returncode == 5 and holder in words and "secret" not in words,
               f"{user} watches with {way}: exit {done.returncode}: {words}")
    asked = subprocess.run([sys.executable, "-c", BY_HAND, str(lab.socket)], capture_output=True, text=True,
                           timeout=PATIENCE, **lab.identity(user))
    demand('"held"' in asked.stdout and "101" not in asked.stdout.split("\r\n")[0] and "secret" not in asked.stdout,
           f"the API says to {user}: {asked.stdout}{asked.stderr}")
    done = lab.by(user, "why", "a")
    demand("secret" not in done.stdout, f"`why` quotes it to {user}: {done.stdout}")


def watching(lab, began):
    lab.start()
    lab.ok("admin", "enrol", "state=new", "--count", "1")
    reserve = ("reserve", "name=a", "--clean", "any", "--timeout", "100s")
    until("it is seen off", lambda: lab.by(EVE, "console", "a", "--no-follow").returncode == 0)
    # What comes as the line is opened may have been kept since somebody had it.
    until("what nobody has is everybody's to see", lambda: lab.heard("nobodys line") or "nobodys line" in lab.past(EVE))
    eve, seen = lab.watch(EVE)
    lab.by_ok(ANNA, *reserve)
    lab.heard("the first secret")
    demand(eve.wait(PATIENCE) is not None and "secret" not in seen.read_text(), f"she saw: {seen.read_text()}")
    demand(f"the machine is {ANNA}'s now" in seen.read_text(), f"she was not told why: {seen.read_text()}")
    say(began, "who watched a free machine is hung up on before its holder's first byte")
    refused(lab, EVE, ANNA)
    demand("the first secret" in lab.past(ANNA) and "the first secret" in lab.past(TOM), "the group cannot watch")
    demand("nobodys line" not in lab.past(ANNA), "what was said before it was hers")
    demand("the first secret" in lab.ok("console", "a", "--all", "--no-follow"), "an admin sees less than all")
    say(began, "its holder and her group watch, others are refused, by every way to ask")
    tom, seen = lab.watch(TOM)
    lab.line.say("Kernel panic - not syncing: secret\r\n")
    until("the panic is noticed", lambda: any("kernel panic" in event["text"] for event in lab.events("a")))
    texts = [event["text"] for event in lab.events("a")]
    demand(not any("secret" in text for text in texts), f"the history quotes it: {texts}")
    say(began, "the history says that its kernel panicked, and quotes nothing")

    # The line is down as the machine changes hands, and comes back with what it kept.
    lab.line.lose()
    lab.by_ok(ANNA, "release", "a")
    lab.until_state("a", "free")
    lab.by_ok(EVE, *reserve)
    demand(tom.wait(PATIENCE) is not None, "he goes on watching who is not of his group")
    refused(lab, TOM, EVE)
    refused(lab, ANNA, EVE)
    lab.line.come_back("the kept secret\r\n")
    lab.ok("admin", "check", "a")
    until("what the line kept was read", lambda: "the kept secret" in lab.ok("console", "a", "--all", "--no-follow"))
    until("what comes now is hers", lambda: spoken(lab))
    demand("secret" not in lab.past(EVE), f"she finds what was said before her: {lab.past(EVE)}")
    say(began, "the next tenant finds nothing of the last one, nor what the line had kept")

    lab.line.come_back("")
    lab.daemon.kill()
    lab.daemon.wait()
    lab.start()
    demand("her own line" in lab.past(EVE) and "secret" not in lab.past(EVE), f"after a crash: {lab.past(EVE)}")
    refused(lab, TOM, EVE)
    say(began, "nor after the daemon was killed")
    lab.rule("all")
    lab.ok("admin", "reload")
    demand("her own line" in lab.past(TOM), "the lab's rule is not that of who is in no group")
    tom, seen = lab.watch(TOM)
    lab.rule("holder")
    lab.ok("admin", "reload")
    demand(tom.wait(PATIENCE) is not None, "the narrower rule is for those who come later only")
    refused(lab, TOM, EVE)
    say(began, "a rule that is changed counts at once, also for those who watch")
    return "who may watch, and what of it"


def spoken(lab):
    lab.line.say("her own line\r\n")
    return "her own line" in lab.past(EVE) or lab.past(EVE)


if __name__ == "__main__":
    play("watching", Lab(), watching)
