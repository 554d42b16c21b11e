"""Ask the table: words, a picture, both, or a row's like -> the best pictures, reranked by looking at them.

Query -> one vector, by one tower alone -> nearest rows, by Lance, fused with full text -> `rerank` -> `Hits`
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.contract import contract_of, require_contract
from pipeline.database import Database
from pipeline.errors import ConfigError, TableError
from pipeline.plain import plain
from pipeline.retrieval.fulltext import matching
from pipeline.retrieval.fusion import HALF, fuse
from pipeline.retrieval.hits import ITM_QUERY, PLACE, SCORES, SHOWN, Hits
from pipeline.retrieval.nearest import nearest, rows_at
from pipeline.retrieval.question import Query
from pipeline.retrieval.rerank import marked, rerank
from pipeline.retrieval.subject import Picture, QueryEncoder, QueryModel, read_picture, subject
from pipeline.retrieval.where import bad_where, check_where
from pipeline.roots import source_roots
from pipeline.schema import EMBEDDING_COLUMNS
from pipeline.stores.storage import explain

__all__ = ["Picture", "Query", "QueryEncoder", "QueryModel", "read_picture", "search"]


def search(database: Database, query: Query, model: QueryModel) -> Hits:
    """Run a query; the model is loaded only after all that can be refused has been.

    Raises:
        ConfigError: a `where` or `select` that is not valid.
        ContractError: the table was made with another model; both are shown.
        TableError: no such table or version, nothing in it, or not the vectors that are searched.
        InputError: the picture to ask with is none, or there is no such row.
    """
    dataset = _open(database, query, model)
    if query.where.strip():
        check_where(dataset, query.where)
    selected, whole = _columns(dataset, query)
    with _explaining(database, query, dataset):
        found, notes = _found(database, dataset, query, model)
        hits = rows_at(dataset, found, list(dict.fromkeys([*selected, *whole])))
    for name in SCORES:
        if name in found.column_names:
            hits = hits.append_column(name, found[name])
    if query.rerank:
        hits, notes = _reranked(hits, query, model, database, notes)
    hits = hits.slice(query.offset, query.limit).replace_schema_metadata(None)
    scores = [name for name in SCORES if name in hits.column_names]
    table = hits.select([*selected, *scores])
    return Hits(table, query.title, query.detail, database, notes, query.image or b"", hits.select([*whole, *scores]))


def _open(database: Database, query: Query, model: QueryModel) -> Any:
    """The table at the version that is asked, whatever is committed meanwhile."""
    dataset, where = database.require(query.version), database.shown
    require_contract(where, contract_of(where, dataset.schema), model.contract)
    column, known = EMBEDDING_COLUMNS[query.column], dataset.schema.names
    if query.mode != "fulltext" and column not in known:
        there = " or ".join(name for name, stored in EMBEDDING_COLUMNS.items() if stored in known)
        raise TableError(
            f"{where} holds no {column}: search another --column, which is {there}, or embed with {query.column} in "
            "--vectors"
        )
    if dataset.count_rows() == 0:
        raise TableError(f"{where} holds no rows yet: embed shards into it first")
    return dataset


def _columns(dataset: Any, query: Query) -> tuple[list[str], list[str]]:
    """Which columns come back, and which are needed to show and fetch the hits."""
    own = [f for f in dataset.schema if f.name not in SCORES]  # a kept column of such a name means something else
    if query.select is None:
        selected = [f.name for f in own if not pa.types.is_fixed_size_list(f.type)]
    else:
        selected = [name for name in dict.fromkeys(query.select) if name not in SCORES]
        known = [f.name for f in own]
        if unknown := [name for name in selected if name not in known]:
            raise ConfigError(
                f"--select: there is no column {plain(unknown[0], 80)}; the columns are {', '.join(known)}"
            )
    return selected, list(dict.fromkeys([*PLACE, *SHOWN]))


def _found(database: Database, dataset: Any, query: Query, model: QueryModel) -> tuple[pa.Table, tuple[str, ...]]:
    """The candidates as row ids with their scores, the best first; and what there is to say of them."""
    if query.mode == "fulltext":
        return matching(database, dataset, query, query.depth), ()
    asked = subject(query, model, dataset)
    if query.mode == "vector":
        return nearest(dataset, asked.vector, query, query.depth, asked.without), asked.notes
    half = max(HALF, query.depth)
    by_words, by_vector = matching(database, dataset, query, half), nearest(dataset, asked.vector, query, half)
    return fuse(by_words, by_vector, query.one_per_image).slice(0, query.depth), asked.notes


def _reranked(
    hits: pa.Table, query: Query, model: QueryModel, database: Database, notes: tuple[str, ...]
) -> tuple[pa.Table, tuple[str, ...]]:
    """Candidates ordered by looking at them; those that reach `min_itm`."""
    if hits.num_rows == 0:
        return marked(hits, {}, {}), notes
    hits = rerank(hits, query.words, model.preparer(), model.encoder(), source_roots(database))
    if query.min_itm is None:
        return hits, notes
    if unseen := hits[ITM_QUERY].null_count:
        notes += (f"the pictures of {unseen} candidates could not be looked at: --min-itm leaves them out",)
    return hits.filter(pc.fill_null(pc.greater_equal(hits[ITM_QUERY], query.min_itm), False)), notes


@contextmanager
def _explaining(database: Database, query: Query, dataset: Any) -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        if query.where.strip() and "filter expression" in str(error):  # valid, but not of these rows: width / 0
            raise bad_where(dataset, query.where, str(error)) from error
        raise TableError(f"cannot search {database.shown}: {explain(error)}") from error
