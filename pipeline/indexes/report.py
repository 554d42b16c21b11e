"""What a build of indexes is asked for, and what it says of itself."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.errors import ConfigError
from pipeline.index import Tuned
from pipeline.indexes.kinds import KINDS
from pipeline.indexes.measure import Measured
from pipeline.indexes.scalars import Small
from pipeline.schema import EMBEDDING_COLUMNS
from pipeline.terminal import size


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Which indexes to build, checked.

    Attributes:
        columns: of vectors: image, text, cross.
        kind: of their index; auto chooses by the rows.
        partitions: of their index; by the rows unless given.
        optimize: fold new rows into the indexes that are there, instead of building them anew.
        scalars: also index id, shard, sha256, tags and the scores.
        fulltext: also index the captions' words.
        distributed: by Ray's workers; on a cluster, for a big table, unless told.
        min_recall: that each sort of query must reach.
        queries: to measure with, of each sort.
    """

    columns: tuple[str, ...] = ("image",)
    kind: str = "auto"
    partitions: int | None = None
    optimize: bool = False
    scalars: bool = True
    fulltext: bool = True
    distributed: bool | None = None
    min_recall: float = 0.95
    queries: int = 200

    def __post_init__(self) -> None:
        if not self.columns:
            raise ConfigError(f"--column names none: allowed is {', '.join(EMBEDDING_COLUMNS)}")
        for column in self.columns:
            if column not in EMBEDDING_COLUMNS:
                raise ConfigError(f"--column {column!r} is not valid: allowed is {', '.join(EMBEDDING_COLUMNS)}")
        if self.kind not in KINDS:
            raise ConfigError(f"--kind {self.kind!r} is not valid: allowed is {', '.join(KINDS)}")
        if self.partitions is not None and self.partitions < 1:
            raise ConfigError(f"--partitions {self.partitions} is not valid: allowed is a number from 1")
        if not 0 <= self.min_recall <= 1:
            raise ConfigError(f"--min-recall {self.min_recall} is not valid: allowed is 0 to 1")
        if self.queries < 1:
            raise ConfigError(f"--queries {self.queries} is not valid: allowed is a number from 1")
        if self.optimize and (self.kind != "auto" or self.partitions):
            raise ConfigError(
                "--optimize keeps the index that is there: leave --kind and --partitions out, or build anew without it"
            )


@dataclass(frozen=True, slots=True)
class Indexed:
    """The index on one column of vectors, measured; `exact` where there is none."""

    column: str
    kind: str
    partitions: int
    why: str
    seconds: float
    bytes: int
    tuned: Tuned | None
    measured: Sequence[Measured]
    enough: bool  # every sort of query finds as much as was wanted

    def lines(self, least: float) -> list[str]:
        """As a person reads it."""
        what = "exact search, no index" if self.tuned is None else f"{self.kind} with {self.partitions} partitions"
        lines = [f"{self.column}: {what}: {self.why}"]
        if self.tuned is not None:
            asked = f"nprobes {self.tuned.nprobes}, refine {self.tuned.refine}"
            lines.append(f"  built in {self.seconds:.1f} s, {size(self.bytes)}; searched with {asked}")
        lines += [f"  {one.line}" for one in self.measured]
        if not self.enough:
            lines.append(f"  too little is found: --min-recall is {least:g}; try another --kind, or more --partitions")
        return lines


@dataclass(frozen=True, slots=True)
class Report:
    """What was built, and what it is worth."""

    table: str
    rows: int
    least: float
    vectors: Sequence[Indexed]
    others: Sequence[Small] = field(default=())

    @property
    def enough(self) -> bool:
        """Whether every index finds as much as was wanted."""
        return all(one.enough for one in self.vectors)

    def lines(self) -> list[str]:
        """As a person reads it."""
        lines = [f"{self.table}: {self.rows:,} rows", *(line for one in self.vectors for line in one.lines(self.least))]
        return [*lines, *(one.line for one in self.others)]

    def to_json(self) -> dict[str, Any]:
        """For `--json` and the run record."""
        return {**asdict(self), "enough": self.enough}
