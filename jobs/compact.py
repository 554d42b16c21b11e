#!/usr/bin/env python
"""Keep a table small and quick: merge small fragments, remove old versions, sweep rejects that do not count."""

from dataclasses import dataclass

from jobs.outcome import finish, show_json
from pipeline.database import Database
from pipeline.upkeep.compact import Limits, compact, parse_age


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `compact.py` takes. It may run while jobs embed and people search."""

    db: str  # LanceDB database: a folder, or an s3, gs or az URL.
    table: str = "laion"  # Table in the database.
    older_than: str = "7d"  # Versions older than this go, such as 7d, 12h or 90m; what the ledger still needs stays.
    remove_orphans: bool = False  # Remove files of killed writers at once; refused if any is younger than an hour.
    nobody_writes: bool = False  # I say that no job runs and nobody reads an old version: any age goes.
    json: bool = False  # Print one machine-readable object on standard output.


def main(options: Options) -> int:
    """Compact, clean up, and say what was done."""
    limits = Limits(parse_age(options.older_than), options.remove_orphans, options.nobody_writes)
    done = compact(Database(options.db, options.table), limits)
    show_json(done.to_dict()) if options.json else print("\n".join(done.lines()))
    return 0


if __name__ == "__main__":
    finish(Options, main, __doc__ or "")
