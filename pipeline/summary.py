"""What a run did, for a person, for `--json` and for its record."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.watch.busy import ACTORS, READERS, Share
from pipeline.watch.progress import duration


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did. `outcome` is done, incomplete, failed or interrupted."""

    run_id: str
    outcome: str
    table: str
    shards: int
    skipped: int
    committed: int
    elsewhere: int
    failures: dict[str, str]  # slice -> error
    quarantined: dict[str, str]  # shard -> its last error
    replaced: int  # shards that changed
    touched: int  # shards that are the same under another ETag
    vanished: tuple[str, ...]
    pruned: tuple[str, ...]  # vanished shards whose rows were removed
    rows: int
    rejects: dict[str, int]
    truncated: int
    seconds: float
    busy: dict[str, float]
    calls: int
    pairs_per_call: float
    commits: int
    conflicts: int
    version: int
    taken_down: int = 0
    report: str = ""  # where the page is; empty if there is none
    at_work: dict[str, Share] = field(default_factory=dict)  # stage -> its workers, and the share of their time
    asked_again: int = 0  # how often readers and writers asked a store again, after an error

    @property
    def pairs(self) -> int:
        """Pairs read and committed: rows, rejects and what was taken down."""
        return self.rows + sum(self.rejects.values()) + self.taken_down

    @property
    def pairs_per_second(self) -> float:
        """Over the whole run, its start included."""
        return self.pairs / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and the run record."""
        return {**asdict(self), "pairs": self.pairs, "pairs_per_second": round(self.pairs_per_second, 2)}

    def _shares(self) -> Iterator[str]:
        """Which share of its time each kind of worker was busy: the other waited for the one with most."""
        for stage, worker, doing in ((ACTORS, "actor", "in the model"), (READERS, "reader", "reading")):
            if one := self.at_work.get(stage):
                whose = f"1 {worker} {{}} of its" if one.workers == 1 else f"{one.workers} {worker}s {{}} of their"
                yield f"{whose.format(f'{one.share:.0%}')} time {doing}"

    def lines(self) -> list[str]:
        """As a person reads it."""
        rejects = ", ".join(f"{reason} {n}" for reason, n in sorted(self.rejects.items())) or "none"
        busy = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.busy.items())
        taken = f"   taken down {self.taken_down}" if self.taken_down else ""
        lost = f"rejects {sum(self.rejects.values())} ({rejects}){taken}"
        lines = [
            f"rows {self.rows}   {lost}   captions cut {self.truncated}",
            f"took {duration(self.seconds)}   {self.pairs_per_second:.1f} pairs/s   "
            f"{self.calls} model calls of {self.pairs_per_call:.1f} pairs",
            f"busy: {'; '.join([busy, *self._shares()])}",
            f"{self.table} is at version {self.version}, {self.commits} commits by this run",
        ]
        if self.asked_again:
            lines.append(f"readers and writers asked their store again, after an error, {self.asked_again} times")
        lines += [
            f"failed: {error}" if name in error else f"failed: {name}: {error}" for name, error in self.failures.items()
        ]
        lines += [
            f"quarantined, not read (--retry-failed reads it): {e if n in e else f'{n}: {e}'}"
            for n, e in self.quarantined.items()
        ]
        if self.replaced or self.touched:
            lines.append(f"changed: {self.replaced} shards; only copied or touched: {self.touched}")
        if self.elsewhere:
            lines.append(f"committed by another job first: {self.elsewhere} slices")
        for name in self.vanished:
            rows = "its rows were removed" if name in self.pruned else "its rows stay (--prune removes them)"
            lines.append(f"vanished, {rows}: {name}")
        if self.report:
            lines.append(f"report: {self.report}")
        return lines
