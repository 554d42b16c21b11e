"""Indexes of what is filtered and of the words in captions: made where they are missing, else brought up to date."""

import time
from dataclasses import dataclass

import lance
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.database import Database
from pipeline.indexes.build import again, described, fold
from pipeline.terminal import size

SCALARS = ("id", "shard", "sha256", "itc_score", "itm_score", "tags")
CAPTION = "caption"
_FEW = 2_000  # different values, up to which each has a bitmap of its rows


@dataclass(frozen=True, slots=True)
class Small:
    """An index on a column that is no vector."""

    column: str
    kind: str
    bytes: int
    seconds: float

    @property
    def line(self) -> str:
        """As a person reads it."""
        return f"{self.column}: {self.kind}, {size(self.bytes)}, {self.seconds:.1f} s"


def index_scalars(database: Database, columns: tuple[str, ...]) -> list[Small]:
    """Index these columns, those of them that the table has.

    Raises:
        TableError: one cannot be read or written.
    """
    known = database.require().schema.names
    return [_index(database, name) for name in columns if name in known]


def _index(database: Database, column: str) -> Small:
    started, dataset = time.monotonic(), database.require()
    if described(dataset, column) is not None:
        fold(database, column)
    else:
        kind = _kind(dataset, column)
        again(database, lambda current: current.create_scalar_index(column, kind))
    made = described(database.require(), column)
    kind, held = (made.index_type.lower(), made.total_size_bytes or 0) if made else ("none", 0)
    return Small(column, kind, held, round(time.monotonic() - started, 2))


def _kind(dataset: lance.LanceDataset, column: str) -> str:
    if column == CAPTION:
        return "INVERTED"
    if pa.types.is_list(dataset.schema.field(column).type):
        return "LABEL_LIST"
    return "BITMAP" if column == "shard" and _few(dataset, column) else "BTREE"


def _few(dataset: lance.LanceDataset, column: str) -> bool:
    """Whether a column has few different values."""
    seen: set[str | None] = set()
    for batch in dataset.scanner(columns=[column]).to_batches():
        seen.update(pc.unique(batch[column]).to_pylist())
        if len(seen) > _FEW:
            return False
    return True
