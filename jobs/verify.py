#!/usr/bin/env python
"""Check all that is promised of a table: ids, counts, vectors, ledger, rejects, run records, files."""

from dataclasses import dataclass

from bridgelake import DEFAULT_MODEL, Lake
from bridgelake.wiring import as_model
from jobs.outcome import finish, show_json
from pipeline.database import Database
from pipeline.table import tagging
from pipeline.upkeep.verify import verify


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `verify.py` takes."""

    db: str  # LanceDB database: a folder, or an s3, gs or az URL.
    table: str = "laion"  # Table in the database.
    sample: int = 20  # How many rows, chosen at random, are embedded again and compared; 0 does without the model.
    model: str = DEFAULT_MODEL  # The checkpoint that the table was made with: a folder, an fsspec URL or a hub id.
    revision: str | None = None  # Branch, tag or commit of a hub id.
    repair: bool = False  # Mend what can be derived; shards that cannot be trusted are embedded again by the next run.
    json: bool = False  # Print one machine-readable object on standard output.


def main(options: Options) -> int:
    """Look, mend if told to, and say what was found; 1 if something is wrong."""
    lake = Lake(options.db, options.table, model=options.model, revision=options.revision)
    database = Database(options.db, options.table)
    model = as_model(lake.spec, tagging(database)) if options.sample > 0 else None
    found = verify(database, model, options.sample, options.repair)
    show_json(found.to_dict()) if options.json else print("\n".join(found.lines()))
    return 0 if found.ok else 1


if __name__ == "__main__":
    finish(Options, main, __doc__ or "")
