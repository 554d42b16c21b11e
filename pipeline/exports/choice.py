"""The rows that an export is of: those that meet a condition, or whose ids a query gave."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import lance
import pyarrow as pa

from pipeline.database import Database, naming

_ROWS = 1024  # read at once


@dataclass(frozen=True, slots=True)
class Choice:
    """Rows of a table at one version, in the table's order."""

    database: Database
    dataset: lance.LanceDataset
    where: str = ""  # an SQL condition, checked; empty for all rows
    ids: frozenset[str] | None = None  # or these

    def batches(self, columns: list[str], with_row_id: bool = False) -> Iterator[pa.RecordBatch]:
        """Some columns of all chosen rows, and `_rowid` if asked for."""
        asked = [*columns, "_rowid"] if with_row_id else columns
        scanned = columns if self.ids is None or "id" in columns else ["id", *columns]
        with naming("read", self.database.path()):
            scanner = self.dataset.scanner(
                columns=scanned, filter=self.where or None, batch_size=_ROWS, with_row_id=with_row_id
            )
            for batch in scanner.to_batches():
                chosen = batch if self.ids is None else batch.filter(self._are_chosen(batch["id"]))
                if chosen.num_rows:
                    yield chosen.select(asked)

    def _are_chosen(self, ids: pa.Array) -> pa.Array:
        assert self.ids is not None  # noqa: S101 - asked only then
        return pa.array([one in self.ids for one in ids.to_pylist()], pa.bool_())

    def count(self) -> int:
        """How many rows there are."""
        if self.ids is not None:
            return sum(batch.num_rows for batch in self.batches(["id"]))
        with naming("count rows of", self.database.path()):
            return int(self.dataset.count_rows(self.where or None))

    def take(self, row_ids: Sequence[int], columns: list[str]) -> pa.Table:
        """Some columns of some rows, by their `_rowid`, in that order."""
        with naming("read", self.database.path()):
            # By LanceDB: Lance itself takes rows by their place in the table only.
            table = self.database.connect().open_table(self.database.table, version=self.dataset.version)
            found = table.take_row_ids(list(row_ids)).select(columns).with_row_id().to_arrow()
        place = {row: i for i, row in enumerate(found["_rowid"].to_pylist())}
        return found.take(pa.array([place[row] for row in row_ids])).select(columns)

    @property
    def name(self) -> str:
        """The table, to be shown."""
        return self.database.shown

    @property
    def columns(self) -> list[str]:
        """All of the table but its vectors."""
        return [f.name for f in self.dataset.schema if not pa.types.is_fixed_size_list(f.type)]
