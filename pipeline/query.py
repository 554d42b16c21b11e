"""Ask the table: words or a picture -> the nearest pictures, one hit per image, reranked by looking at them.

Query -> one vector, by one tower alone -> nearest rows (LanceDB) -> distinct pictures -> `rerank` -> `Hits`
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline.config import Contract
from pipeline.contract import contract_of, require_contract
from pipeline.database import Database
from pipeline.decode import Rejected, decode
from pipeline.embed import Pixels, Preparer, Vectors
from pipeline.errors import ConfigError, InputError, ShardError, TableError
from pipeline.retrieval.hits import DISTANCE, FETCH_ERROR, ITM_QUERY, Hits
from pipeline.retrieval.rerank import rerank
from pipeline.retrieval.where import bad_where, check_where
from pipeline.roots import source_roots
from pipeline.schema import EMBEDDING_COLUMNS
from pipeline.stores.retry import call
from pipeline.stores.storage import connect, explain, reading, redact
from pipeline.table import Rows

COLUMN = EMBEDDING_COLUMNS["image"]
CANDIDATES = 50
_LARGEST = 100_000_000  # pixels of a picture that is asked with
_GROWTH = 4  # of what is fetched, while pictures repeat

Picture = str | os.PathLike[str] | bytes


class QueryEncoder(Protocol):
    """The model, as a query needs it; vectors are float32 of unit length."""

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """(B, dimension), by the text tower alone."""
        ...

    def embed_images(self, pixels: Pixels) -> Vectors:
        """(N, dimension) of (N, size, size, 3) uint8, by the vision tower alone."""
        ...

    def match(self, pixels: Pixels, texts: Sequence[str]) -> Vectors:
        """ITM probability (B, N) of each text with each picture."""
        ...


@dataclass(frozen=True, slots=True)
class QueryModel:
    """What a query knows of a model: its contract, and how to get its two halves once they are needed."""

    contract: Contract
    preparer: Callable[[], Preparer]
    encoder: Callable[[], QueryEncoder]


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for, checked.

    `where` is an SQL condition that rows must meet before the search; `candidates` are looked at by a
    rerank (50, or `limit` if that is more); `one_per_image` shows a picture once for all its captions.
    """

    words: str = ""
    image: bytes | None = None
    where: str = ""
    limit: int = 10
    rerank: str | None = None
    candidates: int | None = None
    one_per_image: bool = True

    def __post_init__(self) -> None:
        if self.image is not None and self.words:
            raise ConfigError("words and --image were both given: search with one of them")
        if self.image is None and not self.words.strip():
            raise ConfigError('nothing to search for: give words, as in "two cats on a couch", or --image')
        if self.limit < 1:
            raise ConfigError(f"--limit {self.limit} is not valid: allowed is a number above 0")
        if self.rerank not in (None, "itm"):
            raise ConfigError(f"--rerank {self.rerank!r} is not valid: allowed is itm")
        if self.rerank and self.image is not None:
            raise ConfigError("--rerank itm asks how well words match a picture: it needs words, not --image")
        if self.candidates is not None and self.candidates < self.limit:
            raise ConfigError(
                f"--candidates {self.candidates} is not valid: at least --limit {self.limit} must be looked at"
            )

    @property
    def depth(self) -> int:
        """How many hits the vector search has to bring."""
        return (self.candidates or max(CANDIDATES, self.limit)) if self.rerank else self.limit

    @property
    def detail(self) -> str:
        """How it was asked, in a few words."""
        rerank = f"{self.rerank} rerank of the best {self.depth}" if self.rerank else ""
        return ", ".join(part for part in (f"where {self.where}" if self.where.strip() else "", rerank) if part)


def read_picture(image: Picture) -> bytes:
    """The bytes of a picture to ask with: a path, a URL, or the bytes themselves.

    Raises:
        InputError: it cannot be read.
    """
    if isinstance(image, bytes):
        return image
    uri = os.fspath(image)
    try:
        with reading(uri):
            store, path = connect(uri)
            return bytes(call(store.cat_file, path))
    except ShardError as error:
        raise InputError(f"--image {error}") from error


def search(database: Database, query: Query, model: QueryModel) -> Hits:
    """Run a query; the model is loaded only after all that can be refused has been.

    Raises:
        ConfigError: a `where` that is not valid.
        ContractError: the table was made with another model; both are shown.
        TableError: no such table, or nothing in it.
        InputError: the picture to ask with is none.
    """
    rows = _open(database, model)
    if query.where.strip():
        check_where(rows.dataset, query.where)
    vector, notes = _vector(query, model)
    # The version that was checked, whatever is committed meanwhile: row ids hold within one version.
    try:
        table = database.connect().open_table(database.table, version=rows.dataset.version)
        nearest = _nearest(table, vector, query, rows.dataset.count_rows())
        hits = _rows(table, nearest)
    except (ValueError, RuntimeError, OSError) as error:
        if query.where.strip() and "filter expression" in str(error):  # valid, but not of these rows: width / 0
            raise bad_where(rows.dataset, query.where, str(error)) from error
        raise TableError(f"cannot search {redact(database.path())}: {explain(error)}") from error
    if query.rerank and hits.num_rows:
        hits = rerank(hits, query.words, model.preparer(), model.encoder(), source_roots(database))
    title = query.words if query.image is None else "pictures like this one"
    return Hits(hits.slice(0, query.limit), title, query.detail, database, notes, query.image or b"")


def _open(database: Database, model: QueryModel) -> Rows:
    rows = Rows.open(database)
    if rows is None:
        raise TableError(f"there is no table {database.table} in {redact(database.uri)}: embed shards into it first")
    where = redact(database.path())
    require_contract(where, contract_of(where, rows.dataset.schema), model.contract)
    if COLUMN not in rows.dataset.schema.names:
        raise TableError(f"{where} holds no {COLUMN}, which a search needs: embed with image in --vectors")
    if rows.dataset.count_rows() == 0:
        raise TableError(f"{where} holds no rows yet: embed shards into it first")
    return rows


def _vector(query: Query, model: QueryModel) -> tuple[Vectors, tuple[str, ...]]:
    """What is looked for, and what there is to say of it."""
    preparer = model.preparer()
    if query.image is None:
        cut = preparer.captions([query.words])[0][1]
        notes = ("the words are more than the model takes: only their beginning was looked for",) if cut else ()
        return model.encoder().embed_texts([query.words])[0], notes
    try:
        rgb = decode(query.image, _LARGEST).rgb
    except Rejected as error:
        raise InputError(f"--image cannot be used, it is {error.reason}: {error.detail}") from error
    if not preparer.fits(*rgb.shape[:2]):
        raise InputError(f"--image is {rgb.shape[1]} x {rgb.shape[0]} pixels, too narrow for the model")
    return model.encoder().embed_images(np.stack([preparer.picture(rgb)]))[0], ()


def _nearest(table: Any, vector: Vectors, query: Query, rows: int) -> pa.Table:
    """Row ids and distances of the nearest rows, or of the nearest distinct pictures, the nearest first.

    More and more rows are fetched until there are enough pictures, and one more: the captions of a picture
    lie at one distance, and only then are all of the last one's here to choose the first from.
    """
    fetch = min(rows, 2 * query.depth + 1 if query.one_per_image else query.depth)
    while True:
        builder = table.search(vector, vector_column_name=COLUMN).distance_type("cosine").limit(fetch)
        if query.where.strip():
            builder = builder.where(query.where)
        found = builder.select(["sha256", "caption_index", "id", DISTANCE]).with_row_id(True).to_arrow()
        found = found.sort_by([(name, "ascending") for name in (DISTANCE, "sha256", "caption_index", "id")])
        if not query.one_per_image:
            return found
        _, first = np.unique(found["sha256"].to_numpy(), return_index=True)
        if len(first) > query.depth or found.num_rows < fetch or fetch == rows:
            return found.take(pa.array(np.sort(first)[: query.depth]))
        fetch = min(rows, _GROWTH * fetch)


def _rows(table: Any, nearest: pa.Table) -> pa.Table:
    """The rows themselves, in order, all columns but the vectors, with their distances."""
    columns = [f.name for f in table.schema if not pa.types.is_fixed_size_list(f.type)]
    columns = [name for name in columns if name not in (ITM_QUERY, FETCH_ERROR)]  # kept ones, of another meaning
    if nearest.num_rows == 0:
        found = pa.schema([table.schema.field(c) for c in columns]).empty_table()
    else:
        ids = nearest["_rowid"].to_pylist()
        found = table.take_row_ids(ids).select(columns).with_row_id().to_arrow()
        place = {row: i for i, row in enumerate(found["_rowid"].to_pylist())}
        found = found.take(pa.array([place[i] for i in ids])).select(columns)
    return found.append_column(DISTANCE, nearest[DISTANCE]).replace_schema_metadata(None)
