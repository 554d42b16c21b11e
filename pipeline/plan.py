"""What a run has to do: what is listed, less what is committed, less what is quarantined."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.records import SliceRecord
from pipeline.shards import Shard, Slice

QUARANTINE = 3  # runs in which an unchanged shard failed


Identity = tuple[int, str]  # size and ETag


@dataclass(frozen=True, slots=True)
class Failures:
    """In how many runs a shard of one size and ETag failed, and the last error."""

    runs: int
    error: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run has to do, by slice; each listed one is in exactly one of the first four."""

    skipped: tuple[Slice, ...] = ()  # committed, and the shard is as it was
    pending: tuple[Slice, ...] = ()  # not yet committed
    changed: tuple[Slice, ...] = ()  # of shards that were committed as something else; replaced as a whole
    quarantined: tuple[Slice, ...] = ()  # failed too often, unchanged
    failures: Mapping[str, Failures] = field(
        default_factory=dict
    )  # shard path -> how it failed before, of those that are listed
    vanished: tuple[str, ...] = ()  # paths of committed shards that are no longer there

    def counts(self) -> str:
        """In shards, one line."""
        skipped, pending, changed, quarantined = map(
            shards_of, (self.skipped, self.pending, self.changed, self.quarantined)
        )
        failed = self.failures.keys() - quarantined
        return (
            f"shards: skipped {len(skipped)}, pending {len(pending - failed)}, failed before {len(failed)}, "
            f"changed {len(changed - failed)}, quarantined {len(quarantined)}"
        )


def shards_of(slices: Iterable[Slice]) -> set[str]:
    """The paths of the shards that they are of."""
    return {slice_.shard.path for slice_ in slices}


def plan(
    slices: Iterable[Slice],
    current: Mapping[str, SliceRecord],
    failures: Mapping[tuple[str, Identity], Failures] | None = None,
    matches: Callable[[str], bool] = lambda path: True,
    quarantine: float = QUARANTINE,
) -> Plan:
    """Listed less committed.

    Args:
        slices: all that this run's inputs hold.
        current: slice name -> its record that counts; `Ledger.current`.
        failures: shard path, and its size and ETag then -> how it failed.
        matches: whether a shard's path belongs to this run's inputs; `Listing.matches`.
        quarantine: after so many runs that failed, an unchanged shard is left alone.
    """
    slices = list(slices)
    listed = {slice_.shard.path: slice_.shard for slice_ in slices}
    counts = {slice_.name: slice_.count for slice_ in slices}
    # By shard, not by slice: one that changed may be cut into others, whose names say nothing of the old rows.
    changed = {
        record.shard
        for name, record in current.items()
        if record.shard in listed
        and (counts.get(name) != record.slices or record.identity != identity(listed[record.shard]))
    }
    open_ = {s.shard.path for s in slices if s.name not in current or s.shard.path in changed}
    known = failures or {}
    failed = {p: known[p, identity(listed[p])] for p in open_ if (p, identity(listed[p])) in known}
    quarantined = {path for path, failure in failed.items() if failure.runs >= quarantine}
    parts: dict[str, list[Slice]] = {"skipped": [], "pending": [], "changed": [], "quarantined": []}
    for slice_ in slices:
        path = slice_.shard.path
        if path in changed:
            part = "quarantined" if path in quarantined else "changed"
        elif slice_.name in current:
            part = "skipped"
        else:
            part = "quarantined" if path in quarantined else "pending"
        parts[part].append(slice_)
    gone = {r.shard for r in current.values() if r.shard not in listed and matches(r.shard)}
    return Plan(**{name: tuple(part) for name, part in parts.items()}, failures=failed, vanished=tuple(sorted(gone)))


def identity(shard: Shard) -> Identity:
    """What tells one content of a shard from another without reading it."""
    return shard.size, shard.etag
