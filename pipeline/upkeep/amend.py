"""Rows and rejects that go -> the new counts of the slices that they are of, so that ledger and table agree.

A row does not name its slice. A shard of one slice leaves no doubt; of a parquet in several, each slice is a run of
row groups, and the rows that the ledger counts of each tell where one ends and the next begins.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import lance
import numpy as np
import pyarrow as pa

from pipeline.errors import LedgerError
from pipeline.records import Outcome, SliceRecord
from pipeline.table import of_shards

Name = tuple[str, str]  # dataset and slice; or dataset and shard
Current = Mapping[str, Mapping[str, SliceRecord]]  # dataset -> slice -> its record that counts


@dataclass(slots=True)
class Gone:
    """What goes of one slice: row ids of the table, and how many rejects."""

    record: SliceRecord
    row_ids: list[int] = field(default_factory=list)
    rejects: int = 0

    @property
    def amended(self) -> SliceRecord:
        """The record with what is left."""
        record, rows = self.record, len(self.row_ids)
        return replace(
            record,
            outcome=Outcome.TAKEN_DOWN,
            replaces=False,
            embedded=record.embedded - rows,
            rejected=record.rejected - self.rejects,
            taken_down=record.taken_down + rows + self.rejects,
        )


def rows_by_slice(dataset: lance.LanceDataset, current: Current, hits: pa.Table) -> dict[Name, Gone]:
    """What goes of which slice.

    Args:
        dataset: `<table>` at the version that the records are of.
        current: the records that count.
        hits: `dataset`, `shard`, `row_group` and `_rowid` of the rows that go.

    Raises:
        LedgerError: the records do not tell of which slice a row is.
    """
    found: dict[Name, Gone] = {}
    of: dict[Name, list[tuple[int | None, int]]] = {}
    columns = [hits[c].to_pylist() for c in ("dataset", "shard", "row_group", "_rowid")]
    for name, shard, group, row_id in zip(*columns, strict=True):
        of.setdefault((name, shard), []).append((group, row_id))
    by_shard: dict[Name, list[SliceRecord]] = {}
    for name, records in current.items():
        for record in records.values():
            if (name, record.shard) in of:
                by_shard.setdefault((name, record.shard), []).append(record)
    for place, rows in of.items():
        mine = by_shard.get(place, [])
        if not mine:
            raise _unknown(place)
        slices = _slices(dataset, place, mine) if len(mine) > 1 else {}
        for group, row_id in rows:
            its = slices.get(group) if len(mine) > 1 else mine[0]
            if its is None:
                raise _unknown(place)
            found.setdefault((place[0], its.slice), Gone(its)).row_ids.append(row_id)
    return found


def _slices(dataset: lance.LanceDataset, place: Name, records: Sequence[SliceRecord]) -> dict[int | None, SliceRecord]:
    """Row group -> the slice that it is of, for those that have rows."""
    groups: Counter[int] = Counter()
    for batch in dataset.scanner(columns=["row_group"], filter=of_shards(place[0], [place[1]])).to_batches():
        values, counts = np.unique(batch["row_group"].fill_null(-1).to_numpy(), return_counts=True)
        groups.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    left = sorted(groups)
    found: dict[int | None, SliceRecord] = {}
    for record in sorted(records, key=lambda r: int(r.slice.rpartition("#")[2])):
        missing = record.embedded
        while missing > 0 and left:
            missing -= groups[left[0]]
            found[left.pop(0)] = record
        if missing:
            raise _unknown(place)
    if left:
        raise _unknown(place)
    return found


def _unknown(place: Name) -> LedgerError:
    return LedgerError(
        f"{place[0]} {place[1]}: the table has other rows of this shard than the ledger counts, so its books cannot be "
        "kept when some go: run verify.py --repair first"
    )


def add_rejects(found: dict[Name, Gone], current: Current, gone: Mapping[Name, int], there: Mapping[Name, int]) -> None:
    """Count rejects that go.

    Args:
        found: by slice; added to.
        current: the records that count.
        gone: dataset and attempt -> its rejects that go.
        there: dataset and attempt -> all its rejects.

    Raises:
        LedgerError: there are others than the ledger counts.
    """
    for name, records in current.items():
        for record in records.values():
            attempt = name, record.attempt
            if not gone.get(attempt):
                continue
            if record.rejected == there[attempt] - gone[attempt]:
                continue  # counted by a takedown that was killed before it removed them
            if record.rejected != there[attempt]:
                raise LedgerError(
                    f"{name} {record.slice}: there are {there[attempt]} rejects, the ledger counts {record.rejected}: "
                    "run verify.py --repair first"
                )
            found.setdefault((name, record.slice), Gone(record)).rejects = gone[attempt]
