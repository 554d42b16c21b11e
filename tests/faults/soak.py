#!/usr/bin/env python
"""Kills and restarts at random: two jobs at once embed shards that come and change, until the time is over.

    python -m tests.faults.soak --minutes 10

Then one job is let through, and the table is compared, id by id, with one that a single job made without faults.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.head import Head, kill, running_head, workers
from tests.faults.launch import Done, Fault, Job
from tests.faults.proof import ids, prove, rows
from tests.shards import picture, write_parquet, write_tar

PAIRS = 10  # of a tar; a parquet has four times as many
BETWEEN_KILLS = 4.0  # seconds, on average
DRIVERS = 0.35  # of the kills; the rest are workers
BETWEEN_LOOKS = 10.0
BETWEEN_LINES = 30.0
CHANGES = 0.02  # of the ticks
TICK = 0.2
CONFLICTS = Fault(
    "pipeline.database:Database.swap", "count", "failing", where="suffix == ''", error="CommitConflictError"
)
READ = Fault("pipeline.prepare:prepare_slice", "count")


def caption(name: str, content: int, number: int) -> str:
    return f"pair {number} content {content} {name}"


@dataclass
class Soak:
    """The shards, the jobs, and what was done to them."""

    folder: Path
    head: Head
    chance: random.Random
    shards: int
    change: bool
    jobs: list[Job] = field(default_factory=list)
    did: Counter[str] = field(default_factory=Counter)
    contents: dict[str, int] = field(default_factory=dict)  # shard -> how often it was written

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    @property
    def input(self) -> Path:
        return self.folder / "shards"

    def run(self, seconds: float) -> None:
        """Until the time is over."""
        began = time.monotonic()
        kill_at, look_at, tell_at = began + 5, began + BETWEEN_LOOKS, began + BETWEEN_LINES
        while (now := time.monotonic()) < began + seconds:
            self.feed((now - began) / seconds)
            self.restart()
            if now >= kill_at:
                self.kill()
                kill_at = now + self.chance.expovariate(1 / BETWEEN_KILLS)
            if now >= look_at:
                self.look()
                look_at = now + BETWEEN_LOOKS
            if now >= tell_at:
                print(f"{(now - began) / 60:.1f} min: {self.told()}", flush=True)
                tell_at = now + BETWEEN_LINES
            time.sleep(TICK)

    def feed(self, share: float) -> None:
        """Write new shards until that share of all is there; and now and then write one anew."""
        while len(self.contents) < max(self.shards // 10, share * self.shards):
            self._write(f"{len(self.contents):05d}.{'parquet' if self.chance.random() < 0.1 else 'tar'}")
        if self.change and self.chance.random() < CHANGES:
            self._write(self.chance.choice(list(self.contents)))
            self.did["written anew"] += 1

    def _write(self, name: str) -> None:
        content = self.contents[name] = self.contents.get(name, 0) + 1
        new = self.folder / f"new{Path(name).suffix}"
        count = PAIRS if name.endswith("tar") else 4 * PAIRS
        pairs = [(picture(i + 1000 * int(name[:5]) + 10**6 * content), caption(name, content, i)) for i in range(count)]
        if name.endswith("tar"):
            members = [((f"{i:03d}.jpg", p), (f"{i:03d}.txt", c.encode())) for i, (p, c) in enumerate(pairs)]
            write_tar(new, [m for both in members for m in both])
        else:
            write_parquet(new, {"jpg": [p for p, _ in pairs], "caption": [c for _, c in pairs]}, group_rows=PAIRS)
        new.replace(self.input / name)  # whole, as an object store does it

    def restart(self) -> None:
        """A new job for each that has ended or was killed."""
        self.reap()
        while len(self.jobs) < 2:
            self.did["jobs"] += 1
            self.jobs.append(self.head.start(self.input, self.lake, "--stall-seconds", "60", "--retry-failed"))

    def reap(self) -> None:
        """See how jobs ended: well, with something left, or killed; nothing else is allowed."""
        for job in [j for j in self.jobs if j.process.poll() is not None]:
            self.jobs.remove(job)
            done = job.done()
            if done.code == 0:
                self.did["done"] += 1
            elif done.code != -signal.SIGKILL:
                self.incomplete(done)

    def incomplete(self, done: Done) -> None:
        """A job may say that something is left, since its workers were killed, but in words."""
        self.did["incomplete"] += 1
        said = done.said.strip().splitlines() or [""]
        assert done.code == 1, f"a job ended with {done.code}:\n{done.said}"
        assert "Traceback" not in done.said, done.said
        print(f"ended with 1: {next((s for s in said if s.startswith(('error', 'failed'))), said[-1])}", flush=True)

    def kill(self) -> None:
        """-9 for a driver, or for a worker of any kind."""
        if self.chance.random() < DRIVERS:
            self.chance.choice(self.jobs).kill()
            self.did["drivers killed"] += 1
        elif found := workers(self.head):
            self.did["workers killed"] += kill(self.chance.choice(found))

    def look(self) -> None:
        """At the table as it is at this moment: no row twice, and of each shard one content, whole slices."""
        if not (self.lake / "laion.lance").exists():
            return
        have = rows(self.lake)
        assert have["id"].is_unique, "an id is there twice"
        for shard, captions in have.groupby("shard")["caption"]:
            contents = {c.split()[3] for c in captions}
            assert len(contents) == 1, f"{shard} is there with contents {contents} at once"
            assert len(captions) % PAIRS == 0, f"{shard} is there with {len(captions)} rows"
        self.did["looks"] += 1

    def finish(self) -> bool:
        """Let the jobs end, then one more; compare with one job without faults; whether they are equal."""
        while self.jobs:
            self.reap()
            time.sleep(TICK)
        last = self.head.embed(self.input, self.lake, "--retry-failed")
        assert last.code == 0, last.said
        told = self.told()
        alone = self.head.embed(self.input, self.folder / "reference")
        assert alone.code == 0, alone.said
        have, wanted = ids(self.lake), ids(self.folder / "reference")
        lost, twice = wanted - have, have - wanted
        print(f"{told}: {have.total()} rows, {lost.total()} lost, {twice.total()} twice", flush=True)
        if lost or twice:
            return False
        prove(self.lake, self.folder / "reference")
        return True

    def told(self) -> str:
        """What was done so far, in one line."""
        did, kills = self.did, self.did["drivers killed"] + self.did["workers killed"]
        return (
            f"{len(self.contents)} shards, {did['written anew']} written anew; {did['jobs']} jobs, {kills} kills "
            f"({did['drivers killed']} of drivers, {did['workers killed']} of workers), {did['done']} jobs ended well, "
            f"{did['incomplete']} with something left; {self.head.count(CONFLICTS)} conflicts, "
            f"{self.head.count(READ)} slices read; {did['looks']} looks in between"
        )


@contextmanager
def soaking(options: argparse.Namespace) -> Iterator[Soak]:
    """With a Ray of its own, in a folder that stays if something went wrong."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    (folder / "shards").mkdir()
    try:
        with running_head(folder) as head:
            head.place(CONFLICTS, READ)
            yield Soak(folder, head, random.Random(options.seed), options.shards, options.change)
    except BaseException:
        print(f"its folder stays: {folder}", flush=True)
        raise
    shutil.rmtree(folder)


def main() -> int:
    """0 if no row was lost and none is there twice."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--shards", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--change", action=argparse.BooleanOptionalAction, default=True, help="write shards anew")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with soaking(options) as soak:
        soak.run(60 * options.minutes)
        return 0 if soak.finish() else 1


if __name__ == "__main__":
    sys.exit(main())
