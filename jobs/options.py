"""What the command lines have in common."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

from tyro.conf import Positional

from pipeline.config import EmbedConfig, Tagging, WriteConfig
from pipeline.database import Database
from pipeline.errors import ConfigError
from pipeline.watch.log import JsonLines


def listed(text: str) -> tuple[str, ...]:
    """The parts of an option with commas in it."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """How the model is run."""

    batch_size: int | Literal["auto"] = 64  # Pictures in one model call; auto finds the fastest.
    device: str = "auto"  # Where torch computes: auto asks the cluster, gpu, or cpu.
    dtype: str = "auto"  # auto, float32, bfloat16, or fp8 (float8, on an L4, L40S, H100 or later).
    compile: str = "auto"  # torch.compile, minutes at an actor's first start: auto for GPUs alone, on, or off.
    num_gpus: float | None = None  # Share of a GPU that Ray reserves for each actor. Default: 1, on GPUs.
    actors: int | None = None  # At most this many embedding actors. Default: as many as fit.
    submit: str | None = None  # Run all this as a job on a cluster: its dashboard's URL, such as http://head:8265.
    log_json: bool = False  # On standard error, one JSON object a line for each event, in place of what a person reads.

    @cached_property
    def log(self) -> JsonLines | None:
        """The log for machines, if that was asked for."""
        return JsonLines(sys.stderr) if self.log_json else None

    @property
    def config(self) -> EmbedConfig:
        """As a run takes them."""
        return EmbedConfig(self.batch_size, self.device, self.dtype, self.num_gpus, self.actors, compile=self.compile)


@dataclass(frozen=True, kw_only=True)
class TagOptions:
    """Words that the model finds for each picture."""

    tags: int | None = None  # Store so many of the likeliest words for the prompt's mask, as `tags`. Default: none.
    tag_prompt: str | None = None  # What to fill, with <mask> in it once. Default: "a photo of a <mask>".

    @property
    def config(self) -> Tagging | None:
        """As a run takes them."""
        if self.tags is None and self.tag_prompt is not None:
            raise ConfigError("--tag-prompt goes with --tags, the number of words for it")
        given = {} if self.tag_prompt is None else {"prompt": self.tag_prompt}
        return None if self.tags is None else Tagging(self.tags, **given)


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What to look for, and how."""

    words: Positional[str] = ""  # What the picture shows, in plain words.
    image: str | None = None  # A picture to search with, a path or fsspec URL; with words, for both together.
    like: str | None = None  # Or the id of a row: what is like it, its own picture left out.
    column: Literal["image", "text", "cross"] = "image"
    """The vectors that are searched: of the pictures, of their captions, or of both fused."""
    mode: Literal["vector", "fulltext", "hybrid"] = "vector"
    """By vectors, by the words of the captions (BM25), or by both (reciprocal rank fusion)."""
    where: str = ""  # SQL condition that rows must meet before the search, such as "width >= 512".
    select: str = ""  # Columns that come back with --json, separated by commas. Default: all but the vectors.
    limit: int = 10  # How many hits.
    offset: int = 0  # How many of the best to pass over first.
    min_itm: float | None = None
    """Least matching probability, 0 to 1: of the picture with the words after --rerank, else with its own caption."""
    max_distance: float | None = None  # Largest cosine distance, 0 to 2.
    nprobes: int | None = None  # Partitions of a vector index to look into. Default: what its build found best.
    refine: int | None = None  # Compare this many times the wanted hits exactly. Default: what the build found best.
    exact: bool = False  # Compare every row, without an index.
    one_per_image: bool = True  # Show a picture once for all its captions.
    rerank: str | None = None  # itm: look at the best candidates' pictures, order them by how well the words fit.
    candidates: int | None = None  # How many a rerank looks at. Default: 50, or as many as are wanted if more.
    version: str | None = None  # Of the table: a number or a tag. Default: the latest.

    @property
    def asked(self) -> dict[str, Any]:
        """As `Lake.search` takes them."""
        options = {field.name: getattr(self, field.name) for field in fields(SearchOptions)}
        return options | {"select": listed(self.select) or None}


@dataclass(frozen=True, kw_only=True)
class SqlOptions:
    """What to ask with SQL, and where the answer goes."""

    sql: str = ""  # Or SQL over samples, rejects, shards, runs, duplicates; search('words', k) and such stand in FROM.
    format: Literal["table", "csv", "jsonl", "parquet"] = "table"  # Of the answer to --sql.
    output: str | None = None  # A new file for the answer to --sql: a path or fsspec URL. Default: standard output.
    timeout: float = 60.0  # Seconds that --sql may take.
    memory: float = 1.0  # GiB that --sql may take.


def require_dry_run(dry_run: bool, gpu_hour_price: float | None, log_json: bool = False) -> None:
    """Refuse a price without --dry-run, one below 0, and a log of what does not happen.

    Raises:
        ConfigError: saying which.
    """
    if not dry_run:
        raise ConfigError("--gpu-hour-price goes with --dry-run")
    if log_json:
        raise ConfigError("--log-json does not go with --dry-run, which is no run: --json has all that it tells")
    if gpu_hour_price is not None and not 0 <= gpu_hour_price < float("inf"):
        raise ConfigError(f"--gpu-hour-price {gpu_hour_price} is not valid: allowed is 0 or more")


@dataclass(frozen=True, slots=True)
class EmbeddingCommand:
    """The words of a command that embeds; only its options for the table and the model are understood."""

    words: tuple[str, ...]

    def option(self, name: str) -> str | None:
        """What stands behind an option; None if it is not there."""
        return next((value for option, value in self.values() if option == name), None)

    def values(self) -> Iterator[tuple[str, str]]:
        """Each option with what stands behind it, which may be ""; a word that is no option's with ""."""
        for before, word, after in zip(("", *self.words), self.words, (*self.words[1:], ""), strict=False):
            option, equals, value = word.partition("=")
            if word.startswith("--"):
                behind = value if equals else "" if after.startswith("--") else after
                yield option.replace("_", "-"), behind
            elif not before.startswith("--") or "=" in before:
                yield "", word

    def database(self) -> Database:
        """Where it writes to.

        Raises:
            ConfigError: it does not say.
        """
        db, table = self.option("--db"), self.option("--table") or "laion"
        if not db:
            raise ConfigError(
                "no --db: name an embedding command after --, such as -- python jobs/embed_laion.py --input … --db …"
            )
        return Database(db, WriteConfig(db, table).table)


def require_one_kind(options: Any) -> None:
    """Refuse options of a search beside --sql, and its own options without it.

    Raises:
        ConfigError: naming the first.
    """
    kind, spared = (SearchOptions, ("version",)) if options.sql else (SqlOptions, ())
    for one in fields(kind):
        if one.name not in spared and getattr(options, one.name) != one.default:
            name = "words" if one.name == "words" else f"--{one.name.replace('_', '-')}"
            raise ConfigError(
                f"{name} does not go with --sql: say it in the statement" if options.sql else f"{name} goes with --sql"
            )
