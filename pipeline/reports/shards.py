"""The shards of a run as a table: the failing first, then the slowest."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.database import Database, naming
from pipeline.plain import plain
from pipeline.records import Outcome
from pipeline.stores.storage import redact

MOST = 200  # rows of the table
_COUNTS = ("read", "embedded", "rejected", "seconds")
_COLUMNS = ["shard", "size", "slice", "attempt", "outcome", "error", "version", *_COUNTS]
_BAD = (Outcome.FAILED, Outcome.LOST)


@dataclass(frozen=True, slots=True)
class ShardLine:
    """What became of one shard; `seconds` are those of workers, for reading, preparing and writing it."""

    shard: str
    outcome: str
    size: int
    read: int
    embedded: int
    rejected: int
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Shards:
    """The first lines, of how many there are, and the seconds of all that were committed."""

    lines: list[ShardLine]
    count: int
    seconds: list[float]

    @property
    def more(self) -> int:
        """How many are not shown."""
        return self.count - len(self.lines)


def shards(
    database: Database, run_id: str, failures: Mapping[str, str], quarantined: Mapping[str, str], most: int = MOST
) -> Shards:
    """A run's shards, from the ledger.

    Args:
        database: where the ledger is.
        run_id: of the run.
        failures: slice -> error, those included that the ledger does not tell.
        quarantined: shard -> its last error.
        most: lines to give.

    Raises:
        TableError: the ledger cannot be read.
    """
    table = _attempts(database, run_id)
    told = set(table["slice"].to_pylist())
    lines = [_line(shard) for shard in _by_shard(table)]
    lines += [_unread(name, "failed", why) for name, why in failures.items() if name not in told]
    lines += [_unread(name, "quarantined", why) for name, why in quarantined.items()]
    lines.sort(key=lambda line: (not line.error, -line.seconds, line.shard))
    return Shards(lines[:most], len(lines), [line.seconds for line in lines if not line.error])


def _attempts(database: Database, run_id: str) -> pa.Table:
    """One row a slice that this run tried, its last word on it."""
    ledger = database.open("shards")
    if ledger is None:
        return pa.table({name: [] for name in _COLUMNS})
    with naming("read", database.path("shards")):
        condition = f"run_id = '{run_id}' AND outcome IN ('{Outcome.COMMITTED}', '{Outcome.FAILED}', '{Outcome.LOST}')"
        table = ledger.to_table(columns=_COLUMNS, filter=condition)
    # A record that was only carried over, of a shard that was touched, keeps the attempt of another run.
    return table.filter(pc.starts_with(table["attempt"], f"{run_id}-"))


def _by_shard(table: pa.Table) -> list[dict[str, object]]:
    """Slices added up by shard."""
    bad = pc.is_in(table["outcome"], pa.array([str(o) for o in _BAD]))
    table = table.append_column("bad", pc.cast(bad, pa.int32()))
    sums = [(name, "sum") for name in _COUNTS]
    grouped = table.group_by("shard").aggregate([*sums, ("size", "max"), ("bad", "sum"), ("error", "max")])
    rows: list[dict[str, object]] = grouped.to_pylist()
    return rows


def _line(row: Mapping[str, object]) -> ShardLine:
    counts = {name: row[f"{name}_sum"] for name in _COUNTS}
    return ShardLine(
        shard=_named(str(row["shard"])),
        outcome="failed" if row["bad_sum"] else "committed",
        size=row["size_max"],  # type: ignore[arg-type]
        error=_told(str(row["error_max"] or "no reason was told")) if row["bad_sum"] else "",
        **counts,  # type: ignore[arg-type]
    )


def _unread(name: str, outcome: str, why: str) -> ShardLine:
    return ShardLine(_named(name), outcome, 0, 0, 0, 0, 0.0, _told(why) or "no reason was told")


def _named(shard: str) -> str:
    return plain(shard, 160)


def _told(error: str) -> str:
    return plain(redact(error), 300)
