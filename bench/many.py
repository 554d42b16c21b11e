"""Growth in shards: listing, ledger and plan of ever more shards, for a first run and for one that finds all done."""

import os
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from bench.flow import CONTRACT
from pipeline.config import EmbedConfig, ReadConfig, RunConfig, WriteConfig
from pipeline.datasets import open_dataset, plan_of
from pipeline.records import Outcome, SliceRecord, properties
from pipeline.table import Change, commit
from tests.shards import members, write_tar

_A_COMMIT = 500  # slices, as a run with small shards groups them in 10 s
_A_FOLDER = 10_000  # shards
T = TypeVar("T")


def make_shards(folder: Path, count: int) -> Path:
    """`count` names of a few tars with two samples each."""
    of = [write_tar(folder / f"{i}.tar", members(2, start=2 * i)) for i in range(3)]
    root = folder / "shards"
    for number in range(count):
        if number % _A_FOLDER == 0:
            (root / f"{number // _A_FOLDER:03d}").mkdir(parents=True)
        os.link(of[number % len(of)], root / f"{number // _A_FOLDER:03d}" / f"{number:06d}.tar")
    return root


def planned(folder: Path) -> dict[str, Any]:
    """What a run does before its first slice, as `Run` does it, and what it takes of this process. Files are local."""
    config = RunConfig(ReadConfig((str(folder / "shards"),)), WriteConfig(str(folder / "lake"), "laion"), EmbedConfig())
    before = _resident()
    times: dict[str, float] = {}
    place = _timed(times, "open", lambda: open_dataset(config, CONTRACT, "0" * 12))
    todo = _timed(times, "plan", lambda: plan_of(place.listing, place.ledger, config))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "shards": len(place.listing.shards),
        "pending": len(todo.pending),
        "skipped": len(todo.skipped),
        "cpu_seconds": {name: round(value, 3) for name, value in times.items()},
        "microseconds_a_shard": round(sum(times.values()) / len(place.listing.shards) * 1e6, 1),
        "driver_mib": round((peak - before) / 2**20, 1),
        "kib_a_shard": round((peak - before) / len(place.listing.shards) / 1024, 2),
    }


def finish_all(folder: Path) -> dict[str, Any]:
    """Commit every slice as a run would that found nothing in them, so that the ledger holds them all."""
    config = RunConfig(ReadConfig((str(folder / "shards"),)), WriteConfig(str(folder / "lake"), "laion"), EmbedConfig())
    place = open_dataset(config, CONTRACT, "0" * 12)
    todo, rows, took = plan_of(place.listing, place.ledger, config).pending, place.rows, []
    for start in range(0, len(todo), _A_COMMIT):
        records = [
            _done(place.blank, slice_.shard.path, slice_.name, slice_.shard.size, slice_.shard.etag)
            for slice_ in todo[start : start + _A_COMMIT]
        ]
        began = time.perf_counter()
        rows = commit(place.database, rows, place.layout, Change([], properties(records), place.blank.dataset))
        place.ledger.absorb(rows)
        took.append(time.perf_counter() - began)
    tenth = max(1, len(took) // 10)
    first, last = sum(took[:tenth]) / tenth, sum(took[-tenth:]) / tenth
    return {"commits": len(took), "first_ms": round(first * 1e3, 1), "last_ms": round(last * 1e3, 1)}


def _done(blank: SliceRecord, shard: str, name: str, size: int, etag: str) -> SliceRecord:
    return replace(
        blank, shard=shard, slice=name, slices=1, size=size, etag=etag, attempt=name, outcome=Outcome.COMMITTED
    )


def _timed(times: dict[str, float], name: str, call: Callable[[], T]) -> T:
    began = time.process_time()
    done = call()
    times[name] = time.process_time() - began
    return done


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
