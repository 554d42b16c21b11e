"""Growth in rows: many small samples through the real run, with an embedder that costs nothing.

Reading, Ray, Lance and commits are the real ones; only the model is not: vectors are looked up.
"""

import os
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

import pipeline.committer
from pipeline.config import Contract, EmbedConfig, ReadConfig, RunConfig, WriteConfig
from pipeline.embed import Embedder, Footprint, Model, Pixels
from pipeline.run import Run
from pipeline.table import Rows
from pipeline.watch.progress import Counts
from tests.fakes import FakeEmbeddings, FakePreparer
from tests.shards import members, write_tar

WIDTH = 512
CONTRACT = Contract("0" * 64, "nothing", "main", "2x2", WIDTH)
_PAIRS = 1000  # of a shard
_SECOND = 1.0


class NothingEmbedder(Embedder):
    """Looks up one of 64 vectors."""

    dtype = "float32"

    def __init__(
        self, device: str = "cpu", dtype: str = "float32", batch_size: int = 64, gpu_share: float = 1.0
    ) -> None:
        drawn = np.random.default_rng(0).normal(size=(64, WIDTH)).astype(np.float32)
        self._vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
        """As `pipeline.embed.Embedder`."""
        image = self._vectors[pixels[image_of, 0, 0, 0] % 64]
        text = self._vectors[[len(ids) % 64 for ids in token_ids]]
        itc = (image * text).sum(axis=1)
        return FakeEmbeddings(image, text, image, itc, np.full(len(image), 0.5, np.float32))

    embed_exactly = embed

    def footprint(self) -> Footprint:
        """As `pipeline.embed.Embedder`."""
        return Footprint(0, 0, 64)


@dataclass
class _Look:
    """The run at one moment."""

    seconds: float
    rows: int  # committed
    mib: float  # resident in the driver, what it shares with the object store left out


@dataclass
class _Watcher:
    """An observer that looks at the driver once a second, and how long each commit takes."""

    began: float = field(default_factory=time.monotonic)
    looks: list[_Look] = field(default_factory=list)
    commits: list[tuple[int, float]] = field(default_factory=list)  # rows in the table before it, seconds
    rows: int = 0

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def update(self, counts: Counts) -> None:
        now = time.monotonic() - self.began
        if not self.looks or now - self.looks[-1].seconds >= _SECOND:
            self.looks.append(_Look(now, self.rows, _private_mib()))

    def close(self) -> None:
        self.looks.append(_Look(time.monotonic() - self.began, self.rows, _private_mib()))


def flow(folder: Path, rows: int) -> dict[str, Any]:
    """Embed `rows` pairs and say how the end compares with the start."""
    (folder / "shards").mkdir()
    one = write_tar(folder / "one.tar", members(_PAIRS))
    for number in range(rows // _PAIRS):
        os.link(one, folder / "shards" / f"{number:06d}.tar")
    watcher = _Watcher()
    _time_commits(watcher)
    config = RunConfig(
        ReadConfig((str(folder / "shards"),)), WriteConfig(str(folder / "lake")), EmbedConfig(device="cpu")
    )
    summary = Run(config, Model(CONTRACT, FakePreparer, NothingEmbedder), watcher).start()
    if summary.rows != rows:
        raise SystemExit(f"{summary.rows} rows came of {rows}")
    return {"rows": rows, "seconds": summary.seconds, "busy": summary.busy} | _growth(watcher, rows)


def _time_commits(watcher: _Watcher) -> None:
    commit = pipeline.committer.commit

    def timed(*args: Any) -> Rows:
        began = time.perf_counter()
        done = commit(*args)
        watcher.commits.append((watcher.rows, time.perf_counter() - began))
        watcher.rows = done.dataset.count_rows()
        return done

    pipeline.committer.commit = timed


def _growth(watcher: _Watcher, rows: int) -> dict[str, Any]:
    """Of the first and the last fifth of the rows; what comes before the first commit is the start of Ray."""
    looks = [look for look in watcher.looks if look.rows]
    fifth = rows / 5
    first, last = ([_at(looks, n * fifth) for n in pair] for pair in ((0, 1), (4, 5)))
    rates = [(b.rows - a.rows) / (b.seconds - a.seconds) for a, b in (first, last)]
    commits = [[s for n, s in watcher.commits if low <= n / rows < high] for low, high in ((0, 0.2), (0.8, 1))]
    p95 = [float(np.percentile(some, 95)) * 1e3 for some in commits]
    return {
        "rows_a_second": [round(rate) for rate in rates],
        "commits": len(watcher.commits),
        "commit_p95_ms": [round(p, 1) for p in p95],
        "commit_mean_ms": [round(mean(some) * 1e3, 1) for some in commits],
        "driver_mib": [round(first[0].mib), round(last[1].mib), round(max(look.mib for look in looks))],
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _at(looks: list[_Look], rows: float) -> _Look:
    return next((look for look in looks if look.rows >= rows), looks[-1])


def _private_mib() -> float:
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20
