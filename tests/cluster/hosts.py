"""Hosts of the test's own: network namespaces on one bridge, with a Ray in each, as `ray start` on several machines."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_PORT = 6379


def ip(*words: str) -> None:
    """`ip ...`; root's, and of iproute2."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Host:
    """A machine, as far as the network goes; the disk is shared by all."""

    name: str
    bridge: str
    address: str
    out: Path

    def join(self) -> None:
        """Make it, with a cable to the bridge."""
        ip("netns", "add", self.name)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self._cable, "master", self.bridge, "up")
        for link in ("lo", "eth0"):
            ip("-n", self.name, "link", "set", link, "up")
        ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.name, "route", "add", "default", "dev", "eth0")  # by which Ray finds a driver's own address

    def cut(self) -> None:
        """Pull its cable: nothing that it says comes through any more, and nobody is told so."""
        ip("link", "set", self._cable, "down")

    def heal(self) -> None:
        """Plug the cable in again."""
        ip("link", "set", self._cable, "up")

    @property
    def within(self) -> list[str]:
        """What a command begins with that is to run on it."""
        return ["ip", "netns", "exec", self.name]

    @property
    def ray(self) -> str:
        """RAY_ADDRESS, if it is the head."""
        return f"{self.address}:{_PORT}"

    def leave(self) -> None:
        """Take it away; its cable goes with it."""
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)

    @property
    def _cable(self) -> str:
        return f"{self.name}-0"


@contextmanager
def hosts(folder: Path, count: int, env: Mapping[str, str]) -> Iterator[list[Host]]:
    """A head that computes nothing, and others with two CPUs each, joined to it; the head is the first."""
    mark = f"bl{os.getpid() % 10_000}"  # a link's name has 15 letters at most
    made = [Host(f"{mark}h{i}", mark, f"10.231.7.{i + 1}", folder / f"host{i}.log") for i in range(count)]
    temporary = tempfile.mkdtemp(prefix="ray")  # its path must be short, for Ray's sockets
    rays: list[subprocess.Popen[bytes]] = []
    try:
        ip("link", "add", mark, "type", "bridge")
        ip("link", "set", mark, "up")
        for number, host in enumerate(made):
            host.join()
            command = ["ray", "start", "--block", "--disable-usage-stats", f"--node-ip-address={host.address}"]
            if number == 0:
                command += ["--head", "--num-cpus=0", f"--port={_PORT}", f"--temp-dir={temporary}"]
                command += ["--include-dashboard=false"]
            else:
                command += [f"--address={made[0].ray}", "--num-cpus=2"]
            with host.out.open("ab") as out:
                named = {**env, "HOST": str(number)}
                rays.append(
                    subprocess.Popen(
                        [*host.within, *command], env=named, stdout=out, stderr=out, start_new_session=True
                    )
                )
            _wait_for(host, rays[-1])
        yield made
    finally:
        for ray in rays:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(ray.pid, signal.SIGKILL)
            ray.wait(30)
        for host in made:
            host.leave()
        subprocess.run(["ip", "link", "delete", mark], check=False, capture_output=True)
        shutil.rmtree(temporary, ignore_errors=True)


def _wait_for(host: Host, ray: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 60
    while "Ray runtime started" not in host.out.read_text():
        assert ray.poll() is None and time.monotonic() < until, host.out.read_text()  # noqa: PT018
        time.sleep(0.1)
