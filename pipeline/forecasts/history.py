"""How quick earlier runs of the table were, for a forecast on a cluster whose nodes are not up."""

import json
from dataclasses import dataclass

from pipeline.database import Database
from pipeline.runs import of_work

_ENOUGH = 1000  # rows of a run, or its start was most of it


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier run: pairs a second of one of its actors, its start and end included."""

    run_id: str
    rate: float


def latest_on(database: Database, device: str) -> Earlier | None:
    """The latest run that embedded enough on such a device."""
    runs = database.open("runs")
    if runs is None:
        return None
    for row in sorted(runs.to_table().to_pylist(), key=lambda row: row["started"], reverse=True):
        if of_work(row["run_id"]):
            continue
        compute, summary = json.loads(row["compute"] or "{}"), json.loads(row["summary"] or "{}")
        if compute.get("device") == device and summary.get("rows", 0) >= _ENOUGH and compute.get("actors"):
            return Earlier(row["run_id"], summary["pairs_per_second"] / compute["actors"])
    return None
