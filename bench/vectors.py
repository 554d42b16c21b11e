"""A million vectors as an embedding model might give them, a table of them, and queries; all from one seed.

20,000 cluster centres drawn from a normal distribution in 64 dimensions; each vector is a centre (each as likely) plus
0.4 of another such draw, turned into 512 dimensions by a random rotation, plus 0.05 of a draw in all 512, made unit
length and rounded to float16. Queries by pictures are fresh vectors of the same make. Queries by words are such
vectors, with twice the spread, moved by a common step of their own length into a direction in which no picture lies:
the two towers' vectors lie apart in much this way. The table's captions are such vectors too, so that the build can
tune for both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

from pipeline.config import Contract
from pipeline.contract import Layout
from pipeline.database import STORAGE_VERSION, Database
from pipeline.schema import rows_schema

CLUSTERS, INNER, WIDTH = 20_000, 64, 512
SPREAD, NOISE = 0.4, 0.05
FRAGMENT = 10_000  # rows, as a run writes them
_QUERIES = 1_000_000  # parts from here on are queries, not rows


@dataclass(frozen=True)
class Maker:
    """Draws vectors around the same centres."""

    seed: int = 0

    @cached_property
    def _frame(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        centres = rng.normal(size=(CLUSTERS, INNER)).astype(np.float32)
        rotation, _ = np.linalg.qr(rng.normal(size=(WIDTH, INNER + 1)))
        turned = rotation.T.astype(np.float32)
        return centres, turned[:INNER], turned[INNER]

    def rows(self, count: int) -> Iterator[np.ndarray]:
        """`count` vectors, float16, a fragment's worth at a time."""
        for part in range(-(-count // FRAGMENT)):
            yield _unit(self._drawn(min(FRAGMENT, count - part * FRAGMENT), part, SPREAD))

    def pictures(self, count: int, part: int = 0) -> np.ndarray:
        """Queries by pictures (count, 512), float32; another `part` is another draw."""
        return _unit(self._drawn(count, _QUERIES + part, SPREAD)).astype(np.float32)

    def words(self, count: int, part: int = 0) -> np.ndarray:
        """Queries by words, float16."""
        drawn = self._drawn(count, 2 * _QUERIES + part, 2 * SPREAD)
        return _unit(drawn + self._frame[2] * np.linalg.norm(drawn, axis=1, keepdims=True))

    def _drawn(self, count: int, part: int, spread: float) -> np.ndarray:
        centres, rotation, _ = self._frame
        rng = np.random.default_rng([self.seed, part])
        inner = centres[rng.integers(0, CLUSTERS, count)] + spread * rng.normal(size=(count, INNER))
        drawn: np.ndarray = inner.astype(np.float32) @ rotation
        return drawn + NOISE * rng.standard_normal((count, WIDTH), np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    return unit


def name(number: int) -> str:
    """The sha256 that stands for picture `number`."""
    return f"{number * 2654435761 % 2**64:064x}"


def make_table(folder: Path, maker: Maker, count: int) -> Database:
    """A bridgelake table of such vectors, one row a picture; `itm_score` is uniform between 0 and 1."""
    database = Database(str(folder), "laion")
    contract = Contract("0" * 64, "random", "main", "none", WIDTH)
    schema = Layout(rows_schema((), ("image", "text"), WIDTH, "float16"), contract).with_metadata
    rng = np.random.default_rng([maker.seed, 7])
    database.create("", schema)
    start = 0
    for part, vectors in enumerate(maker.rows(count), start=1):
        scores, captions = rng.random(len(vectors), np.float32), maker.words(len(vectors), part)
        rows = _rows(schema, range(start, start + len(vectors)), {"image": vectors, "text": captions}, scores)
        lance.write_dataset(rows, database.path(), mode="append", data_storage_version=STORAGE_VERSION)
        start += len(vectors)
    return database


def _rows(schema: pa.Schema, numbers: range, vectors: dict[str, np.ndarray], scores: np.ndarray) -> pa.Table:
    texts = {
        "id": [f"{n:064x}" for n in numbers],
        "sha256": [name(n) for n in numbers],
        "caption": [f"picture {n} of a thing" for n in numbers],
        "key": [f"{n:09d}" for n in numbers],
        "shard": [f"{n // FRAGMENT:05d}.tar" for n in numbers],
        "dataset": ["laion"] * len(numbers),
        "run_id": ["0" * 12] * len(numbers),
    }
    values: dict[str, pa.Array] = {column: pa.array(text, pa.string()) for column, text in texts.items()}
    values |= {side: pa.array(np.full(len(numbers), 256, np.int32)) for side in ("width", "height")}
    values["caption_index"] = pa.array(np.zeros(len(numbers), np.int32))
    for column, some in vectors.items():
        values[f"{column}_embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(some.reshape(-1)), WIDTH)
    values |= {score: pa.array(scores) for score in ("itc_score", "itm_score")}
    columns = [values.get(f.name, pa.nulls(len(numbers), f.type)) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)
