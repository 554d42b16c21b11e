"""Ray started with `ray start` on hosts with a network each: a job that is given its head uses them all."""

import os
import shutil
from pathlib import Path

import pytest

from tests.cluster.hosts import hosts
from tests.faults.launch import Fault, environment, happened, place, start, waves
from tests.faults.proof import prove

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="only root makes networks, with iproute2"),
]


def read_on(host: int) -> Fault:
    """No fault: notes that a picture was decoded there."""
    return Fault("pipeline.decode:decode", "note", where=f"__import__('os').environ.get('HOST') == '{host}'")


def test_a_job_uses_all_hosts(shards: Path, reference: Path, tmp_path: Path) -> None:
    both = [read_on(1), read_on(2)]
    env = environment(place(tmp_path / "faults", *waves(), *both))
    with hosts(tmp_path, 3, env) as (head, *_):
        options = ("--actors", "1", "--batch-size", "4")
        done = start(shards, tmp_path / "lake", *options, env=env | {"RAY_ADDRESS": head.ray}, on=head.within).done()
    assert done.code == 0, done.said
    assert [happened(tmp_path / "faults", each) for each in both] == [True, True]
    prove(tmp_path / "lake", reference)
