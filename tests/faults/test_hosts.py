"""Ray started with `ray start` on hosts with a network each: a job uses all, and outlives one that is silent."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, hosts
from tests.faults.launch import Fault, Job, environment, happened, place, start, waves
from tests.faults.proof import prove

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="only root makes networks, with iproute2"),
]
# A silent host is given up within eight seconds instead of a minute, and a call to it ends within ten instead of 105.
# The driver pings less often than the hosts would take.
QUICK = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "4000",
    "RAY_grpc_client_keepalive_timeout_ms": "4000",
}
DRIVER = QUICK | {"RAY_grpc_client_keepalive_time_ms": "6000"}


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return place(tmp_path_factory.mktemp("hosts") / "faults")


@pytest.fixture(scope="module")
def three(faults: Path) -> Iterator[list[Host]]:
    """A head and two that compute; the last test leaves one less."""
    with hosts(faults.parent, 3, environment(faults, **QUICK)) as made:
        yield made


def on(host: int) -> str:
    """An expression: whether this process is there."""
    return f"__import__('os').environ.get('HOST') == '{host}'"


def embed(head: Host, shards: Path, lake: Path, faults: Path) -> Job:
    env = environment(faults, RAY_ADDRESS=head.ray, **DRIVER)
    return start(shards, lake, "--actors", "1", "--batch-size", "2", env=env, on=head.within)


def holding(until: str) -> list[Fault]:
    """What to wait for: a slice is half read on host 2, and stays so until something happens; others are committed."""
    held = Fault("pipeline.decode:decode", "wait", nth=12, where=on(2), on=True, until=until, seconds=300)
    return [held, Fault("pipeline.database:Database.swap", "note", "after", where="suffix == '' and fragments")]


def pace(held: Fault) -> Fault:
    """Not a fault: host 1 leaves some of the slices to host 2."""
    return Fault("pipeline.decode:decode", "wait", where=on(1), on=True, until=held.name, seconds=30)


def cut(host: Host, job: Job, faults: Path, signs: list[Fault]) -> None:
    """Pull its cable, once these have happened."""
    until = time.monotonic() + 60
    while not all(happened(faults, sign) for sign in signs):
        assert job.process.poll() is None and time.monotonic() < until, job.done().said  # noqa: PT018
        time.sleep(0.1)
    host.cut()


def test_a_job_uses_all_hosts(three: list[Host], faults: Path, shards: Path, reference: Path, tmp_path: Path) -> None:
    both = [Fault("pipeline.decode:decode", "note", where=on(host)) for host in (1, 2)]  # no faults: it is noted
    place(faults, *waves(), *both)
    done = embed(three[0], shards, tmp_path / "lake", faults).done()
    assert done.code == 0, done.said
    assert [happened(faults, each) for each in both] == [True, True]
    prove(tmp_path / "lake", reference)


def test_a_cable_that_is_plugged_in_again_costs_nothing(
    three: list[Host], faults: Path, shards: Path, reference: Path, tmp_path: Path
) -> None:
    head, _, host = three
    signs = holding(until="again")
    place(faults, *signs, pace(signs[0]))
    job = embed(head, shards, tmp_path / "lake", faults)
    cut(host, job, faults, signs)
    time.sleep(2)
    host.heal()
    (faults / "again.happened").touch()
    done = job.done(within=90)
    assert (done.code, "is lost" in done.said) == (0, False), done.said
    prove(tmp_path / "lake", reference)


def test_a_host_that_falls_silent_is_named_and_its_work_done_again(
    three: list[Host], faults: Path, shards: Path, reference: Path, tmp_path: Path
) -> None:
    head, _, host = three
    signs = holding(until="never")
    place(faults, *signs, pace(signs[0]))
    job = embed(head, shards, tmp_path / "lake", faults)
    cut(host, job, faults, signs)
    done = job.done(within=90)
    assert done.code == 0, done.said
    assert f"node {host.address} (" in done.said and "is lost" in done.said, done.said  # noqa: PT018
    prove(tmp_path / "lake", reference)
