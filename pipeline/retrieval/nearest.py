"""The best rows for a vector: one a picture, or one a caption.

What comes back is small: row ids and scores, the best first. Ties are in the order of sha256, caption and id, so that
an answer does not depend on how the table is laid out, and one page of it goes on where the other ended.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.embed import Vectors
from pipeline.index import way
from pipeline.retrieval.question import Query
from pipeline.schema import EMBEDDING_COLUMNS

DISTANCE, SCORE, RELEVANCE, ROW_ID = "_distance", "_score", "_relevance_score", "_rowid"
KEYS = ("sha256", "caption_index", "id")
_LATE = KEYS[1:]  # of which a search by vectors reads nothing, but where a picture came twice
_GROWTH = 4  # of what is fetched, while there are not enough pictures
_TIES = 10_000  # rows beyond which ties at the end are no longer fetched whole: thousands of captions may be alike


class Ranking(NamedTuple):
    """How rows are ordered by one search."""

    score: str
    order: str
    fetch: Callable[[int], pa.Table]  # as many of the best rows as told, or all that there are
    worst: float | None = None  # score that a hit may have


def nearest(dataset: Any, vector: Vectors, query: Query, depth: int, without: str | None = None) -> pa.Table:
    """The rows nearest to a vector: `_rowid`, `sha256`, `_distance`; `caption_index`, `id` where a picture came twice.

    Args:
        dataset: the table, a `lance.LanceDataset`.
        vector: what to look for, float32.
        query: its filter, column, and how to use the index.
        depth: how many are wanted: pictures, or rows if the query is not for one hit a picture.
        without: sha256 of a picture that is left out.
    """
    column = EMBEDDING_COLUMNS[query.column]
    how = {"column": column, "q": vector, "metric": "cosine", "use_index": not query.exact} | _way(dataset, query)
    # Of the few rows that are compared one by one, only the vectors are read; else Lance would read the whole column.
    late = {} if how["use_index"] or query.exact else {"late_materialization": [column, "sha256"]}

    def fetch(size: int) -> pa.Table:
        rows = scan(dataset, query, ("sha256", DISTANCE), nearest={**how, "k": size}, **late)
        if how.get("nprobes") and rows.num_rows < size:
            # A filter leaves too few in these partitions: without a number, Lance 13 looks into all of them.
            rows = scan(dataset, query, ("sha256", DISTANCE), nearest={**how, "k": size, "nprobes": None})
        return _numbered(dataset, rows)

    return distinct(Ranking(DISTANCE, "ascending", fetch, query.max_distance), dataset, query, depth, without)


def _way(dataset: Any, query: Query) -> dict[str, Any]:
    """How the index is asked: as its build found best, but for what the query says."""
    if query.exact:
        return {}
    told = {"nprobes": query.nprobes, "refine_factor": query.refine}
    said = {name: value for name, value in told.items() if value is not None}
    return said if len(said) == len(told) else {**way(dataset, query.column, query.filter), **said}


def _numbered(dataset: Any, rows: pa.Table) -> pa.Table:
    """With `caption_index` and `id`, which order a picture's rows: each takes Lance 1 to 3 ms, even of few rows."""
    if pc.count_distinct(rows["sha256"]).as_py() == rows.num_rows:
        late = pa.table({name: pa.nulls(rows.num_rows, dataset.schema.field(name).type) for name in _LATE})
    else:
        late = rows_at(dataset, rows, list(_LATE))
    for name in _LATE:
        rows = rows.append_column(name, late[name])
    return rows


def scan(dataset: Any, query: Query, columns: Sequence[str], **search: Any) -> pa.Table:
    """Some columns of what one search of Lance's gives, of rows that meet the query's filter."""
    condition = {"filter": query.filter, "prefilter": True} if query.filter else {}
    return dataset.scanner(columns=list(columns), with_row_id=True, **condition, **search).to_table()


def distinct(ranking: Ranking, dataset: Any, query: Query, depth: int, without: str | None = None) -> pa.Table:
    """The best `depth` pictures, or rows, of a ranking; more and more is fetched until they are there, or nothing more.

    The rows of a picture often lie at one score, so that the last one's may be cut off: what is fetched must go beyond
    the last score, and only then are all of them here to choose the first from.
    """
    rows = dataset.count_rows()
    size = min(rows, 2 * depth + 1)
    while True:
        fetched = ranking.fetch(size)
        found, passed = _sorted(fetched, ranking)
        if without is not None:
            found = found.filter(pc.fill_null(pc.not_equal(found["sha256"], without), True))
        chosen = _first_of_each(found) if query.one_per_image else np.arange(found.num_rows)
        scores = found[ranking.score].to_numpy()
        settled = len(chosen) > depth and (scores[chosen[depth - 1]] != scores[-1] or size >= _TIES)
        if settled or passed or fetched.num_rows < size or size == rows:
            return found.take(pa.array(chosen[:depth]))
        size = min(rows, _GROWTH * size)


def _sorted(fetched: pa.Table, ranking: Ranking) -> tuple[pa.Table, bool]:
    """Rows with a score, the best first; and whether the worst that a hit may have was passed."""
    scored = fetched.filter(pc.fill_null(pc.is_finite(fetched[ranking.score]), False))
    found = scored.sort_by([(ranking.score, ranking.order), *((name, "ascending") for name in KEYS)])
    if ranking.worst is None:
        return found, False
    near = found.filter(pc.less_equal(found[ranking.score], np.float32(ranking.worst)))
    return near, near.num_rows < found.num_rows


def _first_of_each(found: pa.Table) -> Any:
    """Indexes of the best row of each picture, the best first; a row without a sha256 stands for itself."""
    _, first = np.unique(pc.coalesce(found["sha256"], found["id"]).to_numpy(), return_index=True)
    return np.sort(first)


def rows_at(dataset: Any, found: pa.Table, columns: list[str]) -> pa.Table:
    """Some columns of the rows that were found, in their order."""
    ids = found[ROW_ID].to_pylist()
    if not ids:
        return pa.schema([dataset.schema.field(name) for name in columns]).empty_table()
    rows = dataset.to_table(columns=columns, filter=f"{ROW_ID} IN ({', '.join(map(str, ids))})", with_row_id=True)
    place = {row: i for i, row in enumerate(rows[ROW_ID].to_pylist())}
    return rows.take(pa.array([place[i] for i in ids])).select(columns)
