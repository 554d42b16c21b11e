#!/usr/bin/env python
"""Find pictures by words, or by a picture, in a table that embed_laion.py has filled."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from bridgelake import DEFAULT_MODEL, Lake
from jobs.outcome import finish, show_json
from pipeline.retrieval.display import show_hits
from pipeline.retrieval.panels import panel
from pipeline.retrieval.sheet import write_sheet


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `query.py` takes."""

    words: Positional[str] = ""  # What the picture shows, in plain words.
    image: str | None = None  # Or a picture to search with: a path or fsspec URL.
    db: str  # LanceDB database: a folder, or an s3, gs or az URL.
    table: str = "laion"  # Table in the database.
    where: str = ""  # SQL condition that rows must meet before the search, such as "width >= 512".
    limit: int = 10  # How many hits.
    one_per_image: bool = True  # Show a picture once for all its captions.
    rerank: str | None = None  # itm: look at the best candidates' pictures, order them by how well the words fit.
    candidates: int | None = None  # How many a rerank looks at. Default: 50, or the limit if that is more.
    model: str = DEFAULT_MODEL  # The checkpoint that the table was made with: a folder, an fsspec URL or a hub id.
    revision: str | None = None  # Branch, tag or commit of a hub id.
    device: str = "cpu"  # Where the query is embedded: cpu or gpu.
    html: Path | None = None  # Write a page with the pictures in it, readable without a network.
    png: Path | None = None  # Write a contact sheet.
    json: bool = False  # Print one machine-readable object on standard output.


def main(options: Options) -> int:
    """Search and show."""
    lake = Lake(options.db, options.table, model=options.model, revision=options.revision, device=options.device)
    hits = lake.search(
        options.words,
        image=options.image,
        where=options.where,
        limit=options.limit,
        rerank=options.rerank,
        candidates=options.candidates,
        one_per_image=options.one_per_image,
    )
    for note in hits.notes:
        print(f"note: {note}", file=sys.stderr)
    show_json(hits.to_json()) if options.json else show_hits(hits)
    if options.html or options.png:
        write_sheet([panel(hits)], options.html, options.png)
    return 0


if __name__ == "__main__":
    finish(Options, main, __doc__ or "")
