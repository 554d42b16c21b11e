"""What plain LanceDB code gets by `import bridgelake`: queries embedded by BridgeTower, and hits reranked by looking.

    table.search("two cats", vector_column_name="image_embedding").rerank(ITMReranker()).limit(10)

A table made by `embed_laion.py` names the embedding function, its model, and where the table was made in its schema's
metadata, which LanceDB hands on with every answer. Where a checkpoint has moved to is told by
`lancedb.embeddings.get_registry().set_var("bridgetower", place)` before the table is opened, and a database by
`ITMReranker(db)`.
"""

import io
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pyarrow as pa
from lancedb.embeddings import EmbeddingFunction, get_registry, register
from lancedb.rerankers import Reranker
from PIL import Image

import model
from bridgelake.wiring import as_query_model, torch_device
from model import ModelSpec
from pipeline.config import Contract
from pipeline.contract import FUNCTION, PLACE_KEY, contract_of, require_contract
from pipeline.database import Database
from pipeline.errors import ConfigError, TableError
from pipeline.query import Picture, QueryModel, read_picture
from pipeline.retrieval.hits import FETCH_ERROR, ITM_QUERY, PLACE
from pipeline.retrieval.nearest import DISTANCE, RELEVANCE, ROW_ID, SCORE
from pipeline.retrieval.question import Query
from pipeline.retrieval.rerank import marked, rerank
from pipeline.retrieval.subject import subject
from pipeline.roots import source_roots


@lru_cache(maxsize=4)
def _spec(checkpoint: str, revision: str) -> ModelSpec:
    """Looked up once a process: LanceDB makes the function anew for every query."""
    return model.resolve(checkpoint, revision or None)


def _query_model(made_with: Contract, device: str) -> QueryModel:
    """The model that a table was made with, or that was named in its stead and gives the same vectors."""
    spec = _spec(made_with.checkpoint, made_with.revision)
    query_model = as_query_model(spec, torch_device(device))
    require_contract("the table", made_with, query_model.contract)
    return query_model


@register(FUNCTION)
class BridgeTowerEmbeddings(EmbeddingFunction):  # type: ignore[misc]  # lancedb is not typed
    """Embeds what is searched for: words by the text tower alone, a picture by the vision tower alone."""

    checkpoint: str
    revision: str = ""
    weights: str
    preprocessing: str
    dimension: int
    device: str = "cpu"
    max_retries: int = 0  # another try would say the same

    def ndims(self) -> int:
        """How long the vectors are."""
        return self.dimension

    def compute_query_embeddings(self, query: str | Picture | Image.Image) -> list[Any]:
        """One vector.

        Args:
            query: words, or a picture: its bytes, its path (not as a `str`), or an opened image.

        Raises:
            ContractError: the checkpoint is no longer the one that the table was made with.
        """
        made_with = Contract(self.weights, self.checkpoint, self.revision, self.preprocessing, self.dimension)
        asked = Query(query) if isinstance(query, str) else Query(image=_bytes(query))
        return [subject(asked, _query_model(made_with, self.device), None).vector]

    def compute_query_embeddings_with_retry(self, query: str | Picture | Image.Image) -> list[Any]:
        """The same: LanceDB's own would hide what an error says."""
        return self.compute_query_embeddings(query)

    def compute_source_embeddings(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Rows come by a run, which also reads, checks and records; not one by one."""
        raise ConfigError("rows are not added by hand: jobs/embed_laion.py, or Lake.embed, brings those of shards")


def _bytes(picture: Picture | Image.Image) -> bytes:
    if not isinstance(picture, Image.Image):
        return read_picture(picture)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


class ITMReranker(Reranker):  # type: ignore[misc]  # lancedb is not typed
    """Orders hits by how well the model finds their pictures to match the words (the ITM head).

    The pictures are read in place from the shards. `_relevance_score`, and `itm_query`, is the probability; a hit whose
    picture cannot be had stays, below the others, with a null there and the reason in `fetch_error`.
    It looks at the hits that LanceDB gives it: `limit(50)`, and the first ten of the answer, is a search in two stages.
    """

    def __init__(
        self,
        db: str | None = None,
        table: str | None = None,
        *,
        checkpoint: str | None = None,
        device: str = "cpu",
        return_score: str = "relevance",
    ) -> None:
        """All is told by the table that is searched, unless given.

        Args:
            db: the database of the table, where it is now.
            table: its name there.
            checkpoint: where the model is now: a folder, an fsspec URL or a hub id.
            device: cpu or gpu.
            return_score: "all" keeps LanceDB's own scores.
        """
        super().__init__(return_score)
        torch_device(device)
        self._db, self._table, self._checkpoint, self._device = db, table, checkpoint, device

    def rerank_vector(self, query: str, vector_results: pa.Table) -> pa.Table:
        """The hits of a vector search, by `_relevance_score`."""
        return self._rerank(query, vector_results)

    def rerank_fts(self, query: Any, fts_results: pa.Table) -> pa.Table:
        """The hits of a full-text search, by `_relevance_score`."""
        return self._rerank(query, fts_results)

    def rerank_hybrid(self, query: Any, vector_results: pa.Table, fts_results: pa.Table) -> pa.Table:
        """The hits of both, each once, by `_relevance_score`."""
        both = self.merge_results(vector_results, fts_results)
        for name, half in ((DISTANCE, vector_results), (SCORE, fts_results)):
            known = dict(zip(half[ROW_ID].to_pylist(), half[name].to_pylist(), strict=True)) if len(half) else {}
            scores = pa.array([known.get(row) for row in both[ROW_ID].to_pylist()], pa.float32())
            both = both.drop_columns([name] if name in both.column_names else []).append_column(name, scores)
        return self._rerank(query, both)

    def _rerank(self, query: Any, hits: pa.Table) -> pa.Table:
        hits = hits.drop_columns([name for name in (ITM_QUERY, FETCH_ERROR) if name in hits.column_names])
        if missing := [name for name in PLACE if name not in hits.column_names]:
            raise ConfigError(f"ITMReranker looks at pictures: select {', '.join(missing)} too, or leave select out")
        words = query if isinstance(query, str) else getattr(query, "query", None)  # of a MatchQuery, a PhraseQuery
        if not isinstance(words, str) or not words.strip():
            raise ConfigError("ITMReranker asks how well words match a picture: give .rerank(..., query_string=words)")
        metadata = hits.schema.metadata or {}
        asker = _query_model(self._made_with(contract_of("the table", hits.schema)), self._device)
        if hits.num_rows:
            roots = source_roots(self._database(metadata))
            ordered = rerank(hits, words, asker.preparer(), asker.encoder(), roots)
        else:
            ordered = marked(hits, {}, {})
        return self._keep_relevance_score(ordered.append_column(RELEVANCE, ordered[ITM_QUERY]))

    def _made_with(self, table: Contract) -> Contract:
        """The table's contract, with its checkpoint where it is now."""
        moved = self._checkpoint
        with suppress(KeyError):
            moved = moved or get_registry().get_var(FUNCTION)
        return replace(table, checkpoint=moved, revision="") if moved else table

    def _database(self, metadata: Mapping[bytes, bytes]) -> Database:
        """Where the table is now.

        Raises:
            TableError: it is not where it was made.
        """
        made = json.loads(metadata.get(PLACE_KEY, b"{}"))
        database = Database(self._db or made.get("db", ""), self._table or made.get("table", "laion"))
        if not database.uri or database.open() is None:
            where = f"not at {database.shown}" if database.uri else "nowhere that the table tells"
            raise TableError(
                f"the pictures are found through the table's database, which is {where}: give ITMReranker(db, table)"
            )
        return database
