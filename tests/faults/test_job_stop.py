"""`ray job submit`, `ray job stop` in mid-job, and the same submit again, on a simulated cluster."""

import os
import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.faults.head import Head
from tests.faults.launch import environment, waves
from tests.faults.proof import prove, sound

pytestmark = pytest.mark.faults


def ray_job(head: Head, *command: str) -> str:
    """What `ray job ...` said; its exit code must be 0."""
    verb, *rest = command
    done = subprocess.run(
        ["ray", "job", verb, "--address", head.dashboard, *rest],
        cwd=REPOSITORY, env=environment(head.faults), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)


def test_a_job_stopped_and_submitted_again_loses_nothing(
    cluster: Head, shards: Path, reference: Path, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    job = ["--", "python", "jobs/embed_laion.py", "--input", str(shards), "--db", str(lake)]
    job += ["--device", "cpu", "--num-gpus", "0.5", "--actors", "1", "--batch-size", "2"]
    name = f"stopped-{os.getpid()}"
    first, wait, *_ = waves()
    after = replace(wait, nth=35, until="never", seconds=300)
    cluster.place(first, wait, after)
    ray_job(cluster, "submit", "--no-wait", "--submission-id", name, "--working-dir", ".", *job)
    until = time.monotonic() + 90
    while not cluster.happened(first) and time.monotonic() < until:
        time.sleep(0.2)
    ray_job(cluster, "stop", name)
    assert "was stopped" in ray_job(cluster, "status", name)
    committed = sound(lake, reference)
    assert 0 < committed < 13
    cluster.place()
    said = ray_job(cluster, "submit", "--working-dir", ".", *job)
    assert "succeeded" in said
    prove(lake, reference)
