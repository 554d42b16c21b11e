"""A real autoscaler that makes nodes from zero on this machine, by Ray's own fake provider, from a launcher's file."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lancedb
import pytest

from tests.cluster.autoscaling import autoscaling_head
from tests.conftest import REPOSITORY
from tests.shards import members, write_tar

pytestmark = pytest.mark.cluster
GROUPS = {
    "cpu": {"resources": {"CPU": 2}, "max_workers": 1},
    "gpu": {"resources": {"CPU": 1, "GPU": 1, "accelerator_type:L40S": 1}, "max_workers": 2},
}


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    with autoscaling_head(GROUPS) as (address, _):
        yield address


def embed(head: str, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    (folder / "shards").mkdir()
    for i in range(4):
        write_tar(folder / "shards" / f"{i:05d}.tar", members(20, start=20 * i))
    command = [sys.executable, "jobs/embed_laion.py", "--input", f"{folder}/shards", "--db", f"{folder}/lake"]
    env = os.environ | {"RAY_ADDRESS": head, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([*command, *options], cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=200)


def test_dry_run_estimates_by_the_gpus_that_may_come_and_starts_none(head: str, tmp_path: Path) -> None:
    """While no node is up."""
    done = embed(head, tmp_path, "--dry-run", "--gpu-hour-price", "2", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    source = (
        r"estimated: \d\.\d GFLOP a pair, counted; 2 GPUs at 40%, .* \(362 of L40S\); 2 readers that take .* ms a pair"
    )
    assert re.match(source, told["pace"]["source"]), told["pace"]
    assert told["pace"]["source"].endswith(
        "not measured: no node is up that an actor fits on, and a forecast starts none"
    )
    assert told["cost"] == pytest.approx(told["pace"]["seconds"] / 3600 * 2 * 2)


def test_auto_takes_the_gpus_that_may_come_and_an_actor_without_cuda_is_an_error(head: str, tmp_path: Path) -> None:
    """The first that asks for nodes."""
    done = embed(head, tmp_path)
    assert "computing on cuda in bfloat16 (the cluster has " in done.stderr, done.stderr
    assert ", with its autoscaler up to 2 and 4): up to 2 actors, each with 1 CPU and 1 GPU" in done.stderr
    assert done.returncode == 1
    assert "torch sees no CUDA there" in done.stderr
    assert "or use --device cpu" in done.stderr


def test_a_run_scales_from_zero_and_finishes(head: str, tmp_path: Path) -> None:
    done = embed(head, tmp_path, "--device", "cpu", "--num-gpus", "0.5")
    assert done.returncode == 0, done.stderr
    assert "up to 4 actors, each with 0.5 CPU and 0.5 GPU" in done.stderr
    assert lancedb.connect(tmp_path / "lake").open_table("laion").count_rows() == 80
