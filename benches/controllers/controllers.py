"""What broken controllers cost the machines of others. Started by `run`.

Machines on controllers that are well are power-cycled by the command line,
each twice a second, while those on others are left alone; then while these
others are broken in every way and are asked all the time; and so on by turns.
They do not use up the processors, so that what is measured is who waits for
whom."""

import argparse
import json
import os
import pathlib
import platform
import random
import socket
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/lab"))
import common  # noqa: E402
from common import HERE, Wrong, demand  # noqa: E402
from simulators import BenchHost, Bmc, Pdu, Plug, RedfishBmc  # noqa: E402

WELL = 8
EVERY = 0.5  # seconds from one cycle of a machine to its next
PACE = 1.0  # seconds between two commands to a broken machine: a person or a build that tries again
INVENTORY = """format = 1
[lab]
name = "controllers"
{apart}
{machines}
"""
MACHINE = """[machine.{name}]
{power}
console = {{}}
boot.power = {{}}
ready.agent = {{}}
timeout.power = "30s"
"""


class Lab(common.Lab):
    """Machines on controllers that stay well, and on others: each kind twice,
    so that one can hang and one refuse."""

    def __init__(self):
        super().__init__("pb", env={"PITSTOP_LOG": "warn"})
        switch = [HERE / "switch", self.dir]
        self.line = socket.create_server(("127.0.0.1", 0))  # a serial line that says nothing
        self.wells = {f"well-{at}": Plug() for at in range(WELL)}
        hang, refuse = {}, {}
        for kinds, way in ((hang, "hang"), (refuse, "refuse")):
            place = lambda kind: self.dir / f"device-{kind}-{way}"
            kinds["ipmi"] = Bmc(place("ipmi"), [*switch, f"ipmi-{way}"], self.line.getsockname()[1], "pw-bench")
            kinds["redfish"] = RedfishBmc(place("redfish"), [*switch, f"redfish-{way}"], "pw-bench")
            kinds["snmp"] = Pdu(place("snmp"), switch, "cm-bench")
            kinds["bench"] = BenchHost(place("bench"))
            kinds["http"] = Plug()
        self.hang, self.refuse = hang, refuse
        # Those that refuse have ended before, as a rule; to end twice does no harm.
        self.devices = [*self.wells.values(), *hang.values(), *refuse.values()]
        self.script = self.dir / "status"
        self.mend_script()
        wires = {name: plug.power() for name, plug in self.wells.items()}
        apart = ""
        for way, kinds in (("hang", hang), ("refuse", refuse)):
            apart += kinds["bench"].inventory(f"bench-{way}")
            file = lambda word: f'["{HERE / "switch"}", "{self.dir}", "bench-{way}", "{word}"]'
            wires |= {
                f"ipmi-{way}": kinds["ipmi"].power(),
                f"redfish-{way}": kinds["redfish"].power(),
                f"snmp-{way}": f"power.snmp = {{ {kinds['snmp'].access()}, outlet = 1 }}",
                f"http-{way}": kinds["http"].power(),
                f"bench-{way}": f'power.command = {{ host = "bench-{way}", on = {file("on")}, off = {file("off")}, '
                                f'status = {file("state")}, is_on = "on", is_off = "off" }}',
            }
        wires["command-hang"] = f'power.command = {{ on = ["true"], off = ["true"], status = ["{self.script}"] }}'
        self.others = [name for name in wires if name not in self.wells]
        machines = "".join(MACHINE.format(name=name, power=power) for name, power in wires.items())
        self.inventory.write_text(INVENTORY.format(apart=apart, machines=machines))

    def mend_script(self, body="exit 1"):
        self.script.write_text(f"#!/bin/sh\n{body}\n")
        self.script.chmod(0o700)

    def harm(self):
        """From here on half of the others hang and half refuse."""
        for kind, device in self.hang.items():
            device.hangs.clear() if kind == "http" else device.stop()
        for device in self.refuse.values():
            device.end()
        self.mend_script("sleep 600")

    def asks(self, over, counts):
        """Somebody who tries each of the others again and again."""
        def ask(name):
            # Not all at the same moment.
            over.wait(random.random() * PACE)
            while not over.is_set():
                words = ("admin", "check", name) if counts[name] % 2 else ("power", name, "on", "--no-wait")
                # It fails, or is refused while the last is under way: it is not well.
                self.cli(*words)
                counts[name] += 1
                over.wait(PACE)
        return [threading.Thread(target=ask, args=(name,), daemon=True) for name in self.others]


def round_of(lab, seconds):
    """Cycles of all machines that are well: how long each took, in ms."""
    end = time.monotonic() + seconds
    took, wrong = [], []

    def cycle(name):
        try:
            while time.monotonic() < end:
                began = time.monotonic()
                lab.ok("power", name, "cycle")
                spent = time.monotonic() - began
                took.append(spent * 1000)
                time.sleep(max(0, EVERY - spent))
        except (Wrong, subprocess.TimeoutExpired) as e:
            wrong.append(e)
    threads = [threading.Thread(target=cycle, args=(name,), daemon=True) for name in lab.wells]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]
    demand(took, "no machine was cycled")
    return len(took) / (time.monotonic() - began), took


def measure(args):
    lab = Lab()
    alone, beside = ([], []), ([], [])
    try:
        lab.start()
        lab.until_well()
        for name in [*lab.wells, *lab.others]:
            lab.ok("admin", "enrol", name, "--yes")
            lab.ok("reserve", f"name={name}", "--want", "bare", "--for", "8h")
        round_of(lab, args.seconds)  # does not count
        counts = dict.fromkeys(lab.others, 0)
        lab.harm()
        for at in range(args.rounds):
            for rates, times in (alone, beside):
                over = threading.Event()
                threads = lab.asks(over, counts) if times is beside[1] else []
                for thread in threads:
                    thread.start()
                rate, took = round_of(lab, args.seconds)
                over.set()
                for thread in threads:
                    thread.join()
                rates.append(rate)
                times += took
                print(f"  round {at}: {rate:.1f} cycles/s {'beside broken ones that are asked' if threads else 'alone'}", file=sys.stderr)
        rows = lab.check(*lab.others)
        well = [name for name in lab.others if rows[(name, "power")]["ok"]]
        demand(not well, f"these were to be broken, and are well: {well}")
        demand(all(counts.values()), f"not all of the broken ones were asked: {counts}")
    except Exception:
        print(lab.log_file.read_text(errors="replace")[-2000:], file=sys.stderr)
        raise
    finally:
        # One that was stopped is continued, or it could not be ended in order.
        lab.mend_script()
        lab.end()
    return alone, beside, sum(counts.values())


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def report(args, before, alone, beside, asked):
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    print(f"{WELL} machines on controllers that are well, {args.rounds} rounds of {args.seconds:g} s each way; the broken ones were asked {asked} times.")
    print(f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB; load {before:.1f} before, {os.getloadavg()[0]:.1f} after.\n")
    rates = [f"{statistics.median(r):.1f} ({min(r):.1f}–{max(r):.1f})" for r, _ in (alone, beside)]
    ratios = {"rate": statistics.median(beside[0]) / statistics.median(alone[0])}
    print("| | alone | beside broken ones | ratio |\n|---|---:|---:|---:|")
    print(f"| power cycles/s | {rates[0]} | {rates[1]} | {ratios['rate']:.2f} |")
    for words, q in (("median", 0.5), ("p99", 0.99)):
        one, other = quantile(alone[1], q), quantile(beside[1], q)
        ratios[words] = other / one
        print(f"| a cycle, {words} | {one:.0f} ms | {other:.0f} ms | {ratios[words]:.2f} |")
    if args.json:
        figures = {"alone": alone[0], "beside": beside[0], "ratios": ratios, "asked": asked, "cores": os.cpu_count(), "load_before": before}
        pathlib.Path(args.json).write_text(json.dumps(figures))


def main():
    parser = argparse.ArgumentParser(prog="benches/controllers/run", description="What broken controllers cost the machines of others.")
    parser.add_argument("--rounds", type=int, default=5, help="each way, after one that does not count (5)")
    parser.add_argument("--seconds", type=float, default=15, help="how long a round lasts (15)")
    parser.add_argument("--quick", action="store_true", help="two rounds of 5 s: to see that it works, not to be believed")
    parser.add_argument("--json", help="where the figures go as well")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 2, 5
    before = os.getloadavg()[0]
    try:
        report(args, before, *measure(args))
    except (Wrong, subprocess.TimeoutExpired) as wrong:
        sys.exit(f"benches/controllers: {wrong}")


main()
