"""Run records: one row of `<table>_runs` a run, with its configuration, versions, counts and outcome."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.database import Database
from pipeline.schema import RUNS
from pipeline.stores.storage import redact
from pipeline.summary import Summary

if TYPE_CHECKING:
    from pipeline.cluster import Placement

_LIBRARIES = ("ray", "pylance", "lancedb", "pyarrow", "torch", "transformers", "pillow")
_DASH = "-"  # stands in the name of a record of work; a run's own is hexadecimal


def record_run(
    database: Database, config: RunConfig, started: datetime, placement: "Placement | None", summary: Summary
) -> None:
    """Append one run record.

    Raises:
        TableError: it cannot be written.
    """
    told = {
        "run_id": summary.run_id,
        "started": started,
        "outcome": summary.outcome,
        "configuration": config.to_json(),
        "compute": asdict(placement) if placement else {},
        "summary": summary.to_dict(),
    }
    _append(database, told)


def record_work(
    database: Database,
    kind: str,
    started: datetime,
    outcome: str,
    configuration: Mapping[str, Any],
    summary: Mapping[str, Any],
) -> str:
    """Append a record of work on the table that is not an embedding run; returns its `run_id`, `<kind>-...`.

    Raises:
        TableError: it cannot be written.
    """
    run_id = f"{kind}{_DASH}{uuid.uuid4().hex[:12]}"
    told = {
        "run_id": run_id,
        "started": started,
        "outcome": outcome,
        "configuration": json.dumps(configuration, default=str),
        "compute": {},
        "summary": summary,
    }
    _append(database, told)
    return run_id


def _append(database: Database, told: Mapping[str, Any]) -> None:
    """A record, with what every one has."""
    row = {
        **told,
        "ended": datetime.now(UTC),
        "configuration": redact(told["configuration"]),
        "versions": json.dumps({name: _version(name) for name in _LIBRARIES}),
        "compute": json.dumps(told["compute"]),
        "summary": redact(json.dumps(told["summary"], default=str)),
    }
    database.append("runs", pa.Table.from_pylist([row], schema=RUNS))


def of_work(run_id: str) -> bool:
    """Whether a record is of work on the table, and not of a run that committed rows."""
    return _DASH in run_id


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None  # a head node does without torch
