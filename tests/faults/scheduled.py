"""A lake that a schedule keeps: shards, the command lines of `jobs/schedule.py` on a test's own Ray, its book."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import lance

from pipeline.database import Database
from pipeline.ticks.book import Book, read_book
from tests.conftest import REPOSITORY
from tests.faults.head import Head
from tests.faults.launch import environment
from tests.shards import members, write_tar

SCHEDULE = [sys.executable, "jobs/schedule.py"]


class Lake:
    """Shards, and the table that a schedule makes of them."""

    def __init__(self, head: Head, folder: Path) -> None:
        self.shards, self.folder = folder / "shards", folder / "lake"
        self.shards.mkdir()
        self.env = environment(head.faults, RAY_ADDRESS=head.address, **head.env)
        self.database = Database(str(self.folder), "laion")

    def write(self, name: str, start: int, count: int) -> None:
        write_tar(self.shards / name, members(count, start))

    def command(self, *options: str) -> list[str]:
        embed = ["python", "jobs/embed_laion.py", "--input", str(self.shards), "--db", str(self.folder)]
        embed += ["--device", "cpu", "--num-gpus", "0.5", "--actors", "1", "--batch-size", "2"]
        embed += ["--no-report"]
        return [*SCHEDULE, *options, "--", *embed]

    def once(self, *options: str) -> "subprocess.CompletedProcess[str]":
        command = self.command("--once", *options)
        return subprocess.run(command, cwd=REPOSITORY, env=self.env, capture_output=True, text=True, timeout=200)

    @contextmanager
    def scheduled(self, *options: str) -> Iterator["subprocess.Popen[str]"]:
        pipe = subprocess.PIPE
        with subprocess.Popen(self.command(*options), cwd=REPOSITORY, env=self.env, stderr=pipe, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def book(self) -> Book:
        return read_book(self.database)

    def outcomes(self) -> list[str]:
        return [tick.said(datetime.now(UTC)) for tick in self.book().ticks]

    def live(self) -> int:
        return int(lance.dataset(self.database.path(), version="live").count_rows())

    def shown(self, job: str, *options: str) -> str:
        command = [sys.executable, f"jobs/{job}.py", "--db", str(self.folder), *options]
        return subprocess.run(
            command, cwd=REPOSITORY, env=self.env, stdout=subprocess.PIPE, text=True, check=True
        ).stdout


def wait(until: Callable[[], bool], seconds: float = 150) -> None:
    """Until it is so."""
    over = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < over, "it did not come so far"
        time.sleep(0.1)
