"""One pass over the rows of `<table>`: how many there are of each shard, whose id is wrong or doubled, which are unfit.

Memory: a batch, a count for each shard, and for the doubled ids 8 bytes a row, of at most 128 million rows at once
(with more rows the ids are read several times). Only what is wrong is kept besides.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config import TAG_COLUMNS
from pipeline.samples import row_id
from pipeline.schema import EMBEDDING_COLUMNS, tagging_of
from pipeline.upkeep.accounts import Place
from pipeline.upkeep.findings import Findings

UNIT_TOLERANCE = {"halffloat": 2e-3, "float": 1e-5}  # of a stored vector's length
_SCORES = {"itc_score": (-1.0, 1.0), "itm_score": (0.0, 1.0)}
_SCORE_TOLERANCE = 1e-4
_NAME = ["dataset", "shard", "key", "caption_index"]
_BATCH = 4096  # rows
_BUFFER = 128 * 2**20  # bytes that the scan may read ahead
_IDS_AT_ONCE = 2**27

Floats = npt.NDArray[np.float32]


@dataclass(slots=True)
class Census:
    """What the rows are. `doubted` are shards with rows that are not as they were written."""

    rows: int = 0
    by_shard: Counter[Place] = field(default_factory=Counter)
    doubled: dict[str, list[int]] = field(default_factory=dict)  # id -> the `_rowid`s that have it, the lowest first
    doubted: set[Place] = field(default_factory=set)


def take_census(dataset: lance.LanceDataset, findings: Findings) -> Census:
    """Look at every row.

    Args:
        dataset: `<table>` at one version.
        findings: where what is wrong goes.
    """
    vectors = [name for name in EMBEDDING_COLUMNS.values() if name in dataset.schema.names]
    tags = TAG_COLUMNS if tagging_of(dataset.schema) else ()
    census = Census()
    for batch in _batches(dataset, ["id", *_NAME, *vectors, *_SCORES, *tags]):
        census.rows += batch.num_rows
        names = list(zip(*(batch[c].to_pylist() for c in _NAME), strict=True))
        census.by_shard.update((dataset_, shard) for dataset_, shard, _, _ in names)
        for i, why in _unfit(batch, names, vectors):
            findings.problem(why[0], f"{_said(batch, i, names)}: {why[1]}")
            census.doubted.add(names[i][:2])
    _find_doubled(dataset, census, findings)
    findings.checked["rows"] = census.rows
    findings.checked["vectors"] = census.rows * len(vectors)
    return census


def _batches(dataset: lance.LanceDataset, columns: list[str], row_ids: bool = False) -> Iterator[pa.RecordBatch]:
    scanner = dataset.scanner(columns=columns, batch_size=_BATCH, io_buffer_size=_BUFFER, with_row_id=row_ids)
    yield from scanner.to_batches()


def _said(batch: pa.RecordBatch, i: int, names: list[tuple[str, str, str, int]]) -> str:
    dataset, shard, key, caption_index = names[i]
    return f"id {batch['id'][i]} ({dataset} {shard} key {key} caption {caption_index})"


def _unfit(
    batch: pa.RecordBatch, names: list[tuple[str, str, str, int]], vectors: Iterable[str]
) -> Iterator[tuple[int, tuple[str, str]]]:
    """Row number, kind and reason of all that is wrong with single rows."""
    for i, (id_, name) in enumerate(zip(batch["id"].to_pylist(), names, strict=True)):
        if None in name or id_ != row_id(*name):
            yield i, ("wrong id", "its dataset, shard, key and caption index give another")
    for vector in vectors:
        lengths, tolerance = _lengths(batch[vector]), UNIT_TOLERANCE[str(batch[vector].type.value_type)]
        for i in np.flatnonzero(~(np.abs(lengths - 1) <= tolerance)).tolist():
            yield i, ("vector", f"{vector} has length {lengths[i]:.6g}, not 1")
    for score, (low, high) in _SCORES.items():
        values = batch[score].to_numpy(zero_copy_only=False).astype(np.float32)
        fits = (values >= low - _SCORE_TOLERANCE) & (values <= high + _SCORE_TOLERANCE)
        for i in np.flatnonzero(~fits).tolist():
            yield i, ("score", f"{score} is {values[i]:.6g}, not within {low:g} and {high:g}")
    if set(TAG_COLUMNS) <= set(batch.schema.names):
        for i, told in enumerate(zip(*(batch[c].to_pylist() for c in TAG_COLUMNS), strict=True)):
            if not _fit_together(*told):
                yield i, ("tags", f"{told[0]} and {told[1]} are not different words and falling probabilities")


def _fit_together(words: list[str] | None, probabilities: list[float] | None) -> bool:
    """Whether a picture's tags can be what a model told; a row of a run without tags has none."""
    if words is None or probabilities is None:
        return words is None and probabilities is None
    falling = all(a >= b for a, b in pairwise([1 + _SCORE_TOLERANCE, *probabilities, 0]))
    return falling and len(set(words)) == len(words) == len(probabilities)


def _lengths(column: pa.FixedSizeListArray) -> Floats:
    """Of each vector; NaN where one is null or not finite."""
    lengths = np.full(len(column), np.nan, np.float32)
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    lengths[there] = np.linalg.norm(values.reshape(-1, column.type.list_size), axis=1)
    return lengths


def _find_doubled(dataset: lance.LanceDataset, census: Census, findings: Findings) -> None:
    """By a 64-bit hash of each id; those whose hash stands twice are looked at in full."""
    parts = max(1, -(-census.rows // _IDS_AT_ONCE))
    suspect = np.concatenate([_repeated(dataset, part, parts) for part in range(parts)])
    if not len(suspect):
        return
    found: dict[str, list[int]] = {}
    for batch in _batches(dataset, ["id"], row_ids=True):
        for i in np.flatnonzero(np.isin(_hashes(batch), suspect)):
            found.setdefault(batch["id"][i].as_py(), []).append(batch["_rowid"][i].as_py())
    census.doubled = {id_: sorted(rows) for id_, rows in found.items() if len(rows) > 1}
    for id_, rows in census.doubled.items():
        findings.problem("doubled id", f"id {id_} stands {len(rows)} times", len(rows) - 1)


def _repeated(dataset: lance.LanceDataset, part: int, parts: int) -> npt.NDArray[np.int64]:
    """Hashes that stand more than once, of one part of all."""
    hashes = [_hashes(batch) for batch in _batches(dataset, ["id"])]
    mine = np.sort(np.concatenate([h[h % parts == part] for h in hashes] or [np.empty(0, np.int64)]))
    return np.unique(mine[1:][mine[1:] == mine[:-1]])


def _hashes(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    return np.fromiter(map(hash, batch["id"].to_pylist()), np.int64, batch.num_rows)
