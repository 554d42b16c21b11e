#!/usr/bin/env python
"""Try rejected pairs again, where they stand in their shards; those that succeed become rows, exactly once."""

from dataclasses import dataclass, field

from bridgelake import DEFAULT_MODEL, Lake
from jobs.elsewhere import submitted
from jobs.options import ComputeOptions, listed
from jobs.outcome import finish, report
from pipeline.config import WriteConfig


@dataclass(frozen=True)
class Options:
    """What `replay_rejects.py` takes."""

    db: str
    """LanceDB database: a folder, or an s3, gs or az URL."""
    table: str = "laion"
    """Table in the database."""
    reason: str = ""
    """Only slices with a pair rejected for one of these, separated by commas. Default: any but not_downloaded."""
    model: str = DEFAULT_MODEL
    """Checkpoint that the table was made with: a folder, an fsspec URL or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dataset: str | None = None
    """Name of the dataset in the rows' ids. Default: the table's name."""
    source_root: str | None = None
    """Where the shards are now, if they moved."""
    max_pixels: int = 100_000_000
    """Pictures with more pixels are rejected from their header alone."""
    compute: ComputeOptions = field(default_factory=ComputeOptions)
    json: bool = False
    """Print one machine-readable object on standard output."""


def main(options: Options) -> int:
    """Run it; 1 if a shard could not be read again."""
    if address := options.compute.submit:
        places = {"--db": options.db, "--model": options.model, "--source-root": options.source_root}
        return submitted(address, places, options.json, options.compute.log)
    write = WriteConfig(options.db, options.table, options.dataset, options.source_root)
    lake = Lake(options.db, options.table, model=options.model, revision=options.revision)
    reasons, embed, log = listed(options.reason), options.compute.config, options.compute.log
    summary = lake.replay_rejects(write, embed, reasons=reasons, max_pixels=options.max_pixels, progress=log)
    return report(summary, options.json, log)


if __name__ == "__main__":
    finish(Options, main, __doc__ or "")
