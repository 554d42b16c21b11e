"""`Lake`: one LanceDB database, one table in it, and the model that fills and asks it."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TypedDict, Unpack

import model
from bridgelake.wiring import as_model, as_query_model
from model import ModelSpec
from pipeline.config import EmbedConfig, FaultConfig, ReadConfig, RunConfig, WriteConfig
from pipeline.database import Database
from pipeline.errors import ConfigError
from pipeline.query import Picture, Query, read_picture, search
from pipeline.retrieval.hits import Hits
from pipeline.summary import Summary
from pipeline.watch.progress import Observer, observer

DEFAULT_MODEL = str(Path(__file__).resolve().parent.parent / "demo" / "checkpoint")
_DEVICES = {"cpu": "cpu", "gpu": "cuda"}


class SearchOptions(TypedDict, total=False):
    """How to search; see `pipeline.query.Query`."""

    limit: int  # hits; 10
    where: str  # an SQL condition that rows must meet before the search
    rerank: str | None  # "itm": look at the candidates' pictures
    candidates: int | None  # of a rerank; 50, or `limit` if that is more
    one_per_image: bool  # a picture once for all its captions; True


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
        if device not in _DEVICES:
            raise ConfigError(f"--device {device!r} is not valid: allowed is cpu or gpu")
        self.db = db
        self.table = table
        self._model = model
        self._revision = revision
        self._device = _DEVICES[device]

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

        return Run(config, as_model(self.spec), progress or observer()).start()

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
        read, write = as_embedded(write, max_pixels)
        faults = FaultConfig(max_reject_rate=1.0)  # what is read again was rejected once already
        config = RunConfig(read, write, embed or EmbedConfig(), faults)
        return Run(config, as_model(self.spec), progress or observer()).replay(wanted)

    def search(self, words: str = "", *, image: Picture | None = None, **options: Unpack[SearchOptions]) -> Hits:
        """The pictures that fit words, or that are like a picture, the best first.

        Args:
            words: what the picture shows, in plain words.
            image: or a picture to search with: its path, URL or bytes.
            **options: `limit`, `where`, `rerank`, `candidates`, `one_per_image`.

        Raises:
            ConfigError: an option that is not valid, an unknown column in `where`.
            TableError, ContractError: no table, no rows, or it was made with another model.
            InputError: the picture cannot be read.
        """
        query = Query(words, None if image is None else read_picture(image), **options)
        return search(Database(self.db, self.table), query, as_query_model(self.spec, self._device))
