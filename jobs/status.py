#!/usr/bin/env python
"""Show how a lake stands: last and next ticks, throughput, rejects, rows, versions, indexes, quarantined shards."""

from dataclasses import dataclass

from jobs.outcome import finish, show_json
from pipeline.database import Database
from pipeline.status import read_status
from pipeline.ticks.display import show_status


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `status.py` takes. It only reads, and may run while anything else does."""

    db: str  # LanceDB database: a folder, or an s3, gs or az URL.
    table: str = "laion"  # Table in the database.
    json: bool = False  # Print one machine-readable object on standard output.


def main(options: Options) -> int:
    """Read and show."""
    status = read_status(Database(options.db, options.table))
    show_json(status.to_dict()) if options.json else show_status(status)
    return 0


if __name__ == "__main__":
    finish(Options, main, __doc__ or "")
