"""A Ray of the fault tests' own, with the hook in all of its processes: a head, or a head and nodes beside it.

Jobs that join it cost a few seconds.
"""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.test_job_submit import wait_for
from tests.faults.launch import Done, Fault, Job, environment, happened, place, start
from tests.ports import free_port
from tests.sessions import session

_RAYS_OWN = tuple(b"ray::" + n for n in (b"_", b"ActorLocation", b"DashboardAgent", b"RuntimeEnvAgent", b"IDLE"))


@dataclass(frozen=True)
class Head:
    """A Ray of its own that all jobs of these tests join: a job then costs a few seconds."""

    address: str
    dashboard: str
    faults: Path
    session: int  # of its processes
    env: Mapping[str, str]  # of its processes and of its jobs

    @property
    def ports(self) -> tuple[int, int]:
        """Its own, and its dashboard's."""
        own, dashboard = (int(url.rpartition(":")[2]) for url in (self.address, self.dashboard))
        return own, dashboard

    def start(self, shards: Path | str, lake: Path | str, *options: str, **env: str) -> Job:
        """Start a job; one actor, so that several jobs find room."""
        env = environment(self.faults, RAY_ADDRESS=self.address, **self.env, **env)
        return start(shards, lake, "--actors", "1", "--batch-size", "2", *options, env=env)

    def embed(self, shards: Path | str, lake: Path | str, *options: str, **env: str) -> Done:
        """Run a job to its end."""
        return self.start(shards, lake, *options, **env).done()

    def place(self, *faults: Fault) -> None:
        """Have these faults, and no others, in all jobs from now on."""
        place(self.faults, *faults)

    def count(self, fault: Fault) -> int:
        """How often it was counted."""
        return sum(1 for _ in self.faults.glob(f"{fault.name}.*.*"))

    def happened(self, fault: Fault) -> bool:
        """Whether the fault has happened."""
        return happened(self.faults, fault)


@contextmanager
def running_head(folder: Path, *options: str, place_of: Head | None = None, **env: str) -> Iterator[Head]:
    """A Ray head whose processes have the hook; at the end all of its Ray is killed, and no other test's.

    Args:
        folder: for its faults and its log.
        options: of `ray start`.
        place_of: a head that is no more, whose addresses this one takes.
        env: of its processes and its jobs.
    """
    # In a folder of its own: Ray gives a submitted job the address that the latest head has left in the usual one.
    temporary = tempfile.mkdtemp(prefix="ray")  # not the test's, whose path is too long for Ray's sockets
    port, dashboard = (free_port(), free_port()) if place_of is None else place_of.ports
    address = f"http://127.0.0.1:{dashboard}"
    faults = place(folder / "faults")
    command = ["ray", "start", "--head", "--block", "--num-cpus=3", "--disable-usage-stats", f"--port={port}"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", *options]
    command += [
        f"--temp-dir={temporary}",
        f"--dashboard-agent-listen-port={free_port()}",
    ]  # without the agent no job can be submitted
    try:
        with session(command, environment(faults, **env), folder / "log") as process:
            wait_for(f"{address}/api/version", process, folder / "log")
            yield Head(f"127.0.0.1:{port}", address, faults, process.pid, env)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def running_cluster(folder: Path) -> Iterator[Head]:
    """A simulated cluster: a head that computes nothing, a node with two CPUs, one with two and a logical GPU."""
    store = "--object-store-memory=200000000"
    with running_head(folder, "--num-cpus=0", store) as head, ExitStack() as nodes:
        for number, gpus in ((2, 0), (3, 1)):  # an address each: drivers join the head, and none of these
            options = ["--num-cpus=2", f"--num-gpus={gpus}", store, f"--node-ip-address=127.0.0.{number}"]
            nodes.enter_context(_node(head, folder / f"node{number}.log", options))
        yield head


@contextmanager
def _node(head: Head, log: Path, options: list[str]) -> Iterator[None]:
    """A node that has joined a head."""
    command = ["ray", "start", "--block", "--disable-usage-stats", f"--address={head.address}", *options]
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    with session(command, environment(head.faults, **head.env), log) as process:
        until = time.monotonic() + 60
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None and time.monotonic() < until, log.read_text()  # noqa: PT018
            time.sleep(0.1)
        yield


def workers(head: Head) -> list[int]:
    """Processes in which its Ray runs tasks and actors of jobs at this moment, Ray's own left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name, session = (path / "cmdline").read_bytes(), os.getsid(int(path.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
        if session == head.session and name.startswith(b"ray::") and not name.startswith(_RAYS_OWN):
            found.append(int(path.name))
    return found


def kill(process: int) -> bool:
    """-9; whether it was still there."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
