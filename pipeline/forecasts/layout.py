"""How large the table's new fragments will be: sampled rows, laid out in memory as a run lays them out on the store."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.contract import Layout
from pipeline.database import Database
from pipeline.embed import Embedder, Footprint, Pixels, Vectors, embed_batch
from pipeline.gather import positions_of
from pipeline.schema import Kind
from pipeline.stored import Stored
from pipeline.write import Job, Target, write_jobs

_CALL = 1024  # pairs that are given their vectors at once


@dataclass(frozen=True, slots=True)
class Weight:
    """A fragment of n rows has `fixed + n * row` bytes."""

    fixed: float = 0.0
    row: float = 0.0

    def of(self, rows: float, fragments: float) -> float:
        """Bytes of so many rows in so many fragments."""
        return rows * self.row + fragments * self.fixed


@dataclass(frozen=True, slots=True)
class _Random:
    """Vectors that no storage can make smaller; a model's cannot be made much smaller either."""

    image: Vectors
    text: Vectors
    cross: Vectors
    itc_score: Vectors
    itm_score: Vectors
    tags: "_Words | None"


@dataclass(frozen=True, slots=True)
class _Words:
    """Tags of about a word's length, no two alike."""

    words: list[list[str]]
    probabilities: Vectors


@dataclass(frozen=True, slots=True)
class _StandIn(Embedder):
    """An embedder that looks at nothing."""

    dimension: int
    tags: int
    dtype: str = "float32"

    def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> _Random:
        random = np.random.default_rng(len(image_of))
        vectors = random.normal(size=(3, len(image_of), self.dimension)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        words = [[f"{n:06x}" for n in row] for row in random.integers(0, 2**24, (len(image_of), self.tags)).tolist()]
        tags = _Words(words, random.random((len(words), self.tags), dtype=np.float32)) if self.tags else None
        itc, itm = random.random((2, len(image_of)), dtype=np.float32)
        image, text, cross = vectors
        return _Random(image, text, cross, itc, itm, tags)

    embed_exactly = embed

    def footprint(self) -> Footprint:
        return Footprint(0, 0, _CALL)


def weigh(tables: Sequence[pa.Table], stored: Stored, layout: Layout, dataset: str) -> Weight:
    """Lay out each slice's sampled rows in fragments, whole and in half; what the second half adds is a row's share."""
    target = Target(Database("memory://forecast", "rows"), layout.schema, dataset, "0" * 12)
    rows = halves = added = whole = fragments = 0
    embedder = _StandIn(stored.dimension, stored.tags.count if stored.tags else 0)
    parts = [embed_batch(_samples(table), embedder, stored, _CALL) for table in tables]
    for part in parts:
        pairs = part.filter(pc.equal(part["kind"], Kind.PAIR))
        if len(pairs) < 2:
            continue
        size, half = _size(target, pairs), _size(target, pairs.slice(0, len(pairs) // 2))
        fragments += 1
        rows += len(pairs)
        halves += len(pairs) - len(pairs) // 2
        added += size - half
        whole += size
    if not rows:
        return Weight()
    row = added / halves
    return Weight(max(0.0, (whole - rows * row) / fragments), row)


def _samples(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["kind"], Kind.SAMPLE))


def _size(target: Target, pairs: pa.Table) -> int:
    (report,) = write_jobs(target, [Job("sample", (0,), positions_of(pairs), 1)], pairs)
    return sum(file["file_size_bytes"] for fragment in report.fragments for file in json.loads(fragment)["files"])
