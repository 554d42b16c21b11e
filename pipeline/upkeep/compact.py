"""Keep a table small and quick beside running jobs: compact fragments, remove old versions, sweep what is left over.

A compaction leaves out the lowest fragment, which every commit of ours names as touched: so neither stands in the
other's way, however long the compaction takes and however often is committed. It conflicts only with what changes
a fragment that it rewrites (a replaced shard), and is then tried again. Old versions are removed from the oldest
on, and only up to the newest one that brought slices and that the ledger has absorbed: that one stays, so that
a commit made for an older version conflicts with it, and the log never has a hole.
"""

import re
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lance
import pyarrow.compute as pc
from lance.optimize import Compaction

from pipeline.database import Database, naming
from pipeline.errors import CommitConflictError, ConfigError, TableError
from pipeline.ledger import Ledger
from pipeline.records import properties
from pipeline.schema import REJECTS
from pipeline.stores.retry import patiently
from pipeline.upkeep.accounts import Accounts, read_accounts, redeclared
from pipeline.upkeep.balance import check_rejects
from pipeline.upkeep.findings import Findings
from pipeline.upkeep.orphans import SUFFIXES, quiet_for

A_WEEK = timedelta(days=7)
QUIET = timedelta(hours=1)  # longer than any job goes on without writing
_ROWS = 2**19  # of a compacted fragment
_MOST = 2000  # fragments for one: what others commit while they are merged is looked at before the merge lands
_BATCH = 4096
_ATTEMPTS_AT_ONCE = 500
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def parse_age(text: str) -> timedelta:
    """From `7d`, `12h`, `90m` or `30s`."""
    found = re.fullmatch(r"(\d{1,6})([dhms])", text.strip())
    if found is None:
        raise ConfigError(f"--older-than {text!r} is not valid: allowed is a number with d, h, m or s, such as 7d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


@dataclass(frozen=True, slots=True)
class Limits:
    """What may go. `nobody_writes` is the user's word that no job runs and nobody reads an old version."""

    older_than: timedelta = A_WEEK
    remove_orphans: bool = False
    nobody_writes: bool = False


@dataclass(slots=True)
class Kept:
    """What was done to one table, and how many fragments it has now."""

    fragments: int = 0
    merged: int = 0
    versions: int = 0  # removed
    files: int = 0  # removed, of all kinds but manifests
    bytes: int = 0  # freed

    def removed(self, stats: Any) -> None:
        """Count what a clean-up says it removed."""
        self.versions += stats.old_versions
        self.files += stats.data_files_removed + stats.deletion_files_removed + stats.index_files_removed
        self.bytes += stats.bytes_removed


@dataclass(slots=True)
class Upkeep:
    """What was done, by table; and how many rejects were swept."""

    tables: dict[str, Kept] = field(default_factory=dict)
    rejects: int = 0

    def lines(self) -> list[str]:
        """As a person reads it."""
        lines = [
            f"{name}: merged {k.merged} fragments, has {k.fragments} now; removed {k.versions} old versions and "
            f"{k.files} files, {k.bytes} bytes in all"
            for name, k in self.tables.items()
        ]
        return [*lines, f"rejects that did not count: swept {self.rejects}"]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def compact(database: Database, limits: Limits) -> Upkeep:
    """Compact and clean `<table>` and its companions.

    Raises:
        TableError: there is no such table, the ledger cannot be brought up to it, or somebody may be writing.
    """
    tables = {suffix: Kept() for suffix in SUFFIXES if database.open(suffix) is not None}
    if "" not in tables:
        raise database.missing()
    _require_quiet(database, limits)
    _absorbed(database)  # or nothing is touched
    if limits.remove_orphans:  # at once, while it is quiet
        for suffix, kept in tables.items():
            _clean(database, suffix, kept, [], limits, orphans=True)
    tables[""].merged = merge_fragments(database)
    stands_at = stand(database)
    rejects = sweep(database, limits.older_than)
    for suffix, kept in tables.items():
        if suffix:
            kept.merged = merge_fragments(database, suffix)
        # Deletion files of no version go only with the version that they were made for.
        again = limits.remove_orphans and limits.nobody_writes
        _clean(database, suffix, kept, _removable(database, suffix, stands_at), limits, orphans=again)
    return Upkeep({Path(database.path(suffix)).stem: kept for suffix, kept in tables.items()}, rejects)


def _require_quiet(database: Database, limits: Limits) -> None:
    if limits.nobody_writes:
        return
    if limits.older_than < QUIET:
        raise ConfigError(
            f"--older-than {limits.older_than} is not valid: allowed is 1h or more, for running jobs and queries need "
            "the versions that they have opened; or say --nobody-writes"
        )
    if limits.remove_orphans and (quiet := quiet_for(database)) < QUIET:
        raise TableError(
            f"--remove-orphans: a file of {database.shown} was written {max(0, int(quiet.total_seconds()))} s "
            "ago, so somebody may be writing: stop all jobs and wait an hour, or say --nobody-writes"
        )


def merge_fragments(database: Database, suffix: str = "") -> int:
    """Compact one table, a new fragment at a time; returns how many were merged.

    Only those that are there now, or it would go on for as long as somebody writes.
    """
    merged = 0
    mine = _numbers(database.open(suffix))
    while True:
        for attempt in patiently(TableError):
            with attempt, naming("compact", database.path(suffix)):
                dataset = database.open(suffix)
                task = _next_task(dataset, mine)
                if task is None:
                    return merged
                # With the version that it was planned on: what was deleted since must conflict.
                merged += Compaction.commit(dataset, [task.execute(dataset)]).fragments_removed


def _numbers(dataset: lance.LanceDataset | None) -> set[int]:
    return {f.fragment_id for f in dataset.get_fragments()} if dataset is not None else set()


def _next_task(dataset: lance.LanceDataset | None, mine: set[int]) -> Any:
    there = _numbers(dataset)
    task = _planned(dataset, {*(there - mine), *([min(there)] if there else [])})
    if task is not None and len(task.fragments) > _MOST:
        return _planned(dataset, there - {f.id for f in task.fragments[:_MOST]})
    return task


def _planned(dataset: lance.LanceDataset | None, excluded: set[int]) -> Any:
    options = {
        "target_rows_per_fragment": _ROWS,
        "batch_size": _BATCH,
        "num_threads": 1,
        "excluded_fragment_ids": sorted(excluded),
    }
    tasks = Compaction.plan(dataset, options).tasks
    return tasks[0] if tasks else None


def _absorbed(database: Database) -> Accounts:
    """The books, with the ledger brought up to the table.

    Raises:
        TableError: the ledger does not account for all rows, or lacks what the log has.
    """
    Ledger(database, database.table)
    accounts = read_accounts(database)
    if not accounts.balanced or (accounts.missing and not accounts.behind):
        raise TableError(
            f"the ledger of {database.shown} contradicts the table, so all is left as it is: run "
            "verify.py --repair first"
        )
    return accounts


def stand(database: Database) -> int:
    """Bring the ledger up to the latest version, also where the latest ones brought no slices; returns which.

    For that, the datasets are declared once more, in a commit that the ledger absorbs. If another job commits
    meanwhile, its own commit does as well.
    """
    accounts = _absorbed(database)
    if accounts.records and accounts.rows.version > accounts.stands_at:
        dataset, again = accounts.rows.dataset, redeclared(accounts.latest, uuid.uuid4().hex[:12])
        with suppress(CommitConflictError):
            database.swap("", dataset, dataset.schema, [], properties(again))
        accounts = _absorbed(database)
    return accounts.stands_at


def sweep(database: Database, older_than: timedelta = A_WEEK) -> int:
    """Remove rejects that do not count and never will: their run is over, or they are older than any run may be."""
    runs = database.open("runs")
    # First who is over, then the log, which has all that they committed.
    over = set() if runs is None else set(database.scan("runs", runs, ["run_id"])["run_id"].to_pylist())
    found = check_rejects(database, read_accounts(database), Findings()).leftovers
    limit = datetime.now(UTC) - older_than
    gone = [one for one in found if one.run_id in over or one.latest < limit]
    for start in range(0, len(gone), _ATTEMPTS_AT_ONCE):
        some = gone[start : start + _ATTEMPTS_AT_ONCE]
        conditions = [
            (pc.field("dataset") == name) & pc.field("attempt").isin([o.attempt for o in some if o.dataset == name])
            for name in {o.dataset for o in some}
        ]
        rejects = database.create("rejects", REJECTS)
        with naming("sweep", database.path("rejects")):
            for condition in conditions:
                rejects.delete(condition)
    return sum(one.rows for one in gone)


def _removable(database: Database, suffix: str, stands_at: int) -> list[int]:
    """Versions that may go once they are old enough; of `<table>`, none that the ledger may yet need."""
    dataset = database.open(suffix)
    refs = [] if dataset is None else [ref["version"] for ref in dataset.version_refs()]
    return [version for version in refs if version < (refs[-1] if suffix else stands_at)]


def _clean(
    database: Database, suffix: str, kept: Kept, versions: list[int], limits: Limits, *, orphans: bool = False
) -> None:
    """Remove some versions if they are old enough, and files of no version: those older than 7 days, or all."""
    with naming("clean up", database.path(suffix)):
        dataset = database.open(suffix)
        if dataset is None:
            return
        if versions or orphans:
            stats = dataset.cleanup_old_versions(
                limits.older_than,
                versions=versions or [dataset.version],  # which is never removed
                delete_unverified=orphans,
                error_if_tagged_old_versions=False,
            )
            kept.removed(stats)
        kept.fragments = len(dataset.get_fragments())
