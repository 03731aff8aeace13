"""labgrid's side of the allocation benchmark: a private coordinator with an
exporter, and clients in one process, as its own client library makes them.

Reads one command per line, answers each with one line of JSON:

    cycles WORKERS SECONDS    acquire and release, each worker its own place
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time

import grpc
from labgrid.remote.client import ClientSession
from labgrid.remote.generated import labgrid_coordinator_pb2 as pb2
from labgrid.remote.generated import labgrid_coordinator_pb2_grpc as pb2_grpc

BIN = os.path.dirname(sys.executable)
START = 60
RESOURCES = (
    "  NetworkSerialPort:\n    host: 127.0.0.1\n    port: 4001\n    protocol: raw\n",
    "  NetworkPowerPort:\n    model: rest\n    host: 'http://127.0.0.1:1/{index}'\n    index: 1\n",
    "  NetworkService:\n    address: 127.0.0.1\n    username: root\n",
)


class Lab:
    """A coordinator and an exporter, with their files in `folder`."""

    def __init__(self, folder, places, resources):
        self.folder = folder
        self.names = [f"m{i:05d}" for i in range(places)]
        self.resources = resources
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % free.getsockname()[1]
        self.processes = []
        self.env = dict(os.environ, LG_COORDINATOR=self.address, PYTHONUNBUFFERED="1")
        for name in ("LG_PLACE", "LG_ENV", "LG_TOKEN", "LG_PROXY"):
            self.env.pop(name, None)

    def spawn(self, program, *args):
        with open(os.path.join(self.folder, program + ".log"), "ab") as log:
            process = subprocess.Popen(
                [os.path.join(BIN, program), *args],
                cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        self.processes.append(process)
        # So that whoever started us can end it if we cannot.
        with open(os.path.join(os.environ["PITSTOP_BENCH_SCRATCH"], "pids"), "a") as pids:
            pids.write(f"{process.pid}\n")
        return process

    def start(self):
        self.coordinator = self.spawn("labgrid-coordinator", "-l", self.address)
        host, port = self.address.split(":")
        deadline = time.monotonic() + START
        while True:
            try:
                socket.create_connection((host, int(port)), 0.2).close()
                break
            except OSError:
                if self.coordinator.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the coordinator does not start") from None
                time.sleep(0.02)
        if self.resources:
            with open(os.path.join(self.folder, "exporter.yaml"), "w") as file:
                for name in self.names:
                    file.write(f"{name}:\n" + "".join(RESOURCES[: self.resources]))
            self.spawn("labgrid-exporter", "-n", "lab", "--hostname", "127.0.0.1", "-c", self.address,
                       "exporter.yaml")

    def stop(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.kill()
            process.wait()


class Client(ClientSession):
    """A session as every labgrid client opens it, with a connection of its
    own: the coordinator tells sessions apart by their TCP peer."""

    def __attrs_post_init__(self):
        super().__attrs_post_init__()
        self.channel = grpc.aio.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = pb2_grpc.CoordinatorStub(self.channel)


async def populate(lab, session):
    for name in lab.names:
        await session.stub.AddPlace(pb2.AddPlaceRequest(name=name))
        if lab.resources:
            pattern = f"lab/{name}/*"
            await session.stub.AddPlaceMatch(pb2.AddPlaceMatchRequest(placename=name, pattern=pattern))
    deadline = time.monotonic() + START
    wanted = len(lab.names) * lab.resources
    while True:
        groups = (g for exporter in session.resources.values() for g in exporter.values())
        found = sum(1 for g in groups for r in g.values() if r.data)
        if found >= wanted:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {found} of {wanted} resources came")
        await asyncio.sleep(0.05)


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def cycles(lab, session, workers, seconds):
    """Every worker cycles over its own place, which nobody else wants."""
    acquire, release = [], []
    cpu = cpu_seconds(lab.coordinator.pid)
    begin = time.monotonic()
    until = begin + seconds

    async def one(place):
        while time.monotonic() < until:
            t0 = time.monotonic()
            await session.stub.AcquirePlace(pb2.AcquirePlaceRequest(placename=place))
            t1 = time.monotonic()
            await session.stub.ReleasePlace(pb2.ReleasePlaceRequest(placename=place))
            acquire.append((t1 - t0) * 1e3)
            release.append((time.monotonic() - t1) * 1e3)

    await asyncio.gather(*(one(place) for place in lab.names[:workers]))
    took = time.monotonic() - begin
    cpu = cpu_seconds(lab.coordinator.pid) - cpu
    return {"cycles": len(acquire), "seconds": took, "cpu_seconds": cpu, "reserve_ms": acquire, "release_ms": release}


async def serve(lab):
    os.environ["LG_USERNAME"] = "bench"
    session = Client(address=lab.address, loop=asyncio.get_running_loop())
    await session.start()
    await populate(lab, session)
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        word, workers, seconds = line.split()
        if word != "cycles":
            raise RuntimeError(f"unknown command {word}")
        print(json.dumps(await cycles(lab, session, int(workers), float(seconds))), flush=True)
    session.stopping.set()
    await session.stop()
    await session.close()


def main():
    folder, places, resources = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    lab = Lab(folder, places, resources)
    try:
        lab.start()
        asyncio.run(serve(lab))
    finally:
        lab.stop()


main()
