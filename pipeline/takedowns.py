"""What was taken down, for good: `<table>_takedowns`. Everything in it is looked at again at every commit.

How it holds beside running jobs: `jobs/delete.py` writes its takedowns down first, and then makes a commit on
`<table>` that removes what is there, and that touches a fragment even if nothing is. A job looks at the takedowns
after it has opened the version that it commits on. So if it looked too early to see one, that commit of `delete.py`
is still to come: either the job's commit is there before it, and its rows are among those found and removed; or it
conflicts with it, and the job looks again. (`pipeline.pending` is where a job looks.)
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import lance
import pyarrow as pa

from pipeline.barred import COLUMNS, Takedowns, takedowns_of
from pipeline.database import Database
from pipeline.errors import TableError
from pipeline.removal import Removal
from pipeline.schema import TAKEDOWNS
from pipeline.stores.retry import patiently


def read_takedowns(database: Database, known: Takedowns | None = None) -> Takedowns:
    """All takedowns as they are now; `known` itself if nothing came since.

    Raises:
        TableError: they cannot be read.
    """

    def read() -> Takedowns:
        dataset = database.open("takedowns")
        if dataset is None:
            return Takedowns()
        if known is not None and known.version == dataset.version:
            return known
        return takedowns_of(values_in(database, dataset), dataset.version)

    return patiently(TableError)(read)


def values_in(database: Database, dataset: lance.LanceDataset) -> dict[str, list[str]]:
    """Column -> the values that were taken down."""
    table = database.scan("takedowns", dataset, list(COLUMNS))
    return {column: table[column].drop_null().unique().to_pylist() for column in COLUMNS}


def remember(database: Database, values: Mapping[str, Sequence[str]], why: str) -> int:
    """Write down what is taken down and is not yet; returns how many are new.

    Raises:
        TableError: it cannot be written.
    """
    known, now = read_takedowns(database), datetime.now(UTC)
    parts = []
    for column in COLUMNS:
        asked = list(dict.fromkeys(values.get(column, ())))
        new = [v for v, there in zip(asked, known.hit(column, asked), strict=True) if not there]
        constant = {column: pa.array(new, pa.string()), "why": pa.repeat(why, len(new))}
        constant["at"] = pa.repeat(pa.scalar(now, TAKEDOWNS.field("at").type), len(new))
        columns = [constant.get(f.name, pa.nulls(len(new), f.type)) for f in TAKEDOWNS]
        parts.append(pa.table(columns, schema=TAKEDOWNS))
    rows = pa.concat_tables(parts)
    if len(rows):
        database.append("takedowns", rows)
    return len(rows)


def strike(database: Database, suffix: str, find: Callable[[lance.LanceDataset], Sequence[int]]) -> int:
    """Remove the rows of `<table>_<suffix>` whose row ids `find` gives of its latest version; returns how many.

    Raises:
        TableError: it cannot be read or written.
    """
    for attempt in patiently(TableError):
        with attempt:
            dataset = database.open(suffix)
            gone = find(dataset) if dataset is not None else ()
            if dataset is not None and gone:
                database.swap(suffix, dataset, dataset.schema, [], without=Removal(row_ids=gone))
    return len(gone)
