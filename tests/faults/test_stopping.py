"""A job with a Ray of its own is stopped by signals: in order, or at once, and nothing of it stays behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lancedb
import psutil
import pytest

from tests.broken import noted
from tests.conftest import REPOSITORY
from tests.shards import members, write_tar

pytestmark = pytest.mark.faults
SHARDS = 12


class Job:
    """Runs in a session of its own, so that a signal can go to all of it, as a terminal's Ctrl-C does."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        command = [sys.executable, "-m", "tests.slow_job", "--folder", str(folder), *options]
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.all: list[psutil.Process] = []

    def wait_for(self, what: str, count: int) -> None:
        """Until so many notes were made."""
        for _ in range(1200):
            if noted(self.folder / "notes", what) >= count:
                break
            assert self._process.poll() is None, self._process.communicate()[1]
            time.sleep(0.1)
        self.all = psutil.Process(self._process.pid).children(recursive=True)

    def signal(self, number: int, *, group: bool = True) -> None:
        (os.killpg if group else os.kill)(self._process.pid, number)

    def ended(self, within: float) -> tuple[int, str]:
        """Exit code and standard error; then nothing of the job may be alive any more."""
        _, told = self._process.communicate(timeout=within)
        _, alive = psutil.wait_procs(self.all, timeout=5)
        assert alive == []
        return self._process.returncode, told

    def kill(self) -> None:
        self._process.kill()  # and its Ray goes with it
        self._process.wait()

    def rows(self) -> int:
        return lancedb.connect(self.folder / "lake").open_table("laion").count_rows()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    (tmp_path / "shards").mkdir()
    for i in range(SHARDS):
        write_tar(tmp_path / "shards" / f"{i:05d}.tar", members(20, start=i * 20))
    jobs: list[Job] = []

    def start(*options: str) -> Job:
        jobs.append(Job(tmp_path, *options))
        return jobs[-1]

    yield start
    for job in jobs:
        job.kill()


def test_sigint_ends_a_job_in_order_and_the_same_command_goes_on(start: Callable[..., Job]) -> None:
    job = start("--call-seconds", "1")
    job.wait_for("commit", 1)
    job.signal(signal.SIGINT)
    code, told = job.ended(within=60)
    assert code == 130
    assert told.splitlines()[-1] == "interrupted; what was committed stays, the same command goes on from there"
    assert 0 < job.rows() < SHARDS * 20
    assert start().ended(within=120)[0] == 0
    assert job.rows() == SHARDS * 20


def test_sigint_twice_ends_a_job_at_once_also_in_a_commit(start: Callable[..., Job]) -> None:
    job = start("--commit-seconds", "300")
    job.wait_for("commit", 1)
    job.signal(signal.SIGINT)
    time.sleep(0.5)
    began = time.monotonic()
    job.signal(signal.SIGINT)
    assert job.ended(within=60)[0] == 130
    assert time.monotonic() - began < 10


def test_sigterm_also_twice_waits_for_the_commit_in_hand(start: Callable[..., Job]) -> None:
    job = start("--commit-seconds", "4")
    job.wait_for("commit", 1)
    for _ in range(2):
        job.signal(signal.SIGTERM, group=False)
        time.sleep(0.5)
    code, told = job.ended(within=60)
    assert (code, "Traceback" in told) == (143, False)
    assert job.rows() > 0


def test_commit_that_hangs_ends_the_job_and_is_named(start: Callable[..., Job]) -> None:
    job = start("--commit-seconds", "300", "--stall-seconds", "8")
    job.wait_for("commit", 1)
    code, told = job.ended(within=60)
    assert code == 1
    last = told.splitlines()[-1]
    assert last.startswith("error: no progress for ")
    assert "s in committing: the store does not answer; what was whole is committed" in last
