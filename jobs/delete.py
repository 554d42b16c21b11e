#!/usr/bin/env python
"""Take pairs down for good: out of the table and its rejects, and never brought back by any later run."""

from dataclasses import dataclass, field

from tyro.conf import UseAppendAction

from bridgelake import Lake
from jobs.outcome import finish, show_json
from pipeline.upkeep.delete import Extent
from pipeline.upkeep.orders import Order, read_values


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `delete.py` takes. It may run while jobs embed and people search, and as often as you like."""

    db: str  # LanceDB database: a folder, or an s3, gs or az URL.
    table: str = "laion"  # Table in the database.
    where: str = ""  # SQL condition: the pairs that meet it now, such as "punsafe > 0.9".
    ids: str = ""  # File of ids, one a line: these pairs.
    urls: str = ""  # File of URLs, one a line: every pair with exactly that URL.
    sha256: str = ""  # File of SHA-256 of pictures, one a line: every pair of them.
    id: UseAppendAction[tuple[str, ...]] = field(default=())  # One id; may be repeated.
    url: UseAppendAction[tuple[str, ...]] = field(default=())  # One URL; may be repeated.
    picture: UseAppendAction[tuple[str, ...]] = field(default=())  # One SHA-256; may be repeated.
    why: str = ""  # Kept beside each takedown.
    purge: bool = False  # Remove the bytes too, of all that was ever taken down: old versions go, tags on them move.
    nobody_writes: bool = False  # With --purge, I say that no job runs: files of killed jobs go too.
    dry_run: bool = False  # Only count.
    json: bool = False  # Print one machine-readable object on standard output.


def main(options: Options) -> int:
    """Take down, and prove it; 1 if something is left."""
    named = {"id": (options.ids, options.id), "url": (options.urls, options.url)}
    named["sha256"] = (options.sha256, options.picture)
    values = {c: (*(read_values(c, file) if file else ()), *inline) for c, (file, inline) in named.items()}
    order = Order(options.where, values["id"], values["url"], values["sha256"], options.why)
    done = Lake(options.db, options.table).delete(order, Extent(options.purge, options.nobody_writes, options.dry_run))
    show_json(done.to_dict()) if options.json else print("\n".join(done.lines()))
    return 0 if done.gone else 1


if __name__ == "__main__":
    finish(Options, main, __doc__ or "")
