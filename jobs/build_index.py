#!/usr/bin/env python
"""Index a table's vectors, scores and captions, and measure what the indexes find; new rows need no index."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from jobs.options import listed
from jobs.outcome import finish, show_json
from pipeline.database import Database
from pipeline.indexes.report import Request
from pipeline.indexes.work import index


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `build_index.py` takes. It may run while jobs embed and people search."""

    db: str  # LanceDB database: a folder, or an s3, gs or az URL.
    table: str = "laion"  # Table in the database.
    column: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME")] = ()
    """Vectors to index: image, text or cross, separated by commas or repeated. Default: image."""
    kind: str = "auto"  # auto (by the rows), exact (none), ivf_rq, ivf_sq, ivf_pq, ivf_flat or ivf_hnsw_{sq,pq,flat}.
    partitions: int | None = None  # Of the index. Default: about twice the square root of the rows.
    optimize: bool = False  # Fold new rows into the index that is there; a schedule can run it.
    scalars: bool = True  # Also index id, shard, sha256, tags and the scores, which filters use.
    fulltext: bool = True  # Also index the words of the captions.
    distributed: bool | None = None  # Build by Ray's workers. Default: on a cluster, from a million rows.
    min_recall: float = 0.95  # Exit 1 if an index finds less of the ten nearest pictures, however it is asked.
    queries: int = 200  # So many of each sort to measure with: pictures, and captions.
    json: bool = False  # Print one machine-readable object on standard output.


def main(options: Options) -> int:
    """Build, measure, and say what came of it."""
    request = Request(
        columns=tuple(name for text in options.column or ("image",) for name in listed(text)),
        kind=options.kind,
        partitions=options.partitions,
        optimize=options.optimize,
        scalars=options.scalars,
        fulltext=options.fulltext,
        distributed=options.distributed,
        min_recall=options.min_recall,
        queries=options.queries,
    )
    report = index(Database(options.db, options.table), request)
    show_json(report.to_json()) if options.json else print("\n".join(report.lines()))
    return 0 if report.enough else 1


if __name__ == "__main__":
    finish(Options, main, __doc__ or "")
