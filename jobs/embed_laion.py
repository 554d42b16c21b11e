#!/usr/bin/env python
"""Embed image-caption shards into a LanceDB table."""

from dataclasses import dataclass, field, replace
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from bridgelake import DEFAULT_MODEL, Lake
from jobs.elsewhere import submitted
from jobs.options import ComputeOptions, TagOptions, listed, require_dry_run
from jobs.outcome import finish, report, tell
from pipeline.config import FaultConfig, Keep, ReadConfig, RunConfig, WriteConfig


@dataclass(frozen=True)
class Options:
    """What `embed_laion.py` takes."""

    input: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="URL")]
    """File, folder, glob, brace range or fsspec URL of shards (tar or parquet); may be repeated."""
    db: str
    """LanceDB database: a folder, or an s3, gs or az URL."""
    table: str = "laion"
    """Table in the database."""
    model: str = DEFAULT_MODEL
    """Checkpoint: a folder, an fsspec URL or a hub id. Default: the small built-in one."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dataset: str | None = None
    """Name of the dataset in the rows' ids. Default: the table's name."""
    source_root: str | None = None
    """Folder that shard paths are relative to. Default: the deepest one common to all inputs."""
    caption_key: str = ""
    """Fields or columns with captions, separated by commas."""
    image_key: str | None = None
    """Parquet column with the pictures."""
    keep: str = ""
    """Metadata columns to bring along, separated by commas; name or name:type. A new one is added to the table."""
    vectors: str = "image,text,cross"
    """Which embeddings to store."""
    storage: str = "float16"
    """float16 or float32."""
    max_pixels: int = 100_000_000
    """Pictures with more pixels are rejected from their header alone."""
    jpeg_draft: bool = False
    """Decode large JPEGs at 1/2, 1/4 or 1/8 of their size where the model needs no more: quicker, less exact."""
    max_reject_rate: float = 0.1
    """End the run when more of its pairs are rejected (from 1,000 pairs on; those not downloaded do not count)."""
    allow_failed_shards: int = 0
    """Exit 0 although so many shards failed."""
    retry_failed: bool = False
    """Read quarantined shards again: those that failed in three runs, unchanged."""
    prune: bool = False
    """Remove the rows of shards that are no longer there."""
    stall_seconds: float = 900.0
    """End the run when no stage makes progress for so long."""
    dry_run: bool = False
    """Write nothing: tell what a run would do, how quickly, how large, and what would be slow."""
    gpu_hour_price: float | None = None
    """With --dry-run: of one GPU; the cost is told in the same currency."""
    report: bool = True
    """After the run write a page beside the table: counts, plots, and the best, worst and rejected pairs."""
    compute: ComputeOptions = field(default_factory=ComputeOptions)
    tag: TagOptions = field(default_factory=TagOptions)
    json: bool = False
    """Print one machine-readable object on standard output."""


def main(options: Options) -> int:
    """Run it, here or as a job on a cluster; 1 if a shard failed."""
    keep = tuple(Keep.parse(k) for k in listed(options.keep))
    read = ReadConfig(options.input, options.image_key, listed(options.caption_key), keep, options.max_pixels)
    read = replace(read, jpeg_draft=options.jpeg_draft)
    vectors = listed(options.vectors)
    write = WriteConfig(options.db, options.table, options.dataset, options.source_root, vectors, options.storage)
    write = replace(write, report=options.report)
    faults = FaultConfig(
        options.max_reject_rate,
        options.allow_failed_shards,
        options.retry_failed,
        options.prune,
        options.stall_seconds,
    )
    embed = replace(options.compute.config, tags=options.tag.config)
    config = RunConfig(read, write, embed, faults)
    if address := options.compute.submit:
        places = {"--input": options.input, "--db": options.db, "--model": options.model}
        return submitted(address, places | {"--source-root": options.source_root}, options.json, options.compute.log)
    lake = Lake(options.db, options.table, model=options.model, revision=options.revision)
    if options.dry_run or options.gpu_hour_price is not None:
        require_dry_run(options.dry_run, options.gpu_hour_price, options.compute.log_json)
        return tell(lake.forecast(config, options.gpu_hour_price), options.json)
    return report(lake.run(config, options.compute.log), options.json, options.compute.log)


if __name__ == "__main__":
    finish(Options, main, __doc__ or "")
