"""`Lake`: one LanceDB database, one table in it, and the model that fills and asks it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import model
from bridgelake.wiring import as_evaluation_model, as_model, as_query_model, torch_device
from model import ModelSpec
from pipeline.config import EmbedConfig, FaultConfig, ReadConfig, RunConfig, WriteConfig
from pipeline.database import Database
from pipeline.evaluate import RERANK_TOP, Evaluation, Report, evaluate
from pipeline.export import export
from pipeline.exports.asked import Export, Exported
from pipeline.query import Picture, Query, QueryModel, read_picture, search
from pipeline.retrieval.hits import Hits
from pipeline.sql.answers import Answer, Batches
from pipeline.sql.limits import GIB, Limits
from pipeline.summary import Summary
from pipeline.upkeep.delete import Deleted, Extent, delete
from pipeline.upkeep.orders import Order
from pipeline.watch.progress import Observer, observer

if TYPE_CHECKING:
    from pipeline.forecasts.outlook import Forecast

DEFAULT_MODEL = str(Path(__file__).resolve().parent.parent / "demo" / "checkpoint")


class SearchOptions(TypedDict, total=False):
    """How to search; see `pipeline.retrieval.question.Query`."""

    column: str  # the vectors that are searched: "image", "text" or "cross"; "image"
    mode: str  # "vector", "fulltext" or "hybrid"; "vector"
    where: str  # an SQL condition that rows must meet before the search
    select: Sequence[str] | None  # columns that come back; all but the vectors
    limit: int  # hits; 10
    offset: int  # hits that are passed over first; 0
    min_itm: float | None  # least itm_query after a rerank; without one, least itm_score
    max_distance: float | None  # largest cosine distance
    nprobes: int | None  # partitions of the index to look into
    refine: int | None  # look at this many times the hits by their exact vectors
    exact: bool  # pass over the index; False
    rerank: str | None  # "itm": look at the candidates' pictures
    candidates: int | None  # of a rerank; 50, or as many as are wanted if that is more
    one_per_image: bool  # a picture once for all its captions; True
    version: int | str | None  # of the table, or a tag; the latest


class ExportOptions(TypedDict, total=False):
    """What to export, and how; see `pipeline.export.Export`."""

    format: str  # parquet, csv, jsonl, webdataset or clip-retrieval; told by the output's suffix unless given
    where: str  # an SQL condition that rows must meet
    sql: str  # or a query: a file gets what it gives, for a folder it gives the `id` of each row
    limits: Limits  # of the query: an hour and 1 GiB
    version: int | str | None  # of the table: a number or a tag
    select: tuple[str, ...]  # columns of a file
    vectors: bool  # whether a file has the vectors too
    shard_size: int | None  # samples, or rows, in one of a folder's files
    shard_bytes: int | None  # bytes in one shard of a WebDataset


class Lake:
    """A LanceDB database (a folder, or an s3, gs or az URL) with a table of embedded pairs."""

    def __init__(
        self,
        db: str,
        table: str = "laion",
        *,
        model: str = DEFAULT_MODEL,
        revision: str | None = None,
        device: str = "cpu",
    ) -> None:
        """`device`, cpu or gpu, is where queries are embedded; a run has its own in its configuration."""
        self.db = db
        self.table = table
        self._model = model
        self._revision = revision
        self._device = torch_device(device)

    @cached_property
    def spec(self) -> ModelSpec:
        """The checkpoint, fixed to one commit and one hash."""
        return model.resolve(self._model, self._revision)

    def embed(self, inputs: str | Sequence[str], *, progress: Observer | None = None) -> Summary:
        """Embed shards with the usual settings; `run` takes all of them.

        Args:
            inputs: files, folders, globs, brace ranges or fsspec URLs.
            progress: who is told how it goes; standard error unless given.
        """
        read = ReadConfig((inputs,) if isinstance(inputs, str) else tuple(inputs))
        return self.run(RunConfig(read, WriteConfig(self.db, self.table), EmbedConfig()), progress)

    def run(self, config: RunConfig, progress: Observer | None = None) -> Summary:
        """Run a configuration; what it has already committed is skipped."""
        from pipeline.run import Run  # Ray, which a search does without

        return Run(config, as_model(self.spec, config.embed.tags, config.embed.compile), progress or observer()).start()

    def forecast(self, config: RunConfig, gpu_hour_price: float | None = None) -> "Forecast":
        """What `run` would do now, how quickly and at what cost; nothing is written.

        Raises:
            BridgelakeError: as `run` would.
        """
        from pipeline.forecast import forecast

        return forecast(config, as_model(self.spec, config.embed.tags, config.embed.compile), gpu_hour_price)

    def replay_rejects(
        self,
        write: WriteConfig,
        embed: EmbedConfig | None = None,
        *,
        reasons: Sequence[str] = (),
        max_pixels: int = 100_000_000,
        progress: Observer | None = None,
    ) -> Summary:
        """Try rejected pairs again, where they stand in their shards; those that succeed become rows.

        Args:
            write: which table and dataset; how it is read and stored is told by the table.
            embed: how to embed.
            reasons: only slices with a pair that was rejected for one of these; any but not_downloaded by default.
            max_pixels: pictures with more are rejected from their header alone.
            progress: who is told how it goes; standard error unless given.

        Raises:
            ConfigError: an unknown reason.
            TableError, InputError: no such table, or dataset in it.
        """
        from pipeline.replay import WORTH_IT, as_embedded, known
        from pipeline.run import Run

        wanted = known(reasons) or WORTH_IT
        read, write, embed = as_embedded(write, embed or EmbedConfig(), max_pixels)
        faults = FaultConfig(max_reject_rate=1.0)  # what is read again was rejected once already
        config = RunConfig(read, write, embed, faults)
        return Run(config, as_model(self.spec, embed.tags, embed.compile), progress or observer()).replay(wanted)

    def delete(self, order: Order, extent: Extent | None = None) -> Deleted:
        """Take pairs down for good: by an SQL condition, ids, URLs or SHA-256; with `purge`, their bytes too.

        Raises:
            ConfigError: nothing is named, or a condition or value is not valid.
            TableError, LedgerError: no table, or it cannot be written, or its books contradict it.
        """
        return delete(Database(self.db, self.table), order, extent or Extent())

    def search(
        self,
        words: str = "",
        *,
        image: Picture | None = None,
        like: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> Hits:
        """The pictures that fit words, or that are like a picture or a row's, the best first.

        Args:
            words: what the picture shows, in plain words.
            image: a picture to search with, its path, URL or bytes; with words, both are looked for together.
            like: or the id of a row: what lies near its own vector, its own picture left out.
            **options: see `SearchOptions`.

        Raises:
            ConfigError: an option that is not valid, an unknown column in `where` or `select`.
            TableError, ContractError: no such table or version, no rows, or it was made with another model.
            InputError: the picture cannot be read, or there is no such row.
        """
        query = Query(words, image=None if image is None else read_picture(image), like=like, **options)
        return search(Database(self.db, self.table), query, as_query_model(self.spec, self._device))

    def sql(
        self, statement: str, *, version: int | str | None = None, timeout: float = 60.0, memory: float = 1.0
    ) -> Answer:
        """What SQL over the lake's tables gives; it only reads.

        The tables are samples, rejects, shards and runs; search('words', k), search_image('path or URL', k),
        similar('id', k), fulltext('words', k), hybrid('words', k) and rerank('words', k) stand in FROM. A WHERE over
        one of these filters before the search.

        Args:
            statement: DataFusion's SQL.
            version: of the samples: a number or a tag.
            timeout: seconds that it may take.
            memory: GiB that it may take.

        Raises:
            ConfigError: the SQL is not valid; it shows where.
            LimitError: it takes too long, or too much memory.
            TableError, ContractError, InputError: as `search`.
        """
        from pipeline.sql.engine import Statement, ask  # DataFusion, which a search does without

        asked = Statement(statement, version, Limits(timeout, memory * GIB))
        return ask(Database(self.db, self.table), asked, self._query_model)

    def sql_batches(
        self, statement: str, *, version: int | str | None = None, timeout: float = 60.0, memory: float = 1.0
    ) -> AbstractContextManager[Batches]:
        """As `sql`, batch by batch, for answers that memory does not hold."""
        from pipeline.sql.engine import Statement, reading

        asked = Statement(statement, version, Limits(timeout, memory * GIB))
        return reading(Database(self.db, self.table), asked, self._query_model)

    def _query_model(self) -> QueryModel:
        return as_query_model(self.spec, self._device)

    def evaluate(
        self,
        inputs: str | Sequence[str] | ReadConfig = (),
        *,
        where: str = "",
        version: int | str | None = None,
        limit: int | None = None,
        rerank_top: int = RERANK_TOP,
        say: Callable[[str], None] = lambda line: None,
    ) -> Report:
        """Measure retrieval, pictures by captions and captions by pictures, by ITC and after an ITM rerank.

        Args:
            inputs: shards that are embedded here, without a table; the table's rows unless given.
            where: an SQL condition that the table's rows must meet.
            version: of the table: a number or a tag.
            limit: distinct pictures, at most.
            rerank_top: so many of the best by ITC are ordered by ITM; 0 for none.
            say: told now and then how far it is.

        Raises:
            ConfigError, TableError, ContractError, InputError, FetchError: as `pipeline.evaluate.evaluate`.
        """
        if isinstance(inputs, ReadConfig):
            read: ReadConfig | None = inputs
        else:
            read = ReadConfig((inputs,) if isinstance(inputs, str) else tuple(inputs)) if inputs else None
        asked = Evaluation(read=read, where=where, version=version, limit=limit, rerank_top=rerank_top)
        return evaluate(Database(self.db, self.table), asked, as_evaluation_model(self.spec, self._device), say)

    def export(self, output: str, **options: Unpack[ExportOptions]) -> Exported:
        """Write rows as parquet, CSV or JSON lines, as a new WebDataset, or in clip-retrieval's layout.

        Args:
            output: a file or a folder that is not there yet: a path or any fsspec URL.
            **options: see `ExportOptions`.

        Raises:
            BridgelakeError: see `pipeline.export.export`.
        """
        return export(Database(self.db, self.table), Export(output=output, **options), self._query_model)
