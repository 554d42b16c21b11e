#!/usr/bin/env python
"""Measure retrieval: pictures by their captions (IR) and captions by their pictures (TR), by ITC and after ITM."""

import sys
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from bridgelake import DEFAULT_MODEL, Lake
from jobs.options import listed
from jobs.outcome import finish, show_json
from pipeline.config import ReadConfig
from pipeline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `evaluate.py` takes."""

    db: str = ""  # LanceDB database whose table is evaluated: a folder, or an s3, gs or az URL.
    table: str = "laion"  # Table in the database.
    input: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="URL")] = ()
    """Or shards, embedded here without a table: file, folder, glob, brace range or fsspec URL; may be repeated."""
    where: str = ""  # SQL condition that the table's rows must meet, such as "split = 'test'".
    version: str | None = None  # Of the table: a number or a tag. Default: the latest.
    limit: int | None = None  # At most so many pictures: of a table by chance, always the same; of shards the first.
    rerank_top: int = 20  # So many of the best by ITC are ordered by ITM, which looks at the pictures; 0 for none.
    caption_key: str = ""  # With --input: fields or columns with captions, separated by commas.
    image_key: str | None = None  # With --input: parquet column with the pictures.
    model: str = DEFAULT_MODEL  # The checkpoint that the table was made with: a folder, an fsspec URL or a hub id.
    revision: str | None = None  # Branch, tag or commit of a hub id.
    device: str = "cpu"  # Where torch computes: cpu or gpu.
    json: bool = False  # Print one machine-readable object on standard output.


def main(options: Options) -> int:
    """Measure and show."""
    if bool(options.db) == bool(options.input):
        raise ConfigError("give --db, to evaluate a table's rows, or --input, to evaluate shards: one of the two")
    lake = Lake(options.db, options.table, model=options.model, revision=options.revision, device=options.device)
    read = ReadConfig(options.input, options.image_key, listed(options.caption_key)) if options.input else ()
    report = lake.evaluate(
        read,
        where=options.where,
        version=options.version,
        limit=options.limit,
        rerank_top=options.rerank_top,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    show_json(report.to_json()) if options.json else print("\n".join(report.lines()))
    return 0


if __name__ == "__main__":
    finish(Options, main, __doc__ or "")
