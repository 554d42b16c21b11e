"""Two rankings as one, by reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009)."""

from typing import Any

import pyarrow as pa

from pipeline.retrieval.nearest import DISTANCE, KEYS, RELEVANCE, ROW_ID, SCORE

K = 60  # of the paper: how little the first ranks count more than those that follow
HALF = 100  # hits of each ranking that are fused, at least, so that a second page goes on where the first ended


def fuse(by_words: pa.Table, by_vector: pa.Table, one_per_image: bool) -> pa.Table:
    """The hits of both, the best first; of a picture, the row that full text found, whose caption has the words.

    Args:
        by_words: as `nearest.matching` gives it.
        by_vector: as `nearest.nearest` gives it.
        one_per_image: pictures are ranked, not rows.

    Returns:
        The columns of both; `_relevance_score` is the sum of 1 / (60 + rank).
    """
    hits: dict[Any, dict[str, Any]] = {}
    for half in (by_words, by_vector):
        for rank, row in enumerate(half.to_pylist(), start=1):
            key = (row["sha256"] or row["id"]) if one_per_image else row[ROW_ID]
            hit = hits.setdefault(key, {RELEVANCE: 0.0, DISTANCE: None, SCORE: None} | row)
            hit[RELEVANCE] += 1 / (K + rank)
            hit |= {name: row[name] for name in (DISTANCE, SCORE) if name in row}
    best = sorted(hits.values(), key=lambda hit: (-hit[RELEVANCE], hit["sha256"] or "", hit["id"] or ""))
    keys = [by_words.schema.field(name) for name in (ROW_ID, *KEYS)]
    scores = [pa.field(name, pa.float32()) for name in (DISTANCE, SCORE, RELEVANCE)]
    return pa.Table.from_pylist(best, schema=pa.schema([*keys, *scores]))
