"""How a lake stands: its schedule, the last runs, rejects, rows, versions, indexes, quarantined shards. Only read."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.database import Database, naming
from pipeline.quarantine import quarantined
from pipeline.runs import of_work
from pipeline.ticks.book import Book, read_book
from pipeline.ticks.steps import LIVE
from pipeline.upkeep.accounts import read_accounts

_LAST = 5  # ticks and runs that are shown

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Index:
    """One index, and what the last build or tick measured of it."""

    column: str
    kind: str
    indexed: int  # rows
    left: int  # rows that are not folded in yet; they are found without it
    recall: Mapping[str, float]  # sort of queries -> recall; empty if it is not of vectors, or was never measured


@dataclass(frozen=True, slots=True)
class Status:
    """How a lake stands."""

    table: str
    cron: str | None
    next: datetime | None  # tick, by the cron line
    ticks: Sequence[Row]  # the latest first
    runs: Sequence[Row]  # the latest first
    quarantined: Mapping[str, str]  # dataset and shard -> its last error
    rows: int = 0
    version: int = 0  # of the table, if there is one yet
    versions: Sequence[int] = ()
    tags: Mapping[str, int] = field(default_factory=dict)
    live_rows: int | None = None  # at the tag live
    rejects: Mapping[str, int] = field(default_factory=dict)  # reason -> pairs
    indexes: Sequence[Index] = ()

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def read_status(database: Database) -> Status:
    """As it is now.

    Raises:
        TableError: there is no such table, or it cannot be read.
    """
    dataset, book, now = database.open(), read_book(database), datetime.now(UTC)
    if dataset is None and book.rows is None:
        raise database.missing()
    records = _records(database)
    with naming("read the state of", database.path()):
        return Status(
            table=database.shown,
            cron=f"{book.cron.text} {book.cron.timezone}" if book.cron else None,
            next=book.cron.after(now) if book.cron else None,
            ticks=_ticks(book, now),
            runs=[_run(record) for record in records if not of_work(record["run_id"])][:_LAST],
            quarantined=quarantined(database),
            **(_rows(database, dataset, records) if dataset is not None else {}),
        )


def _rows(database: Database, dataset: lance.LanceDataset, records: Sequence[Row]) -> dict[str, Any]:
    """What a table that is there adds."""
    tags = {name: about["version"] for name, about in dataset.tags.list().items()}
    return {
        "rows": dataset.count_rows(),
        "version": dataset.version,
        "versions": [ref["version"] for ref in dataset.version_refs()],
        "tags": tags,
        "live_rows": dataset.checkout_version(LIVE).count_rows() if LIVE in tags else None,
        "rejects": _rejects(database),
        "indexes": _indexes(dataset, records),
    }


def _ticks(book: Book, now: datetime) -> list[Row]:
    return [
        {
            "tick": tick.name,
            "started": tick.started,
            "outcome": tick.said(now),
            "seconds": round((tick.seen - tick.started).total_seconds(), 1),
            "live": tick.summary.get("live"),
            "why": tick.why,
            "quarantined": list(tick.summary.get("quarantined", {})),
        }
        for tick in book.ticks[: -_LAST - 1 : -1]
    ]


def _records(database: Database) -> list[Row]:
    """Run records, the latest first."""
    runs = database.open("runs")
    if runs is None:
        return []
    table = database.scan("runs", runs, ["run_id", "started", "outcome", "summary"])
    records: list[Row] = table.sort_by([("started", "descending")]).to_pylist()
    return records


def _run(record: Row) -> Row:
    did = json.loads(record["summary"])
    named = {name: did.get(name) for name in ("rows", "pairs", "pairs_per_second", "seconds", "vanished")}
    rejects = sum((did.get("rejects") or {}).values())
    failed = list(did.get("failures") or {})
    return {n: record[n] for n in ("run_id", "started", "outcome")} | named | {"rejects": rejects, "failed": failed}


def _rejects(database: Database) -> dict[str, int]:
    """Reason -> pairs, of the attempts that count."""
    rejects, counts = database.open("rejects"), Counter[str]()
    if rejects is None:
        return {}
    attempts = {attempt for _, attempt in read_accounts(database).by_attempt}
    mine = pa.array(sorted(attempts), pa.string())
    for batch in rejects.scanner(columns=["attempt", "reason"]).to_batches():
        reasons = batch.filter(pc.is_in(batch["attempt"], mine))["reason"]
        counts.update({one["values"]: one["counts"] for one in pc.value_counts(reasons).to_pylist()})
    return dict(counts.most_common())


def _indexes(dataset: lance.LanceDataset, records: Sequence[Row]) -> list[Index]:
    found = []
    for there in dataset.describe_indices():
        column, statistics = there.field_names[0], dataset.stats.index_stats(there.name)
        known = statistics["num_indexed_rows"], statistics["num_unindexed_rows"]
        recall = _recall(column.removesuffix("_embedding"), records)
        found.append(Index(column, there.index_type.lower(), *known, recall))
    return sorted(found, key=lambda index: (not index.recall, index.column))


def _recall(column: str, records: Sequence[Row]) -> dict[str, float]:
    """As the latest record has it that measured this column."""
    for record in records:
        if record["run_id"].startswith("build_index-"):
            for one in json.loads(record["summary"])["vectors"]:
                if one["column"] == column and one["tuned"]:
                    return {measured["sort"]: measured["recall"] for measured in one["measured"]}
    return {}
