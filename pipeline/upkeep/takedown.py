"""Take pairs down: written down first, then removed from table and rejects, with the books kept slice by slice.

Why no running job can bring one back is told in `pipeline.takedowns`.
"""

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.barred import COLUMNS, Takedowns, takedowns_of
from pipeline.database import Database, naming
from pipeline.errors import TableError, VersionGoneError
from pipeline.ledger import Ledger
from pipeline.records import properties
from pipeline.removal import Removal
from pipeline.retrieval.where import check_where
from pipeline.stores.retry import patiently
from pipeline.table import Rows, latest
from pipeline.takedowns import read_takedowns, remember, strike
from pipeline.upkeep.amend import Current, Gone, Name, add_rejects, rows_by_slice
from pipeline.upkeep.orders import Order

TOKEN = "bridgelake.takedown"  # noqa: S105  # a property's name: tells whether a commit has landed
_FILTERED = 10_000  # values in a filter, which an index can answer; of more, all rows are looked at
_SLICES = 2000  # in one commit
_BATCH = 8192
_PLACE = ["id", "dataset", "shard", "key", "row_group"]

Values = Mapping[str, tuple[str, ...]]
Sample = tuple[str, str, str]  # dataset, shard, key


@dataclass(slots=True)
class Removed:
    """What was taken down, or would be: `ids` of rows; `samples` are those whose picture is."""

    new: int = 0  # takedowns that were not known before
    rows: int = 0
    rejects: int = 0
    slices: set[Name] = field(default_factory=set)
    commits: int = 0
    samples: set[Sample] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)

    def add(self, some: Mapping[Name, Gone]) -> None:
        """Count what one commit removed."""
        self.rows += sum(len(gone.row_ids) for gone in some.values())
        self.slices |= set(some)
        self.commits += 1


def values_of(database: Database, order: Order) -> Values:
    """All that an order names, the ids of the rows that meet its condition among them.

    Raises:
        TableError: there is no such table.
        ConfigError: the condition is not valid.
    """
    rows = Rows.open(database)
    if rows is None:
        raise database.missing()
    if not order.where.strip():
        return order.values
    check_where(rows.dataset, order.where)
    with naming("read", database.path()):
        met = rows.dataset.to_table(columns=["id"], filter=order.where)["id"].to_pylist()
    return {**order.values, "id": tuple(dict.fromkeys([*order.ids, *met]))}


def count(database: Database, values: Values) -> Removed:
    """What would go; nothing is written."""
    rows, asked, known = latest(database), takedowns_of(values), read_takedowns(database)
    hits = find_rows(rows.dataset, values, asked)
    rejects = find_rejects(database.open("rejects"), asked, _samples(hits), None)
    new = sum(int((~known.hit(column, some)).sum()) for column, some in values.items())
    places = set(zip(hits["dataset"].to_pylist(), hits["shard"].to_pylist(), strict=True))
    return Removed(new, len(hits), len(rejects.row_ids), places)


def take_down(database: Database, values: Values, why: str) -> Removed:
    """Write down, and remove.

    Raises:
        TableError: a table cannot be read or written; the same again goes on from there.
        LedgerError: the ledger contradicts the table, so that the books could not be kept.
    """
    removed, asked = Removed(), takedowns_of(values)
    removed.new = remember(database, values, why)
    ledger = Ledger(database, database.table)
    while not _remove_some(database, ledger, values, asked, removed):
        pass
    current = _current_attempts(ledger.everything())
    removed.rejects = strike(
        database, "rejects", lambda rejects: find_rejects(rejects, asked, removed.samples, current).row_ids
    )
    gone = pa.array(sorted({*removed.ids, *values.get("id", ())}), pa.string())
    strike(database, "duplicates", lambda duplicates: _naming(duplicates, gone))
    return removed


def _remove_some(database: Database, ledger: Ledger, values: Values, asked: Takedowns, removed: Removed) -> bool:
    """One commit; whether nothing is left. The first one is made whatever is found: running jobs have to notice it."""
    token, tried, base = uuid.uuid4().hex, dict[Name, Gone](), 0
    for attempt in patiently(TableError):
        with attempt:
            rows = latest(database)
            ledger.absorb(rows)
            if attempt.retry_state.attempt_number > 1 and _landed(database, rows, base, token):
                removed.add(tried)
                return False  # look once more
            hits = find_rows(rows.dataset, values, asked)
            removed.samples |= _samples(hits)
            removed.ids |= set(hits["id"].to_pylist())
            found = _found(database, rows, ledger.everything(), hits, asked, removed.samples)
            if not found and removed.commits:
                return True
            tried, base = dict(islice(found.items(), _SLICES)), rows.version
            said = properties(gone.amended for gone in tried.values()) | {TOKEN: token}
            row_ids = [row_id for gone in tried.values() for row_id in gone.row_ids]
            without = Removal(row_ids=row_ids) if row_ids else None
            dataset = database.swap("", rows.dataset, rows.schema, [], said, without)
            ledger.absorb(Rows(database, dataset))
    removed.add(tried)
    return len(tried) == len(found)


def _naming(duplicates: lance.LanceDataset, ids: pa.Array) -> list[int]:
    """Row ids of duplicates that name a row which went; the others of its group are told by the next look."""
    with naming("read", duplicates.uri):
        table = duplicates.to_table(columns=["id", "duplicate_of"], with_row_id=True)
    mask = pc.or_(*(pc.is_in(table[column], value_set=ids) for column in ("id", "duplicate_of")))
    found: list[int] = table["_rowid"].filter(mask).to_pylist()
    return found


def _landed(database: Database, rows: Rows, base: int, token: str) -> bool:
    with suppress(VersionGoneError):  # versions were cleaned up: then what landed is not counted, and that is all
        later = range(base + 1, rows.version + 1)
        return any(database.properties("", rows.dataset, v).get(TOKEN) == token for v in later)
    return False


def _found(
    database: Database, rows: Rows, current: Current, hits: pa.Table, asked: Takedowns, samples: set[Sample]
) -> dict[Name, Gone]:
    found = rows_by_slice(rows.dataset, current, hits)
    # After the table's version was opened: rejects are written before the commit that they are of.
    rejects = find_rejects(database.open("rejects"), asked, samples, _current_attempts(current))
    add_rejects(found, current, rejects.gone, rejects.there)
    return found


def _current_attempts(current: Current) -> set[Name]:
    return {(name, record.attempt) for name, records in current.items() for record in records.values()}


def _samples(hits: pa.Table) -> set[Sample]:
    """Those whose picture was taken down: none of their rejects says so itself."""
    mine = hits.filter(hits["by_picture"])
    return set(zip(*(mine[c].to_pylist() for c in ("dataset", "shard", "key")), strict=True))


def find_rows(dataset: lance.LanceDataset, values: Values, asked: Takedowns) -> pa.Table:
    """Rows that a takedown names: `_PLACE`, `_rowid`, and `by_picture`, whether by its SHA-256.

    Values are bound, never pasted into SQL.
    """
    parts = []
    for column in COLUMNS:
        if some := values.get(column, ()):
            found = pa.Table.from_batches(_batches(dataset, column, some, asked), _schema(dataset))
            parts.append(found.append_column("by_picture", pa.array(np.full(len(found), column == "sha256"))))
    if not parts:
        empty = _schema(dataset).empty_table()
        return empty.append_column("by_picture", pa.array([], pa.bool_()))
    hits = pa.concat_tables(reversed(parts))  # a picture's hits first
    _, first = np.unique(hits["_rowid"].to_numpy(), return_index=True)
    return hits.take(pa.array(first))


def _schema(dataset: lance.LanceDataset) -> pa.Schema:
    return pa.schema([*(dataset.schema.field(c) for c in _PLACE), pa.field("_rowid", pa.uint64())])


def _batches(
    dataset: lance.LanceDataset, column: str, values: tuple[str, ...], asked: Takedowns
) -> Iterator[pa.RecordBatch]:
    columns, names = list(dict.fromkeys([*_PLACE, column])), [*_PLACE, "_rowid"]
    filter_ = pc.field(column).isin(list(values)) if len(values) <= _FILTERED else None
    with naming("read", dataset.uri):
        for batch in dataset.scanner(columns=columns, filter=filter_, batch_size=_BATCH, with_row_id=True).to_batches():
            mine = batch.filter(pa.array(asked.hit(column, batch[column].to_pylist())))
            yield pa.RecordBatch.from_arrays([mine[n] for n in names], schema=_schema(dataset))


@dataclass(slots=True)
class Rejects:
    """Rejects that go; dataset and attempt -> how many go, and how many there are."""

    row_ids: list[int] = field(default_factory=list)
    gone: Counter[Name] = field(default_factory=Counter)
    there: Counter[Name] = field(default_factory=Counter)


def find_rejects(
    rejects: lance.LanceDataset | None, asked: Takedowns, samples: set[Sample], current: set[Name] | None
) -> Rejects:
    """Rejects of pairs that a takedown names by id or URL, and of samples whose picture it names.

    Args:
        rejects: the reject table.
        asked: the takedowns.
        samples: whose picture was taken down.
        current: attempts that are committed, or None for any: only theirs are told by their sample, for a job that
            has yet to commit finds its own by id and URL alone.
    """
    found = Rejects()
    if rejects is None:
        return found
    columns = ["dataset", "shard", "key", "caption_index", "url", "attempt"]
    with naming("read", rejects.uri):
        for batch in rejects.scanner(columns=columns, batch_size=_BATCH, with_row_id=True).to_batches():
            mask = asked.rejects(batch)
            attempts = list(zip(batch["dataset"].to_pylist(), batch["attempt"].to_pylist(), strict=True))
            if samples:
                places = zip(*(batch[c].to_pylist() for c in columns[:3]), strict=True)
                both = zip(places, attempts, strict=True)
                told = [place in samples and (current is None or attempt in current) for place, attempt in both]
                mask |= np.array(told, bool)
            found.there.update(attempts)
            found.gone.update(attempts[i] for i in mask.nonzero()[0])
            found.row_ids += batch["_rowid"].filter(pa.array(mask)).to_pylist()
    return found
