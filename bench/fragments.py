"""Growth in fragments: opening, committing to and compacting a table of ever more of them.

They are synthetic: metadata that name one small file over and over, which a commit cannot tell from many files.
"""

import multiprocessing
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from bench.flow import CONTRACT
from pipeline.contract import Layout
from pipeline.database import Database
from pipeline.errors import CommitConflictError
from pipeline.schema import rows_schema
from pipeline.table import Rows
from pipeline.upkeep.compact import merge_fragments

SIZES = (1_000, 10_000, 20_000, 50_000, 100_000)
_ROWS = 10  # of a fragment
_AT_ONCE = 10_000
_TRIES = 7
_PAUSE = 0.2  # seconds between the commits beside a compaction


def fragments(folder: Path, sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """Milliseconds to open a table and to commit to it, at each size; then compaction while somebody commits."""
    database = Database(str(folder / "lake"), "laion")
    schema = Layout(rows_schema((), ("image",), CONTRACT.dimension, "float16"), CONTRACT).with_metadata
    base = database.create("", schema)
    (one,) = database.write("", _some(schema))
    found: dict[str, Any] = {}
    for size in sizes:
        while (missing := size - len(base.get_fragments())) > 0:
            base = database.swap("", base, schema, [one] * min(missing, _AT_ONCE))
        opened, committed = [], []
        for _ in range(_TRIES):
            began = time.perf_counter()
            base = Rows(database, _open(database)).dataset
            opened.append(time.perf_counter() - began)
            (new,) = database.write("", _some(schema))
            began = time.perf_counter()
            base = database.swap("", base, schema, [new])
            committed.append(time.perf_counter() - began)
        found[f"{size}"] = {
            "open_ms": round(median(opened) * 1e3, 1),
            "commit_ms": round(median(committed) * 1e3, 1),
            "commit_worst_ms": round(max(committed) * 1e3, 1),
        }
    return {"fragments": found, "compaction": _compact(database, schema)}


def _compact(database: Database, schema: pa.Schema) -> dict[str, Any]:
    """Merge all of them in another process, and commit meanwhile."""
    before = len(_open(database).get_fragments())
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        began = time.perf_counter()
        merging = pool.apply_async(merge_fragments, (database,))
        took, conflicts = [], 0
        while not merging.ready():
            (new,) = database.write("", _some(schema))
            while True:
                base, start = _open(database), time.perf_counter()
                try:
                    database.swap("", base, schema, [new])
                    break
                except CommitConflictError:
                    conflicts += 1
            took.append(time.perf_counter() - start)
            merging.wait(_PAUSE)
        merged, seconds = merging.get(), time.perf_counter() - began
    after = _open(database)
    rows = after.count_rows()
    if rows % _ROWS:
        raise SystemExit(f"{rows} rows are not whole fragments")
    return {
        "before": before,
        "merged": merged,
        "after": len(after.get_fragments()),
        "rows": rows,
        "seconds": round(seconds, 1),
        "commits_meanwhile": len(took),
        "conflicts": conflicts,
        "commit_p95_ms": round(float(np.percentile(took, 95)) * 1e3, 1),
    }


def _open(database: Database) -> Any:
    return database.open()


def _some(schema: pa.Schema) -> pa.Table:
    vectors = np.zeros(_ROWS * CONTRACT.dimension, np.float16)
    values = {"image_embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors), CONTRACT.dimension)}
    values |= {name: pa.array(["x"] * _ROWS) for name in ("id", "shard", "dataset")}
    return pa.Table.from_arrays([values.get(f.name, pa.nulls(_ROWS, f.type)) for f in schema], schema=schema)
