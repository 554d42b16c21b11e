"""What waits for its commit, looked at again for pairs that were taken down since the readers were told."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.file import LanceFileReader
from lance.fragment import FragmentMetadata

from pipeline.barred import COLUMNS, Takedowns
from pipeline.database import Database, naming, storage_options
from pipeline.errors import TableError
from pipeline.proof import Whole
from pipeline.stores.retry import patiently
from pipeline.takedowns import read_takedowns, strike

_BATCH = 1024  # rows


class Pending:
    """The takedowns as a job knows them. `told` is what its readers know."""

    def __init__(self, database: Database) -> None:
        self.told = read_takedowns(database)
        self._database = database
        self._now = self.told
        self._looked: dict[str, int] = {}  # attempt -> version of the takedowns that its rows were held against

    def look(self, whole: Sequence[Whole], *, written: bool = False) -> list[Whole]:
        """The same without pairs that are taken down by now; to be called on the version that is committed on.

        Args:
            whole: slices that wait.
            written: their rejects are in the reject table.

        Raises:
            TableError: takedowns or fragments cannot be read, or not be written again.
        """
        self._now = read_takedowns(self._database, self._now)
        if self._now.version == self.told.version:
            return list(whole)
        return [self._without(w, written) for w in whole]

    def _without(self, whole: Whole, written: bool) -> Whole:
        attempt = whole.record.attempt
        if whole.keeps or self._looked.get(attempt) == self._now.version:
            return whole
        fragments: list[str] = []
        rows = 0
        for fragment in whole.fragments:
            left, gone = patiently(TableError)(_less, self._database, fragment, self._now)
            fragments += left
            rows += gone
        masks = [self._now.rejects(table) for table in whole.rejects]
        rejects = sum(int(mask.sum()) for mask in masks)
        if written and rejects:
            gone_at = {
                p for t, m in zip(whole.rejects, masks, strict=True) for p in t.filter(m)["position"].to_pylist()
            }
            self._strike(whole, gone_at)
        self._looked[attempt] = self._now.version
        record = whole.record
        return replace(
            whole,
            record=replace(
                record,
                embedded=record.embedded - rows,
                rejected=record.rejected - rejects,
                taken_down=record.taken_down + rows + rejects,
            ),
            rows=whole.rows - rows,
            taken_down=whole.taken_down + rows + rejects,
            fragments=fragments,
            rejects=[table.filter(pa.array(~mask)) for table, mask in zip(whole.rejects, masks, strict=True)],
        )

    def _strike(self, whole: Whole, positions: set[int]) -> None:
        """From the reject table, whoever of this job and `delete.py` comes first."""
        record = whole.record
        mine = (pc.field("dataset") == record.dataset) & (pc.field("attempt") == record.attempt)
        condition = mine & pc.field("position").isin(sorted(positions))

        def find(rejects: lance.LanceDataset) -> list[int]:
            with naming("read", self._database.path("rejects")):
                found: list[int] = rejects.to_table(columns=[], filter=condition, with_row_id=True)[
                    "_rowid"
                ].to_pylist()
            return found

        strike(self._database, "rejects", find)


def _less(database: Database, fragment: str, takedowns: Takedowns) -> tuple[list[str], int]:
    """A fragment that no version holds yet, written again if pairs of it were taken down; and how many."""
    parts = [takedowns.rows(batch) for batch in _read(database, fragment, list(COLUMNS))]
    gone = np.concatenate([np.zeros(0, bool), *parts])
    if not gone.any():
        return [fragment], 0
    rows = pa.Table.from_batches(_read(database, fragment)).filter(pa.array(~gone))
    return (database.write("", rows) if len(rows) else []), int(gone.sum())


def _read(database: Database, fragment: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    for file in FragmentMetadata.from_json(fragment).files:  # a writer makes one
        path = f"{database.path()}/data/{file.path}"
        with naming("read", path):
            reader = LanceFileReader(path, storage_options(database.uri), columns)
            yield from reader.read_all(batch_size=_BATCH).to_batches()
