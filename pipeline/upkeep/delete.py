"""A takedown from its order to its proof: written down, removed, if told to purged, and recorded."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.barred import takedowns_of
from pipeline.database import Database
from pipeline.errors import ConfigError
from pipeline.runs import record_work
from pipeline.table import latest
from pipeline.upkeep.orders import Order
from pipeline.upkeep.purge import Purged, purge, quiet
from pipeline.upkeep.takedown import Removed, Values, count, find_rows, take_down, values_of


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a takedown goes. `nobody_writes` is the user's word that no job runs."""

    purge: bool = False
    nobody_writes: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Deleted:
    """What was done, or with `dry_run` would be; `left` are rows of the latest version that should have gone."""

    asked: dict[str, int]
    removed: Removed
    purged: Purged | None
    left: int
    dry_run: bool

    @property
    def gone(self) -> bool:
        """Whether all is gone that should be."""
        return self.dry_run or (not self.left and (self.purged is None or self.purged.gone))

    def lines(self) -> list[str]:
        """As a person reads it."""
        if not any(self.asked.values()):
            return ["nothing to take down", *(self.purged.lines() if self.purged else [])]
        asked = ", ".join(f"{n} {column}" for column, n in self.asked.items() if n)
        r, would = self.removed, "would take" if self.dry_run else "took"
        lines = [
            f"asked for {asked} ({r.new} not taken down before)",
            f"{would} down {r.rows} rows and {r.rejects} rejects, of {len(r.slices)} "
            + ("shards" if self.dry_run else "slices"),
        ]
        if self.dry_run:
            return [*lines, "nothing was written"]
        lines.append(f"proof: {self.left} rows of the latest version have one of these")
        return lines + (self.purged.lines() if self.purged else [])

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and the record."""
        r, p = self.removed, self.purged
        done: dict[str, Any] = {"asked": self.asked, "new": r.new, "rows_removed": r.rows, "rejects_removed": r.rejects}
        done |= {"slices": len(r.slices), "left": self.left, "gone": self.gone, "dry_run": self.dry_run}
        if p is not None:
            done["purged"] = {"fragments": p.fragments, "indexes": p.indexes, "tags": p.tags, "versions": p.versions}
            done["purged"] |= {"bytes": p.bytes, "files_read": {one.table: one.files for one in p.proof}}
            done["purged"]["reports"] = p.reports
            done["purged"] |= {"files_left": {one.table: sorted(one.dirty) for one in p.proof}}
        return done


def delete(database: Database, order: Order, extent: Extent = Extent()) -> Deleted:
    """Take pairs down for good; what was taken down before is asked for again without harm.

    Raises:
        ConfigError: nothing is named, or the condition is not valid.
        TableError: there is no such table, or it cannot be read or written; the same command goes on from there.
        LedgerError: the books contradict the table.
    """
    if not order and not extent.purge:
        raise ConfigError("nothing to take down: name it with --where, --ids, --urls or --sha256, or give --purge")
    started = datetime.now(UTC)
    values = values_of(database, order)
    asked = {column: len(some) for column, some in values.items()}
    if extent.dry_run:
        return Deleted(asked, count(database, values), None, 0, dry_run=True)
    alone = extent.purge and (extent.nobody_writes or quiet(database))
    removed = take_down(database, values, order.why) if any(asked.values()) else Removed()
    purged = purge(database, alone=alone) if extent.purge else None
    done = Deleted(asked, removed, purged, _left(database, values), dry_run=False)
    said = {"why": order.why, "by_condition": bool(order.where), "purge": extent.purge}
    record_work(database, "delete", started, "done" if done.gone else "incomplete", said, done.to_dict())
    return done


def _left(database: Database, values: Values) -> int:
    return len(find_rows(latest(database).dataset, values, takedowns_of(values)))
