"""The best rows for words in their captions, by BM25.

By the table's full-text index, which also answers for rows that it does not hold yet. Lance would search without one
too, but takes `Cats` and `cats` for two words there; so the captions of a small table without an index are indexed in
memory, for the same answer, and nothing is written.
"""

import uuid
from functools import lru_cache

import lance
import numpy as np
import pyarrow as pa
from lance.query import MatchQuery

from pipeline.database import Database, storage_options
from pipeline.errors import TableError
from pipeline.retrieval.nearest import KEYS, ROW_ID, SCORE, Ranking, distinct, scan
from pipeline.retrieval.question import Query

IN_MEMORY = 200_000  # captions that are indexed for a query: two seconds
_ROW = "row"


def matching(database: Database, dataset: lance.LanceDataset, query: Query, depth: int) -> pa.Table:
    """The rows whose captions fit the words best: as `nearest`, with `_score`.

    Args:
        database: where the table is.
        dataset: the table.
        query: its words and filter.
        depth: how many are wanted: pictures, or rows if the query is not for one hit a picture.

    Raises:
        TableError: the table is large and has no full-text index.
    """
    words = MatchQuery(query.words, "caption")
    if any(index["type"] == "Inverted" and "caption" in index["fields"] for index in dataset.list_indices()):
        return distinct(
            Ranking(
                SCORE,
                "descending",
                lambda size: scan(dataset, query, (*KEYS, SCORE), full_text_query=words, limit=size),
            ),
            dataset,
            query,
            depth,
        )
    if (rows := dataset.count_rows()) > IN_MEMORY:
        raise TableError(
            f"{database.shown} has {rows:,} rows and no full-text index, which a search for words in captions "
            f"needs beyond {IN_MEMORY:,}: build one with jobs/build_index.py"
        )
    captions = _indexed(dataset.uri, dataset.version, dataset.get_fragments()[-1].data_files()[0].path)
    found = captions.scanner(full_text_query=words, columns=[_ROW, *KEYS, SCORE]).to_table()
    if query.filter:
        kept = dataset.scanner(columns=[], filter=query.filter, with_row_id=True).to_table()[ROW_ID]
        found = found.filter(pa.array(np.isin(found[_ROW].to_numpy(), kept.to_numpy())))
    found = found.rename_columns({_ROW: ROW_ID})
    return distinct(Ranking(SCORE, "descending", lambda size: found), dataset, query, depth)


@lru_cache(maxsize=1)
def _indexed(uri: str, version: int, file: str) -> lance.LanceDataset:
    """The captions of a table at one version, indexed in memory as `jobs/build_index.py` would on disk.

    A `file` of its own tells the table from another that was made anew in its place.
    """
    dataset = lance.dataset(uri, version=version, storage_options=storage_options(uri))
    rows = dataset.to_table(columns=["caption", *KEYS], with_row_id=True).rename_columns({ROW_ID: _ROW})
    captions = lance.write_dataset(rows, f"memory://{uuid.uuid4().hex}")
    captions.create_scalar_index("caption", "INVERTED")
    return captions
