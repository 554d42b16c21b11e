"""Which shards are quarantined, told by the ledger alone: nothing is listed, absorbed or written."""

import pyarrow.compute as pc

from pipeline.database import Database
from pipeline.plan import QUARANTINE
from pipeline.records import Outcome

_COLUMNS = ["dataset", "shard", "size", "etag", "run_id", "outcome", "error", "at"]


def quarantined(database: Database) -> dict[str, str]:
    """Dataset and shard -> the last error, of shards that failed in `QUARANTINE` runs, unchanged and never well since.

    One that vanished, or changed and was not tried again, is still among them: only a run lists shards.

    Raises:
        TableError: the ledger cannot be read.
    """
    ledger = database.open("shards")
    if ledger is None:
        return {}
    runs: dict[tuple[str, str], tuple[tuple[int, str], set[str], str]] = {}  # place -> identity, runs, last error
    rows = database.scan("shards", ledger, _COLUMNS)
    for row in rows.filter(pc.invert(pc.equal(rows["outcome"], Outcome.LOST))).sort_by("at").to_pylist():
        place, identity = (row["dataset"], row["shard"]), (row["size"], row["etag"])
        if row["outcome"] != Outcome.FAILED:
            runs.pop(place, None)
            continue
        known = runs[place][1] if place in runs and runs[place][0] == identity else set()
        runs[place] = identity, known | {row["run_id"]}, row["error"] or ""
    return {f"{dataset} {shard}": e for (dataset, shard), (_, seen, e) in runs.items() if len(seen) >= QUARANTINE}
