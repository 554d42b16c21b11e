"""What a statement gave: an Arrow table with a face for notebooks, or batches on their way to a file."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.exports.flat import plain_rows
from pipeline.sql.limits import Limits
from pipeline.tabular import Tabular

_SHOWN = 100  # rows in a notebook


@dataclass(frozen=True, slots=True, repr=False)
class Answer(Tabular):
    """All rows of an answer."""

    table: pa.Table
    notes: tuple[str, ...] = ()  # what the user should know of them

    def to_json(self) -> dict[str, Any]:
        """As one object for machines; numbers that JSON does not know are null."""
        return {"columns": self.table.schema.names, "rows": plain_rows(self.table), "notes": list(self.notes)}

    def __repr__(self) -> str:
        from pipeline.sql.output import show  # rich, which a program does without

        text = io.StringIO()
        show(self.table.to_batches(), self.table.schema, text)
        return text.getvalue().rstrip()

    def _repr_html_(self) -> str:
        """What a notebook shows; it escapes what is in the rows."""
        return str(self.table.slice(0, _SHOWN).to_pandas().to_html())


@dataclass(frozen=True, slots=True)
class Batches:
    """Rows as they come; they can be gone through once."""

    schema: pa.Schema
    notes: tuple[str, ...]  # what the user should know of them
    batches: Iterator[pa.RecordBatch]
    limits: Limits

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self.batches

    def whole(self) -> Answer:
        """All of them.

        Raises:
            LimitError: they do not fit into the memory that the statement may take.
        """
        rows, size = list[pa.RecordBatch](), 0
        for batch in self.batches:
            rows.append(batch)
            size += batch.nbytes
            if size > self.limits.memory:
                raise self.limits.too_large
        return Answer(pa.Table.from_batches(rows, self.schema), self.notes)
