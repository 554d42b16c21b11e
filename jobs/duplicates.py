#!/usr/bin/env python
"""Find pictures that are the same or nearly so, and write down which row stands for which others."""

from dataclasses import asdict, dataclass

from jobs.outcome import finish, show_json
from pipeline.database import Database
from pipeline.duplicates import find_duplicates


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `duplicates.py` takes. Its answer is the table `<table>_duplicates`: id, duplicate_of, cosine."""

    db: str  # LanceDB database: a folder, or an s3, gs or az URL.
    table: str = "laion"  # Table in the database.
    threshold: float = 0.96  # Pictures whose image embeddings have this cosine or more belong together.
    exact: bool = False  # Compare every picture with every other, also where there is an index.
    json: bool = False  # Print one machine-readable object on standard output.


def main(options: Options) -> int:
    """Find, write down, and say how many."""
    found = find_duplicates(Database(options.db, options.table), options.threshold, exact=options.exact)
    show_json(asdict(found)) if options.json else print(found.line())
    return 0


if __name__ == "__main__":
    finish(Options, main, __doc__ or "")
