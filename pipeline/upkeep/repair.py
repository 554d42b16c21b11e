"""Mend what a check found and what can be derived; whatever is done is said.

The table's rows are the truth, and its transactions the log. Rows are removed only where the very same row stands
again. A shard whose rows or books cannot be trusted is counted anew: a record with what the table holds of it and
nothing else, so that the next run finds it changed, embeds it again and replaces its rows in one commit.
"""

import uuid
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.database import Database
from pipeline.errors import CommitConflictError
from pipeline.records import COLUMNS, properties
from pipeline.removal import Removal
from pipeline.schema import SHARDS, SOURCE
from pipeline.stores.retry import patiently
from pipeline.upkeep.accounts import COUNTED_ANEW, Accounts, counted_anew, read_accounts, record_of, redeclared
from pipeline.upkeep.compact import sweep
from pipeline.upkeep.findings import Findings
from pipeline.upkeep.inspection import Inspection, inspect_table
from pipeline.upkeep.taken import finish_takedowns

_AT_ONCE = 1000  # ids, or row ids, in one condition

T = TypeVar("T")


def repair(database: Database, found: Inspection) -> tuple[Findings, Inspection]:
    """Mend, and look again.

    Raises:
        CommitConflictError: somebody committed meanwhile; try again when no job runs.
    """
    mended = _remove_doubled_rows(database, found)
    mended += _remove_doubled_rejects(database, found)
    mended += _write_down(database)
    mended += finish_takedowns(database) if found.taken else []
    again = inspect_table(database, Findings())
    lost = found.accounts.ledger is None and min(found.accounts.kept) > 1
    mended += _count_anew(database, again, lost)
    if read_accounts(database).balanced and (swept := sweep(database)):
        mended.append(f"{swept} rejects that do not count were removed")
    findings = Findings(mended=mended)
    return findings, inspect_table(database, findings)


def _remove_doubled_rows(database: Database, found: Inspection) -> list[str]:
    """Of rows with one id and the same source, keep the first."""
    dataset, gone, said = found.accounts.rows.dataset, [], []
    columns = ["id", "dataset", *(f.name for f in SOURCE)]
    for ids in _chunks(found.census.doubled):
        table = dataset.to_table(columns=columns, filter=pc.field("id").isin(ids), with_row_id=True)
        rows = {row["_rowid"]: row for row in table.to_pylist()}
        for id_ in ids:
            first, *others = (rows[number] for number in found.census.doubled[id_])
            differ = [c for c in columns if any(row[c] != first[c] for row in others)]
            if differ:
                said.append(f"not mended: id {id_}: its rows differ in {', '.join(differ)}")
            else:
                gone += [row["_rowid"] for row in others]
    for some in _chunks(gone):
        dataset = database.swap("", dataset, dataset.schema, [], without=Removal(_these(some)))
    return said + ([f"{len(gone)} rows that stood again under the same id were removed"] if gone else [])


def _remove_doubled_rejects(database: Database, found: Inspection) -> list[str]:
    gone = found.rejects.doubled
    rejects = database.open("rejects")
    if not gone or rejects is None:
        return []
    if rejects.version != found.rejects.version:
        raise CommitConflictError(f"{database.path('rejects')} was written meanwhile: try again when no job runs")
    for some in _chunks(gone):
        rejects = database.swap("rejects", rejects, rejects.schema, [], without=Removal(_these(some)))
    return [f"{len(gone)} rejects that stood again were removed"]


def _write_down(database: Database) -> list[str]:
    """Make the ledger say what the commits brought whose versions are still there."""
    for attempt in patiently(CommitConflictError):
        with attempt:
            accounts = read_accounts(database)
            rows = [record.row(version) for version, record in accounts.missing]
            wrong = _wrong_rows(accounts)
            if not rows and not wrong:
                return []
            ledger = accounts.ledger or database.create("shards", SHARDS)
            fragments = database.write("shards", pa.Table.from_pylist(rows, schema=SHARDS)) if rows else []
            database.swap("shards", ledger, SHARDS, fragments, without=Removal(_these(wrong)) if wrong else None)
    return [f"the ledger: {len(rows)} rows were written from the table's log, {len(wrong)} removed"]


def _wrong_rows(accounts: Accounts) -> list[int]:
    """Ledger rows that stand again, or that no commit brought."""
    if accounts.ledger is None:
        return []
    log, seen, wrong = set(accounts.log), set(), []
    for row in accounts.ledger.to_table(columns=[*COLUMNS, "version"], with_row_id=True).to_pylist():
        version, record = row["version"], record_of(row)
        if version is None or version > accounts.rows.version:
            continue
        if (version, record) in seen or (version in accounts.kept and (version, record) not in log):
            wrong.append(row["_rowid"])
        seen.add((version, record))
    return wrong


def _count_anew(database: Database, found: Inspection, lost: bool) -> list[str]:
    """Commit a record of each shard that cannot be trusted; `lost`: and say that the ledger had to be made again."""
    run_id, latest, rows = uuid.uuid4().hex[:12], found.accounts.latest, found.accounts.rows
    done = {(r.dataset, r.shard): r.embedded for r in found.accounts.current if r.error == COUNTED_ANEW}
    places = [p for p in sorted(found.doubted, key=str) if done.get(p) != found.census.by_shard[p]]
    said = [
        f"not mended: {dataset} {shard}: nothing tells any more where this dataset's shards lie"
        for dataset, shard in places
        if dataset not in latest
    ]
    records = [
        counted_anew(latest[dataset], shard, found.census.by_shard[dataset, shard], run_id, number)
        for number, (dataset, shard) in enumerate(places)
        if dataset in latest
    ]
    if lost or records:
        declared = redeclared(latest, run_id, COUNTED_ANEW)
        database.swap("", rows.dataset, rows.schema, [], properties([*declared, *records]))
        _write_down(database)
    return said + [
        f"{r.dataset} {r.shard}: counted anew, {r.embedded} rows; the next run embeds it again" for r in records
    ]


def _these(row_ids: Iterable[int]) -> str:
    return f"_rowid IN ({', '.join(map(str, row_ids))})"


def _chunks(many: Iterable[T]) -> Iterator[list[T]]:
    left = iter(many)
    while some := list(islice(left, _AT_ONCE)):
        yield some
