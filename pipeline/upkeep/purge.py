"""Remove the bytes of what was taken down: from the files of the table, of its indexes and of the rejects.

A takedown only hides rows: the files have them still, and older versions show them. So fragments that hide some are
written anew, which Lance carries over into B-trees, full-text and vector indexes; indexes of other kinds keep values
of which no row is left, and are built anew; tags on a version that refers to such a file are moved to the latest; and
those versions go, at once, however young they are (a query that has one open fails). A running job goes on: its next
commit is made on the latest version.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import lance
from lance.optimize import Compaction

from pipeline.database import Database, naming
from pipeline.errors import TableError
from pipeline.reports.place import remove_reports
from pipeline.stores.retry import patiently
from pipeline.table import latest
from pipeline.takedowns import read_takedowns
from pipeline.upkeep.absence import HOLDING, Reader, Survey, survey
from pipeline.upkeep.compact import QUIET, stand
from pipeline.upkeep.orphans import quiet_for

_CARRIED = ("BTree", "Inverted", "IVF")  # kinds of indexes, or how they begin, out of which removed rows are taken
_BUILT = {
    "Bitmap": "BITMAP",
    "LabelList": "LABEL_LIST",
    "NGram": "NGRAM",
    "ZoneMap": "ZONEMAP",
    "BloomFilter": "BLOOMFILTER",
}
_KEEPING = ("bitmap_page_lookup.lance", "ngram_postings.lance", "zonemap.lance", "bloomfilter.lance")  # their files
_ROWS = 2**19  # of a fragment
_BATCH = 4096


@dataclass(slots=True)
class Purged:
    """What was done, and what the files hold now."""

    fragments: int = 0  # written anew
    indexes: list[str] = field(default_factory=list)  # built anew
    tags: dict[str, int] = field(default_factory=dict)  # that were moved, and to which version
    versions: int = 0  # removed
    bytes: int = 0  # freed
    reports: int = 0  # removed: they show pictures and captions
    proof: list[Survey] = field(default_factory=list)

    @property
    def gone(self) -> bool:
        """Whether no file holds any of it."""
        return not any(one.dirty for one in self.proof)

    def lines(self) -> list[str]:
        """As a person reads it."""
        removed = f"{self.versions} versions of {self.bytes} bytes removed"
        lines = [f"purged: {self.fragments} fragments written anew, {removed}"]
        lines += [f"index {name} built anew" for name in self.indexes]
        lines += [f"{self.reports} reports of runs removed"] if self.reports else []
        lines += [f"tag {tag} moved to version {version}" for tag, version in sorted(self.tags.items())]
        return [*lines, *(one.line() for one in self.proof)]


def quiet(database: Database) -> bool:
    """Whether nothing was written for so long that no job can be running."""
    return quiet_for(database) >= QUIET


def purge(database: Database, *, alone: bool) -> Purged:
    """Remove the bytes of all that was ever taken down, and prove it.

    Args:
        database: where the table is.
        alone: no job runs, so that files of no version are a killed writer's, and may go too.

    Raises:
        TableError: the ledger cannot be brought up to the table, or something cannot be read or written.
    """
    takedowns, purged = read_takedowns(database), Purged()
    if not len(takedowns):
        return purged
    purged.reports = remove_reports(database)
    readers = [Reader(database, suffix, takedowns) for suffix in HOLDING]
    for reader in readers:
        purged.fragments += _write_anew(reader)
    purged.indexes += _build_anew(database)
    stands_at = stand(database)
    for reader in readers:
        _clean(reader, purged, stands_at, alone)
    purged.proof = [found for reader in readers if (found := survey(reader)) is not None]
    return purged


def _write_anew(reader: Reader) -> int:
    """Fragments of the latest version that hide rows which were taken down; returns how many."""
    database, done = reader.database, 0
    while True:
        for attempt in patiently(TableError):
            with attempt, naming("write anew fragments of", database.path(reader.suffix)):
                dataset = database.open(reader.suffix)
                mine = set(_hiding(reader, dataset)) if dataset is not None else set()
                if not mine:
                    return done
                task = _task(dataset, mine)
                done += Compaction.commit(dataset, [task.execute(dataset)]).fragments_removed


def _hiding(reader: Reader, dataset: lance.LanceDataset) -> Iterator[int]:
    for fragment in dataset.get_fragments():
        if any(reader.holds(f"data/{file.path}") for file in fragment.metadata.files):
            if not fragment.num_deletions:
                raise TableError(
                    f"{dataset.uri}: fragment {fragment.fragment_id} shows rows that were taken down: somebody wrote "
                    "them past the takedowns; take them down again"
                )
            yield fragment.fragment_id


def _task(dataset: lance.LanceDataset, mine: set[int]) -> Any:
    others = sorted({f.fragment_id for f in dataset.get_fragments()} - mine)
    options = {
        "target_rows_per_fragment": _ROWS,
        "batch_size": _BATCH,
        "num_threads": 1,
        "materialize_deletions_threshold": 0.0,
        "excluded_fragment_ids": others,
    }
    return Compaction.plan(dataset, options).tasks[0]


def _build_anew(database: Database) -> list[str]:
    """Indexes out of which removed rows are not taken; returns their names."""
    built: list[str] = []
    with naming("build indexes anew of", database.path()):
        for index in latest(database).dataset.list_indices():
            kind, name = index["type"], index["name"]
            if kind.startswith(_CARRIED):
                continue
            if kind not in _BUILT:
                why = "which may keep what was taken down: drop it first"
                raise TableError(f"{database.shown}: index {name} is of kind {kind}, {why}")
            latest(database).dataset.create_scalar_index(index["fields"][0], _BUILT[kind], name=name, replace=True)
            built.append(name)
    return built


def _clean(reader: Reader, purged: Purged, stands_at: int, alone: bool) -> None:
    """Remove the versions that refer to such files, and, if nobody writes, such files of no version."""
    database, found = reader.database, survey(reader)
    dataset = database.open(reader.suffix)
    if dataset is None or found is None:
        return
    newest = max(found.of)
    limit = newest if reader.suffix else stands_at  # what the ledger may need stays
    stale = {path for path in found.tracked - found.of[newest] if path.endswith(_KEEPING)}
    gone = [version for version, paths in found.of.items() if paths & (found.dirty | stale) and version < limit]
    with naming("clean up", database.path(reader.suffix)):
        for tag, about in dataset.tags.list().items():
            if about["version"] in gone:
                dataset.tags.update(tag, newest)
                purged.tags[tag] = newest
        if gone or (alone and found.orphans):
            stats = dataset.cleanup_old_versions(
                timedelta(0),
                versions=gone or [newest],  # which is never removed
                delete_unverified=alone and bool(found.orphans),
                error_if_tagged_old_versions=False,
            )
            purged.versions += stats.old_versions
            purged.bytes += stats.bytes_removed
