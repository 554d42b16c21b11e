"""What to read, how to embed, where to write: frozen, validated once, recorded with the run."""

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Literal

from pipeline.errors import ConfigError

VECTORS = ("image", "text", "cross")
KEEP_TYPES = ("string", "int64", "float32", "float64", "bool")
TAG_COLUMNS = ("tags", "tag_probabilities")
MOST_TAGS = 50
MASK = "<mask>"
_AUTO_PICTURES = 256  # with --batch-size auto
_FEW = 3  # times as long do few rows wait for a commit
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_COMPANIONS = ("_rejects", "_shards", "_runs", "_takedowns", "_duplicates", "_ticks")


def _check(ok: object, option: str, value: object, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"{option} {value!r} is not valid: allowed is {allowed}")


@dataclass(frozen=True, slots=True)
class Keep:
    """A metadata column to bring along; `type` is one of KEEP_TYPES, None until told from the data."""

    name: str
    type: str | None = None
    asked: bool = True  # by this run; else the table has it, and a value that does not fit stays null

    @classmethod
    def parse(cls, text: str) -> "Keep":
        """From `name` or `name:type`."""
        name, _, kind = text.partition(":")
        _check(bool(_NAME.fullmatch(name)), "--keep", text, "a column name, or name:type")
        _check(kind in ("", *KEEP_TYPES), "--keep", text, f"a type of {', '.join(KEEP_TYPES)}")
        return cls(name, kind or None)


@dataclass(frozen=True, slots=True)
class ReadConfig:
    """What to read. `inputs` are files, folders, globs, brace ranges or fsspec URLs."""

    inputs: tuple[str, ...]
    image_key: str | None = None
    caption_keys: tuple[str, ...] = ()
    keep: tuple[Keep, ...] = ()
    max_pixels: int = 100_000_000
    slice_bytes: int = 512 * 2**20
    jpeg_draft: bool = False  # JPEGs decoded no larger than the model needs: vectors differ a little

    def __post_init__(self) -> None:
        _check(bool(self.inputs), "--input", self.inputs, "at least one file, folder, glob or URL")
        _check(self.max_pixels > 0, "--max-pixels", self.max_pixels, "a number above 0")
        _check(self.slice_bytes > 0, "slice_bytes", self.slice_bytes, "a number above 0")
        names = [k.name.lower() for k in self.keep]
        _check(len(names) == len(set(names)), "--keep", ",".join(names), "each column once")


@dataclass(frozen=True, slots=True)
class Tagging:
    """Words to store of each picture: the `count` likeliest for the `<mask>` of a prompt."""

    count: int
    prompt: str = f"a photo of a {MASK}"

    def __post_init__(self) -> None:
        _check(1 <= self.count <= MOST_TAGS, "--tags", self.count, f"1 to {MOST_TAGS}")
        _check(self.prompt.count(MASK) == 1, "--tag-prompt", self.prompt, f"a text with {MASK} in it, once")


@dataclass(frozen=True, slots=True)
class EmbedConfig:
    """How to embed. `batch_size` is images per model call; `actors` None means as many as fit."""

    batch_size: int | Literal["auto"] = 64
    device: str = "auto"
    dtype: str = "auto"
    num_gpus: float | None = None
    actors: int | None = None
    tags: Tagging | None = None  # None: no tags
    compile: str = "auto"  # torch.compile: on, off, or auto, which is on for GPUs alone

    def __post_init__(self) -> None:
        found = self.batch_size == "auto" or self.batch_size > 0
        _check(found, "--batch-size", self.batch_size, "a number above 0, or auto")
        _check(self.device in ("auto", "gpu", "cpu"), "--device", self.device, "auto, gpu or cpu")
        of_cpus = ("auto", "float32", "bfloat16")
        _check(self.dtype in (*of_cpus, "fp8"), "--dtype", self.dtype, "auto, float32, bfloat16 or fp8")
        _check(self.compile in ("auto", "on", "off"), "--compile", self.compile, "auto, on or off")
        fits = self.device != "cpu" or self.dtype in of_cpus
        _check(fits, "--dtype", self.dtype, "auto, float32 or bfloat16 with --device cpu")
        _check(
            self.num_gpus is None or 0 <= self.num_gpus <= 1,
            "--num-gpus",
            self.num_gpus,
            "a share of a GPU for each actor, from 0 to 1",
        )
        _check(self.actors is None or self.actors > 0, "--actors", self.actors, "a number above 0")

    @property
    def pictures(self) -> int:
        """Handed to the model at once, which may compute them in several calls."""
        return _AUTO_PICTURES if self.batch_size == "auto" else self.batch_size


@dataclass(frozen=True, slots=True)
class WriteConfig:
    """Where to write: the LanceDB database `db`, the table in it, and the dataset's name and root."""

    db: str
    table: str = "laion"
    dataset: str | None = None
    source_root: str | None = None
    vectors: tuple[str, ...] = VECTORS
    storage: str = "float16"
    commit_seconds: float = 10.0  # from one commit to the next, at least
    commit_rows: int = 10_000  # where fewer wait, three times as long
    fragment_rows: int = 10_000
    report: bool = False  # an HTML page beside the table, after the run

    def __post_init__(self) -> None:
        _check(bool(_NAME.fullmatch(self.table)), "--table", self.table, "a letter, then letters, digits and _")
        _check(
            not self.table.endswith(_COMPANIONS),
            "--table",
            self.table,
            f"a name that does not end in {', '.join(_COMPANIONS)}, which a table's companions have",
        )
        known = bool(self.vectors) and set(self.vectors) <= set(VECTORS)
        once = len(self.vectors) == len(set(self.vectors))
        _check(known and once, "--vectors", ",".join(self.vectors), f"some of {', '.join(VECTORS)}, each once")
        _check(self.storage in ("float16", "float32"), "--storage", self.storage, "float16 or float32")
        _check(self.commit_seconds >= 0, "commit_seconds", self.commit_seconds, "0 or more")
        _check(self.commit_rows > 0, "commit_rows", self.commit_rows, "a number above 0")
        _check(self.fragment_rows > 0, "fragment_rows", self.fragment_rows, "a number above 0")

    def commit_after(self, rows: float) -> float:
        """Seconds from one commit to the next where so many rows wait."""
        return self.commit_seconds * (1 if rows >= self.commit_rows else _FEW)

    @property
    def dataset_name(self) -> str:
        """The dataset's name in every row id; the table's name unless told otherwise."""
        return self.dataset or self.table


@dataclass(frozen=True, slots=True)
class FaultConfig:
    """What a run puts up with before it gives up, and what it tries again."""

    max_reject_rate: float = 0.1  # of the pairs, those not downloaded left out; looked at after 1,000 pairs
    allow_failed_shards: int = 0  # so many may fail and the run still counts as done
    retry_failed: bool = False  # read quarantined shards too
    prune: bool = False  # remove the rows of vanished shards
    stall_seconds: float = 900.0  # without any progress, until the run ends and names the stage

    def __post_init__(self) -> None:
        _check(0 <= self.max_reject_rate <= 1, "--max-reject-rate", self.max_reject_rate, "a share, from 0 to 1")
        _check(self.allow_failed_shards >= 0, "--allow-failed-shards", self.allow_failed_shards, "0 or more")
        _check(self.stall_seconds > 0, "--stall-seconds", self.stall_seconds, "a number above 0")


@dataclass(frozen=True, slots=True)
class Contract:
    """What makes two embeddings comparable. Stored in the table; another one is refused."""

    weights: str
    checkpoint: str
    revision: str
    preprocessing: str
    dimension: int


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One run, as recorded in `<table>_runs`."""

    read: ReadConfig
    write: WriteConfig
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    faults: FaultConfig = field(default_factory=FaultConfig)

    def __post_init__(self) -> None:
        taken = {k.name for k in self.read.keep if self.embed.tags and k.name.lower() in TAG_COLUMNS}
        _check(not taken, "--keep", ",".join(sorted(taken)), "any other column beside --tags, which fills these")

    def to_json(self) -> str:
        """The whole configuration as JSON text; it holds no credentials by construction."""
        return json.dumps(asdict(self), sort_keys=True)
