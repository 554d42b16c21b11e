"""Where each dataset's shards lie, asked by readers: nothing is absorbed or written."""

from contextlib import suppress

import pyarrow.compute as pc

from pipeline.database import Database
from pipeline.errors import VersionGoneError
from pipeline.table import Rows


def source_roots(database: Database) -> dict[str, str]:
    """Dataset -> root of its shards, as its latest run had it.

    Read from the ledger, and from the commits that no run has written down there yet.
    """
    roots: dict[str, str] = {}
    absorbed = 0
    if (ledger := database.open("shards")) is not None:
        known = database.scan("shards", ledger, ["dataset", "root", "version"])
        known = known.filter(pc.is_valid(known["version"])).sort_by("version")
        roots = dict(zip(known["dataset"].to_pylist(), known["root"].to_pylist(), strict=True))
        absorbed = pc.max(known["version"]).as_py() or 0
    if (table := Rows.open(database)) is not None:
        # Versions that were cleaned up had been absorbed, or a run will say so; a query does without them.
        with suppress(VersionGoneError):
            for _, records in table.commits_since(absorbed):
                roots |= {record.dataset: record.root for record in records}
    return roots
