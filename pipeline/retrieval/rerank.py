"""Candidates of a search, ordered by how well the model finds their pictures to match the words.

Each picture is fetched in place, encoded once, and fused with the words (the ITM head).
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa

from pipeline.decode import Rejected, decode
from pipeline.embed import Pixels, Preparer, Vectors
from pipeline.fetch import Answer, Row
from pipeline.retrieval.hits import FETCH_ERROR, ITM_QUERY, PLACE, fetch_by_dataset

_AT_ONCE = 64  # pictures held in memory
_THREADS = 4
_LARGEST = 2**31  # pixels: a row's picture was within its run's own limit


class Matcher(Protocol):
    """A model with an ITM head."""

    def match(self, pixels: Pixels, texts: Sequence[str]) -> Vectors:
        """ITM probability (B, N) of each text with each picture (N, size, size, 3)."""
        ...


def rerank(hits: pa.Table, words: str, preparer: Preparer, matcher: Matcher, roots: Mapping[str, str]) -> pa.Table:
    """The same rows, the best match first, with the columns `itm_query` and `fetch_error`.

    Rows whose picture cannot be had come last, in the order they had.

    Args:
        hits: rows of the table; of several rows with one picture, it is looked at once.
        words: what to look for.
        preparer: the checkpoint's preprocessing.
        matcher: the model.
        roots: where each dataset's shards lie.
    """
    rows = hits.select(PLACE).to_pylist()
    pictures = {row["sha256"]: row for row in rows}
    # Neighbours in a shard together: a row group or a gzipped tar is read through once for all of its pictures.
    wanted = sorted(pictures.values(), key=_place)
    scores: dict[str, float] = {}
    errors: dict[str, str] = {}
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        with ThreadPoolExecutor(_THREADS) as pool:
            squares = list(pool.map(partial(_square, preparer), fetch_by_dataset(some, roots)))
        seen = [(row["sha256"], s) for row, s in zip(some, squares, strict=True) if not isinstance(s, str)]
        errors |= {row["sha256"]: s for row, s in zip(some, squares, strict=True) if isinstance(s, str)}
        if seen:
            matched = matcher.match(np.stack([square for _, square in seen]), [words])[0]
            scores |= {name: float(score) for (name, _), score in zip(seen, matched, strict=True)}
    return marked(hits, scores, errors)


def marked(hits: pa.Table, scores: Mapping[str, float], errors: Mapping[str, str]) -> pa.Table:
    """Hits with their pictures' scores and errors, given by sha256, the best first."""
    names = hits["sha256"].to_pylist()
    both = hits.append_column(ITM_QUERY, pa.array([scores.get(n) for n in names], pa.float32()))
    both = both.append_column(FETCH_ERROR, pa.array([errors.get(n) for n in names], pa.string()))
    return both.take(pa.array(sorted(range(len(names)), key=lambda i: -scores.get(names[i], -1.0)), pa.int64()))


def _place(row: Row) -> tuple[str, str, int, int]:
    return row["dataset"], row["shard"], row["row_group"] or 0, row["image_offset"] or row["row_in_group"] or 0


def _square(preparer: Preparer, image: Answer) -> Pixels | str:
    """The picture as the model takes it, or why there is none."""
    if isinstance(image, Exception):
        return str(image)
    try:
        picture = decode(image, _LARGEST).picture
    except Rejected as error:
        return f"the picture is {error.reason}: {error.detail}"
    if not preparer.fits(picture.height, picture.width):
        return "the picture is too narrow for the model"
    return preparer.picture(picture)
