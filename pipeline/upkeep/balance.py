"""Whether ledger, log, rows, rejects and run records agree with each other.

Each check names what is wrong in `findings`, and returns the shards whose books cannot be trusted.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa

from pipeline.database import Database
from pipeline.records import Outcome, SliceRecord
from pipeline.runs import of_work
from pipeline.upkeep.accounts import COUNTED_ANEW, Accounts, Place
from pipeline.upkeep.census import Census
from pipeline.upkeep.findings import Findings

FINISHED = ("done", "incomplete")  # outcomes of runs that counted what they committed to the end


def check_records(accounts: Accounts, findings: Findings) -> set[Place]:
    """The ledger against the table's transactions, and each record in itself."""
    findings.checked["commits"] = len({version for version, _ in accounts.log})
    findings.checked["ledger rows"] = len(accounts.recorded)
    for version, record in accounts.missing:
        if version > accounts.stands_at:
            findings.problem("not absorbed", f"version {version} brought {_name(record)}, the ledger does not know")
        else:
            findings.problem("ledger", f"it lacks {_name(record)}, which version {version} brought")
    log = set(accounts.log)
    for (version, record), count in Counter(accounts.recorded).items():
        if count > 1:
            findings.problem("ledger", f"it has {_name(record)} of version {version} {count} times", count - 1)
        if version in accounts.kept and (version, record) not in log:
            findings.problem("ledger", f"it has {_name(record)} of version {version}, which did not bring it")
    if accounts.newest > accounts.rows.dataset.latest_version:
        text = f"it stands at version {accounts.newest}, the table is at {accounts.rows.version}: was it made anew?"
        findings.problem("ledger", text)
    return _check_counts(accounts, findings)


def _check_counts(accounts: Accounts, findings: Findings) -> set[Place]:
    wrong = set()
    for record in accounts.current:
        if record.error == COUNTED_ANEW:
            findings.warn("to be embedded again", f"{_name(record)}: run embed_laion.py")
        if record.read != record.embedded + record.rejected + record.taken_down:
            counts = f"{record.embedded} embedded + {record.rejected} rejected + {record.taken_down} taken down"
            findings.problem("counts", f"{_name(record)}: {record.read} read, but {counts}")
            wrong.add((record.dataset, record.shard))
    findings.checked["slices"] = len(accounts.current)
    return wrong


def _name(record: SliceRecord) -> str:
    committed = record.outcome == Outcome.COMMITTED
    return f"{record.dataset} {record.slice}" if committed else f"{record.dataset} {record.slice} ({record.outcome})"


def check_rows(accounts: Accounts, census: Census, findings: Findings) -> set[Place]:
    """The rows of each shard against the ledger's records."""
    known: Counter[Place] = Counter()
    for record in accounts.current:
        known[record.dataset, record.shard] += record.embedded
    wrong = {place for place in known.keys() | census.by_shard.keys() if known[place] != census.by_shard[place]}
    for dataset, shard in sorted(wrong):
        there, told = census.by_shard[dataset, shard], known[dataset, shard]
        findings.problem("rows", f"{dataset} {shard}: the table has {there}, the ledger counts {told}")
    findings.checked["shards"] = len(known.keys() | census.by_shard.keys())
    return wrong


@dataclass(slots=True)
class Leftover:
    """Rejects of one attempt that do not count: it was never committed, or something replaced it."""

    dataset: str
    attempt: str
    run_id: str
    latest: datetime
    rows: int = 0


@dataclass(slots=True)
class Rejects:
    """What the rejects are. `doubled` are `_rowid`s of rows that stand a second time."""

    version: int = 0
    doubled: list[int] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)
    doubted: set[Place] = field(default_factory=set)


def check_rejects(database: Database, accounts: Accounts, findings: Findings) -> Rejects:
    """Of each slice, the rejects of the attempt that counts: as many as the ledger says, each position once.

    In memory: 24 bytes for each reject that counts.
    """
    found, records = Rejects(), accounts.by_attempt
    numbers = {name: i for i, name in enumerate(records)}
    parts: list[np.ndarray] = [np.empty((3, 0), np.int64)]  # number of the attempt, position, row id
    leftovers: dict[tuple[str, str], Leftover] = {}
    for batch in _reject_batches(database, found):
        mine = np.full(batch.num_rows, -1, np.int64)
        for i, row in enumerate(batch.select(["dataset", "attempt", "run_id", "at"]).to_pylist()):
            name = row["dataset"], row["attempt"]
            mine[i] = numbers.get(name, -1)
            if mine[i] < 0:
                one = leftovers.setdefault(name, Leftover(*name, row["run_id"], row["at"]))
                one.rows, one.latest = one.rows + 1, max(one.latest, row["at"])
        positions = batch["position"].fill_null(-1).to_numpy()
        parts.append(np.stack([mine, positions, batch["_rowid"].to_numpy().astype(np.int64)])[:, mine >= 0])
    found.leftovers = list(leftovers.values())
    _check_positions(list(records.values()), np.concatenate(parts, axis=1), found, findings)
    return found


def _reject_batches(database: Database, found: Rejects) -> Iterator[pa.RecordBatch]:
    table = database.open("rejects")
    if table is not None:
        found.version = table.version
        columns = ["dataset", "attempt", "position", "run_id", "at"]
        yield from table.scanner(columns=columns, with_row_id=True).to_batches()


def _check_positions(records: list[SliceRecord], counted: np.ndarray, found: Rejects, findings: Findings) -> None:
    counted = counted[:, np.lexsort(counted[::-1])]
    again = np.zeros(counted.shape[1], bool)
    again[1:] = np.all(counted[:2, 1:] == counted[:2, :-1], axis=0)
    found.doubled = counted[2, again].tolist()
    doubled = np.bincount(counted[0, again], minlength=len(records))
    left = counted[:2, ~again]
    distinct = np.bincount(left[0], minlength=len(records))
    reads = np.array([record.read for record in records], np.int64)
    outside = left[0, (left[1] < 0) | (left[1] >= reads[left[0]])]
    strays = np.bincount(outside, minlength=len(records))
    for record, here, twice, stray in zip(records, distinct, doubled, strays, strict=True):
        if twice:
            text = f"{_name(record)}: {twice} rejects of attempt {record.attempt} stand twice"
            findings.problem("doubled reject", text, int(twice))
        if here != record.rejected or stray:
            text = f"{here} positions are rejected in attempt {record.attempt}, the ledger counts {record.rejected}"
            beyond = f", {stray} of them outside its {record.read} pairs" if stray else ""
            findings.problem("rejects", f"{_name(record)}: {text}{beyond}")
            found.doubted.add((record.dataset, record.shard))
    findings.checked["rejects"] = int(distinct.sum())


def check_runs(database: Database, accounts: Accounts, findings: Findings) -> None:
    """The rows that each finished run says it committed, against the records that it left in the ledger.

    Runs that ended before the ledger was counted anew are passed over: their records may be lost.
    """
    table = database.open("runs")
    runs = [] if table is None else database.scan("runs", table, ["run_id", "outcome", "ended", "summary"]).to_pylist()
    committed = _committed_by(accounts)
    checked = 0
    for run in runs:
        if of_work(run["run_id"]) or run["outcome"] not in FINISHED:
            continue
        if accounts.rebuilt and run["ended"] < accounts.rebuilt:
            continue
        told, there = json.loads(run["summary"])["rows"], committed[run["run_id"]]
        if told != there:
            findings.problem("run", f"run {run['run_id']} says that it committed {told} rows, the ledger says {there}")
        checked += 1
    findings.checked["runs"] = checked


def _committed_by(accounts: Accounts) -> Counter[str]:
    """Run -> the rows that it brought: of a slice that was there before, only those that are new."""
    brought: Counter[str] = Counter()
    for records in accounts.records.values():
        known: dict[str, dict[str, SliceRecord]] = {}  # shard -> slice -> its record
        for _, record in sorted(records, key=lambda each: each[0]):
            of_shard = known.setdefault(record.shard, {})
            if record.outcome == Outcome.PRUNED:
                of_shard.clear()
            if record.outcome not in (Outcome.COMMITTED, Outcome.TAKEN_DOWN):
                continue
            before = of_shard.get(record.slice)
            touched = before is not None and before.attempt == record.attempt
            added = before is not None and not record.replaces
            if not touched:
                brought[record.run_id] += record.embedded - (before.embedded if before and added else 0)
            of_shard[record.slice] = record
    return brought
