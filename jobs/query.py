#!/usr/bin/env python
"""Find pictures by words, a picture, both, a row's like, or SQL, in the table that embed_laion.py has filled."""

import sys
from dataclasses import dataclass
from pathlib import Path

from bridgelake import DEFAULT_MODEL, Lake
from jobs.options import SearchOptions, SqlOptions, require_one_kind
from jobs.outcome import finish, show_json
from pipeline.retrieval.display import show_hits
from pipeline.retrieval.panels import panel
from pipeline.retrieval.sheet import write_sheet
from pipeline.sql.output import check_format, write_rows


@dataclass(frozen=True, kw_only=True)
class Options(SearchOptions, SqlOptions):
    """What `query.py` takes."""

    db: str  # LanceDB database: a folder, or an s3, gs or az URL.
    table: str = "laion"  # Table in the database.
    model: str = DEFAULT_MODEL  # The checkpoint that the table was made with: a folder, an fsspec URL or a hub id.
    revision: str | None = None  # Branch, tag or commit of a hub id.
    device: str = "cpu"  # Where the query is embedded: cpu or gpu.
    html: Path | None = None  # Write a page with the pictures in it, readable without a network.
    png: Path | None = None  # Write a contact sheet.
    json: bool = False  # Print one machine-readable object on standard output.


def main(options: Options) -> int:
    """Search and show."""
    lake = Lake(options.db, options.table, model=options.model, revision=options.revision, device=options.device)
    require_one_kind(options)
    if options.sql:
        return answer(lake, options)
    hits = lake.search(**options.asked)
    for note in hits.notes:
        print(f"note: {note}", file=sys.stderr)
    show_json(hits.to_json()) if options.json else show_hits(hits)
    if options.html or options.png:
        write_sheet([panel(hits)], options.html, options.png)
    return 0


def answer(lake: Lake, options: Options) -> int:
    """Ask with SQL and write what comes."""
    check_format(options.format, options.output)
    limits = {"timeout": options.timeout, "memory": options.memory}
    with lake.sql_batches(options.sql, version=options.version, **limits) as rows:
        for note in rows.notes:
            print(f"note: {note}", file=sys.stderr)
        show_json(rows.whole().to_json()) if options.json else write_rows(rows, options.format, options.output)
    return 0


if __name__ == "__main__":
    finish(Options, main, __doc__ or "")
