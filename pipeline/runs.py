"""Run records: one row of `<table>_runs` a run, with its configuration, versions, counts and outcome."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import pyarrow as pa

from pipeline.cluster import Placement
from pipeline.config import RunConfig
from pipeline.database import Database
from pipeline.schema import RUNS
from pipeline.stores.storage import redact
from pipeline.summary import Summary

_LIBRARIES = ("ray", "pylance", "lancedb", "pyarrow", "torch", "transformers", "pillow")


def record_run(
    database: Database, config: RunConfig, started: datetime, placement: Placement | None, summary: Summary
) -> None:
    """Append one run record.

    Raises:
        TableError: it cannot be written.
    """
    row = {
        "run_id": summary.run_id,
        "started": started,
        "ended": datetime.now(UTC),
        "outcome": summary.outcome,
        "configuration": redact(config.to_json()),
        "versions": json.dumps({name: _version(name) for name in _LIBRARIES}),
        "compute": json.dumps(asdict(placement) if placement else {}),
        "summary": json.dumps(summary.to_dict()),
    }
    database.append("runs", pa.Table.from_pylist([row], schema=RUNS))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None  # a head node does without torch
