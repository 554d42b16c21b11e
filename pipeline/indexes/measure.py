"""What an index is worth: recall over distinct pictures against exact search, and how long a search takes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np

from pipeline.embed import Vectors
from pipeline.index import FEW, ONE_IN, Tuned
from pipeline.indexes.centroids import vectors_of
from pipeline.indexes.exact import Best, exact
from pipeline.retrieval.nearest import DISTANCE, nearest
from pipeline.retrieval.question import Query
from pipeline.schema import EMBEDDING_COLUMNS

DEPTH = 10  # pictures that are counted
_SAME = 1e-5  # distances that differ less are the same to a search in float32
_SCORES = 10_000  # rows from which it is told how many a condition keeps
_RARE = 0.05  # of the rows: scores may be alike, and a condition keep more than it was meant to
_TIMED_EXACT = 20  # queries: each compares every row


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries of one sort, and the pictures that exact search finds for them."""

    sort: str  # pictures, captions, pairs: whose vectors they are
    vectors: Vectors
    without: Sequence[str | None]  # of each, its own picture, which it would find first
    truth: Sequence[Best]
    condition: str = ""  # that rows had to meet


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of them."""

    sort: str
    count: int
    recall: float  # of the ten nearest distinct pictures
    p50_ms: float
    p95_ms: float

    @property
    def line(self) -> str:
        """As a person reads it."""
        times = f"p50 {self.p50_ms:.1f} ms, p95 {self.p95_ms:.1f} ms"
        return f"recall@{DEPTH} {self.recall:.3f} for {self.count} {self.sort}, {times}"


_SORTS = {"image": "pictures", "text": "captions", "cross": "pairs"}


def ask(dataset: lance.LanceDataset, column: str, count: int, condition: str = "") -> list[Asked]:
    """Queries drawn from the rows: vectors of the column itself, and those of captions if it is another's.

    A query by words lies elsewhere in the space than pictures do, so that an index may be good for one and bad for the
    other. A row's own picture does not count among what its own vector finds.

    Args:
        dataset: the table.
        column: image, text or cross.
        count: of queries of each sort.
        condition: that the rows which are looked for must meet.
    """
    rows = dataset.count_rows()
    chosen = np.sort(np.random.default_rng(0).choice(rows, min(rows, count), replace=False)).tolist()
    found = []
    for name in dict.fromkeys((column, "text")):
        stored = EMBEDDING_COLUMNS[name]
        if stored not in dataset.schema.names:
            continue
        some = dataset.take(chosen, columns=["sha256", stored])
        some = some.filter(some[stored].is_valid())
        vectors = vectors_of(some[stored])
        without = some["sha256"].to_pylist() if name == column else [None] * len(vectors)
        truth = exact(dataset, EMBEDDING_COLUMNS[column], vectors, without, DEPTH, condition)
        found.append(Asked(_SORTS[name], vectors, without, truth, condition))
    return found


def rare(dataset: lance.LanceDataset) -> str | None:
    """A condition that about one row in a hundred meets; None where too few rows would."""
    rows = dataset.count_rows()
    chosen = np.sort(np.random.default_rng(0).choice(rows, min(rows, _SCORES), replace=False)).tolist()
    scores = dataset.take(chosen, columns=["itm_score"])["itm_score"].drop_null().to_numpy()
    if len(scores) == 0:
        return None
    condition = f"itm_score >= {float(np.quantile(scores, 1 - 1 / ONE_IN))!r}"
    kept = dataset.count_rows(condition)
    return condition if FEW < kept < _RARE * rows else None


def measure(dataset: lance.LanceDataset, column: str, asked: Sequence[Asked], how: Tuned | None) -> list[Measured]:
    """Search as a person's search does, one query at a time; `how` None compares every row."""
    options: dict[str, Any] = {"exact": True} if how is None else {"nprobes": how.nprobes, "refine": how.refine}
    return [_measured(dataset, Query("-", column=column, where=one.condition, **options), one) for one in asked]


def _measured(dataset: lance.LanceDataset, query: Query, asked: Asked) -> Measured:
    count = min(_TIMED_EXACT, len(asked.vectors)) if query.exact else len(asked.vectors)
    seconds, found, wanted = [], 0, 0
    for vector, without, truth in zip(asked.vectors[:count], asked.without, asked.truth, strict=False):
        began = time.perf_counter()
        hits = nearest(dataset, vector, query, DEPTH, without)
        seconds.append(time.perf_counter() - began)
        reach = max(truth.values(), default=0.0) + _SAME  # another picture just as near is as good
        names, distances = hits["sha256"].to_pylist(), hits[DISTANCE].to_pylist()
        good = sum(name in truth or distance <= reach for name, distance in zip(names, distances, strict=True))
        found, wanted = found + min(good, len(truth)), wanted + len(truth)
    half, most = np.percentile(np.array(seconds) * 1e3, [50, 95]) if seconds else (0.0, 0.0)
    sort = f"{asked.sort} behind a filter that keeps 1 in {ONE_IN}" if asked.condition else asked.sort
    return Measured(sort, count, found / wanted if wanted else 1.0, round(float(half), 2), round(float(most), 2))
