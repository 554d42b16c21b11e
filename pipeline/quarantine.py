"""Which shards are quarantined, told by the ledger alone: nothing is listed, absorbed or written."""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.database import Database
from pipeline.ledger import FAILING, failures_in
from pipeline.plan import QUARANTINE, Identity
from pipeline.records import Outcome

_HELD = {Outcome.COMMITTED, Outcome.TAKEN_DOWN}


def quarantined(database: Database) -> dict[str, str]:
    """Dataset and shard -> the last error, of shards that failed in `QUARANTINE` runs, unchanged and never whole since.

    One that vanished, or changed and was not tried again, is still among them: only a run lists shards.

    Raises:
        TableError: the ledger cannot be read.
    """
    ledger = database.open("shards")
    if ledger is None:
        return {}
    rows = database.scan("shards", ledger, [*FAILING, "slice", "slices"])
    failed, stands = failures_in(rows), _standing(rows)
    return {
        f"{dataset} {shard}": failures.error or ""
        for (dataset, shard, identity), failures in failed.items()
        if failures.runs >= QUARANTINE and stands.get((dataset, shard)) == identity
    }


def _standing(rows: pa.Table) -> dict[tuple[str, str], Identity]:
    """Dataset and shard -> its size and ETag when it was last tried, of those that are not whole in the table."""
    found: dict[tuple[str, str], tuple[Identity, set[str], int]] = {}  # with its slices in the table, and how many
    for row in rows.filter(pc.not_equal(rows["outcome"], Outcome.LOST)).sort_by("at").to_pylist():
        place, identity = (row["dataset"], row["shard"]), (row["size"], row["etag"])
        known = found[place][1] if place in found and found[place][0] == identity else set()
        held = known | {row["slice"]} if row["outcome"] in _HELD else known
        found[place] = identity, held, row["slices"]
    return {place: identity for place, (identity, held, slices) in found.items() if len(held) < slices}
