"""What happens in a run, as events, and who hears of them. No Ray here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from pipeline.watch.progress import Counts

READ, INFER, WRITE, COMMIT = "read", "infer", "write", "commit"  # stages, as a summary has them; and the commit


@dataclass(frozen=True, slots=True)
class Started:
    """A run began."""

    run: str
    dataset: str
    table: str


@dataclass(frozen=True, slots=True)
class Worked:
    """A stage has done a piece of its work."""

    stage: str
    seconds: float
    calls: tuple[int, ...] = ()  # pairs of each model call in it


@dataclass(frozen=True, slots=True)
class Retried:
    """A stage does something again."""

    stage: str
    reason: str  # a commit's: conflict, or error; a reader's or writer's: error; the model's: gpu_lost
    times: int = 1
    shard: str | None = None  # of readers and writers


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of something; what it counts is new in the table."""

    shard: str
    outcome: str  # as a SliceRecord's; and touched, elsewhere (another job was first), unfinished
    rows: int = 0
    rejects: Mapping[str, int] = field(default_factory=dict)  # by reason
    taken_down: int = 0
    seconds: float = 0.0  # that its reader and its writers took
    error: str | None = None

    @property
    def pairs(self) -> int:
        """Rows, rejects, and what was taken down."""
        return self.rows + sum(self.rejects.values()) + self.taken_down


class SliceSettled(Settled):
    """A slice was committed, or will not be by this run."""


class ShardSettled(Settled):
    """All slices that the run had of a shard are."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A version of the table holds what waited."""

    version: int
    seconds: float  # with its tries
    slices: int
    rows: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A run is over; `summary` as `--json` has it."""

    outcome: str
    summary: Mapping[str, Any]
    error: str | None = None


Event = Started | Worked | Retried | SliceSettled | ShardSettled | Committed | Counts | Ended


@runtime_checkable
class Listener(Protocol):
    """Who is told what happens."""

    def hear(self, event: Event) -> None:
        """Called by the driver, between two steps of its work: be quick."""
        ...
