#!/usr/bin/env python
"""Write rows as parquet, CSV or JSON lines, as a new WebDataset with the pictures, or in clip-retrieval's layout."""

import sys
from dataclasses import dataclass

from bridgelake import DEFAULT_MODEL, Lake
from jobs.options import listed
from jobs.outcome import finish, show_json
from pipeline.exports.asked import SQL_SECONDS
from pipeline.sql.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `export.py` takes."""

    db: str  # LanceDB database: a folder, or an s3, gs or az URL.
    table: str = "laion"  # Table in the database.
    output: str  # A new file (.parquet, .csv, .jsonl) or folder: a path or fsspec URL.
    format: str = ""  # parquet, csv, jsonl, webdataset or clip-retrieval. Default: told by the output's suffix.
    where: str = ""  # SQL condition that rows must meet, such as "itm_score >= 0.8". Default: all rows.
    sql: str = ""  # Or a query, as query.py takes it: a file gets what it gives; for a folder it gives ids of samples.
    timeout: float = SQL_SECONDS  # Seconds that --sql may take, the writing of a file included.
    memory: float = 1.0  # GiB that --sql may take.
    version: str | None = None  # Of the table: a number or a tag. Default: the latest.
    select: str = ""  # Columns of a file, separated by commas. Default: all but the vectors.
    vectors: bool = False  # Put the vectors into a file too.
    shard_size: int | None = None  # Samples in a shard. Default: 10,000; rows, in clip-retrieval's layout: 1,000,000.
    shard_bytes: int | None = None  # Bytes in a shard of a WebDataset at most.
    model: str = DEFAULT_MODEL  # For searches in --sql: the checkpoint that the table was made with.
    revision: str | None = None  # Branch, tag or commit of a hub id.
    device: str = "cpu"  # For searches in --sql: cpu or gpu.
    json: bool = False  # Print one machine-readable object on standard output.


def main(options: Options) -> int:
    """Export; 1 if a picture could not be fetched."""
    lake = Lake(options.db, options.table, model=options.model, revision=options.revision, device=options.device)
    done = lake.export(
        options.output,
        format=options.format,
        where=options.where,
        sql=options.sql,
        limits=Limits(options.timeout, int(options.memory * (1 << 30))),
        version=options.version,
        select=listed(options.select),
        vectors=options.vectors,
        shard_size=options.shard_size,
        shard_bytes=options.shard_bytes,
    )
    print("\n".join(done.lines()), file=sys.stderr)
    if options.json:
        show_json(done.to_dict())
    return 1 if done.missing else 0


if __name__ == "__main__":
    finish(Options, main, __doc__ or "")
