"""What is known of a slice: a record for each try at it, and which of a dataset's records count."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

SLICES_PROPERTY = "bridgelake.slices"


class Outcome(StrEnum):
    """How a try at a slice ended. The first four are carried by a commit on `<table>`, the others are not."""

    COMMITTED = "committed"  # its rows are in the table since `version`
    PRUNED = "pruned"  # the shard vanished, and all its rows were removed
    TAKEN_DOWN = (
        "taken_down"  # committed before, by the same attempt; pairs of it were taken down since: its new counts
    )
    DECLARED = "declared"  # no slice: fixes a dataset's root and how it is read, before its first one
    FAILED = "failed"  # the shard cannot be read to its end
    LOST = "lost"  # not finished, and not for a reason that is the shard's


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """One try at a slice. read = embedded + rejected + taken_down."""

    dataset: str
    root: str
    read_as: str
    shard: str
    slice: str
    slices: int
    size: int
    etag: str
    attempt: str
    run_id: str
    fingerprint: str = ""
    outcome: str = Outcome.COMMITTED
    replaces: bool = False
    read: int = 0
    embedded: int = 0
    rejected: int = 0
    taken_down: int = 0
    truncated: int = 0
    seconds: float = 0.0
    error: str | None = None

    @property
    def identity(self) -> tuple[int, str]:
        """Size and ETag of the shard that was read; another one may be another content."""
        return self.size, self.etag

    def is_of_one_content_with(self, other: "SliceRecord") -> bool:
        """Whether both can stand side by side: of the same shard, unchanged, and cut into as many slices."""
        return (self.identity, self.slices, self.outcome) == (other.identity, other.slices, other.outcome)

    def row(self, version: int | None) -> dict[str, Any]:
        """As a row of `<table>_shards`; `version` is of the commit that carried it, None if none did."""
        return {**asdict(self), "version": version, "at": datetime.now(UTC)}


COLUMNS = tuple(field.name for field in fields(SliceRecord))


def properties(records: Iterable[SliceRecord]) -> dict[str, str]:
    """The transaction properties that make a commit its own log entry."""
    return {SLICES_PROPERTY: json.dumps([asdict(r) for r in records])}


def carried(value: str) -> Iterator[SliceRecord]:
    """The records that a commit's property holds."""
    for record in json.loads(value):
        yield SliceRecord(**record)


def current_of(versioned: Iterable[tuple[int, SliceRecord]]) -> dict[str, SliceRecord]:
    """The records that count, by slice: the latest of each, without what was replaced or pruned.

    Args:
        versioned: of one dataset, each with the version of the table that carried it.
    """
    current: dict[str, dict[str, SliceRecord]] = {}  # shard -> slice -> record
    replaced: dict[str, int] = {}  # shard -> version that replaced all before
    for version, record in sorted(versioned, key=lambda each: each[0]):
        if record.outcome not in (Outcome.COMMITTED, Outcome.PRUNED, Outcome.TAKEN_DOWN):
            continue
        of_shard = current.setdefault(record.shard, {})
        if record.replaces and replaced.get(record.shard) != version:
            replaced[record.shard] = version
            of_shard.clear()
        if record.outcome != Outcome.PRUNED:
            committed = record.outcome == Outcome.COMMITTED
            of_shard[record.slice] = record if committed else replace(record, outcome=Outcome.COMMITTED)
    return {name: record for of_shard in current.values() for name, record in of_shard.items()}
