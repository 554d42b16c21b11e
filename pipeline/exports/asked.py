"""What to export and where to, checked; and what was written."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.errors import ConfigError
from pipeline.exports.flat import Writer, write_csv, write_json_lines, write_parquet
from pipeline.sql.limits import Limits
from pipeline.stores.storage import redact

FLAT: Mapping[str, Writer] = {"parquet": write_parquet, "csv": write_csv, "jsonl": write_json_lines}
FORMATS = (*FLAT, "webdataset", "clip-retrieval")
SQL_SECONDS = 3600.0  # an export writes while its query runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What to export, and where to, checked.

    Attributes:
        output: a file (parquet, csv, jsonl) or a folder (webdataset, clip-retrieval): a path or any fsspec URL.
        format: one of FORMATS; told by the output's suffix unless given.
        where: an SQL condition that rows must meet.
        sql: or a query. A file gets what it gives; for a folder it gives the `id` of each row, whatever the order.
        limits: of the query's time and memory; an hour and 1 GiB.
        version: of the table: a number or a tag; the latest unless given.
        select: the columns of a file; all but the vectors unless given.
        vectors: whether the vectors go into a file too.
        shard_size: samples in a shard (10,000 unless given), or rows in a part of clip-retrieval's layout (1,000,000).
        shard_bytes: bytes in a shard of a WebDataset at most.
    """

    output: str
    format: str = ""
    where: str = ""
    sql: str = ""
    limits: Limits = field(default_factory=lambda: Limits(SQL_SECONDS))
    version: int | str | None = None
    select: tuple[str, ...] = ()
    vectors: bool = False
    shard_size: int | None = None
    shard_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in FORMATS:
            raise ConfigError(
                f"--format {self.format!r} for --output {redact(self.output)} is not valid: allowed is "
                f"{', '.join(FORMATS)}, or a file name that ends in {', '.join(f'.{name}' for name in FLAT)}"
            )
        if self.kind not in FLAT and (self.select or self.vectors):
            raise ConfigError(f"--select and --vectors choose the columns of a file: not with --format {self.kind}")
        if self.sql and (self.where.strip() or self.select or self.vectors):
            raise ConfigError("--where, --select and --vectors do not go with --sql: say it in the query")
        if self.kind in FLAT and self.shard_size is not None:
            raise ConfigError(f"--shard-size is of the formats that write a folder: not with --format {self.kind}")
        if self.kind != "webdataset" and self.shard_bytes is not None:
            raise ConfigError(f"--shard-bytes is of --format webdataset, not {self.kind}")
        for name in ("shard_size", "shard_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value} is not valid: allowed is a number above 0")

    @property
    def kind(self) -> str:
        """The format, told by the output's suffix if it was not given."""
        ending = self.output.rpartition(".")[2].lower()
        return self.format or {"ndjson": "jsonl"}.get(ending, ending)


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    output: str
    format: str
    table: str
    version: int
    where: str
    sql: str
    contract: Mapping[str, Any]  # of the vectors: which model
    rows: int
    pictures: int | None = None  # of a WebDataset
    shards: int | None = None
    missing: int = 0  # pictures that could not be fetched
    first_missing: str = ""
    notes: tuple[str, ...] = ()  # on the query

    def to_dict(self) -> dict[str, Any]:
        """For `--json`, and the record beside the files."""
        return asdict(self)

    def lines(self) -> list[str]:
        """As a person reads it."""
        pictures = "" if self.pictures is None else f"{self.pictures:,} pictures in {self.shards:,} shards, "
        lines = [f"{self.output}: {pictures}{self.rows:,} rows of {self.table} at version {self.version}"]
        lines += [f"note: {note}" for note in self.notes]
        if self.missing:
            lines.append(
                f"{self.missing:,} pictures could not be fetched, and are listed in _missing.jsonl; the first: "
                f"{self.first_missing}"
            )
        return lines
