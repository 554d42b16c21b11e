"""What a forecast tells: the numbers, as `--json` has them."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.embed import Footprint, Model
from pipeline.forecasts.network import Traffic
from pipeline.forecasts.totals import Totals

if TYPE_CHECKING:
    from pipeline.capacity import Capacity  # Ray, which the other jobs do without
    from pipeline.cluster import Placement


@dataclass(frozen=True, slots=True)
class Advice:
    """Something that would be slow or go wrong, and what to change."""

    what: str
    do: str


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the shards."""

    shards: int
    slices: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Done:
    """What the ledger has of the shards that are done."""

    part: Part
    pairs: int
    rejects: int


@dataclass(frozen=True, slots=True)
class Pace:
    """How quick a run will be; `source` tells from what, or why it is not known."""

    rate: float | None  # pairs a second
    seconds: float | None  # of the whole run
    commits: int | None
    source: str
    readers: int = 0
    read: float = 0.0  # pairs a second of all readers
    embed: float = 0.0  # of all actors
    estimated: bool = False  # and not measured


@dataclass(frozen=True, slots=True)
class Cluster:
    """What there is to compute with, and what an actor takes of it."""

    placement: "Placement"
    cpus: float
    gpus: float
    footprint: Footprint | None  # where an actor could be measured
    dtype: str
    weights_on_disk: int | None
    batch_size: int | Literal["auto"] = "auto"  # that was asked for

    @classmethod
    def of(cls, placement: "Placement", has: "Capacity", model: Model, batch_size: int | Literal["auto"]) -> "Cluster":
        """Before any of it was measured."""
        return cls(placement, has.cpus, has.gpus, None, placement.dtype, model.weights_on_disk(), batch_size)

    @property
    def actors_per_gpu(self) -> int:
        """0 where none is used."""
        return int(1 / self.placement.num_gpus + 1e-9) if self.placement.num_gpus else 0

    @property
    def gpus_used(self) -> int:
        """Whole ones."""
        per_gpu = self.actors_per_gpu
        return -(-self.placement.actors // per_gpu) if per_gpu else 0


@dataclass(frozen=True, slots=True)
class Forecast:
    """A run, before it is made."""

    table: str
    root: str
    found: Part
    done: Done
    todo: Part
    changed: int  # shards among those to do
    quarantined: int  # shards
    vanished: int  # shards
    totals: Totals
    table_bytes: float  # that are added
    fragments: int
    pace: Pace = Pace(0.0, 0.0, 0, "nothing is to be done")
    cluster: Cluster | None = None  # where there is something to do
    gpu_hour_price: float | None = None
    network: Traffic | None = None  # where a pace is known
    advice: tuple[Advice, ...] = ()
    took: float = 0.0

    @property
    def cost(self) -> float | None:
        """Of the GPUs for the whole run."""
        if self.gpu_hour_price is None or self.pace.seconds is None or self.cluster is None:
            return None
        return self.pace.seconds / 3600 * self.cluster.gpus_used * self.gpu_hour_price

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        told = {**asdict(self), "cost": self.cost}
        if self.cluster:
            told["cluster"] |= {"actors_per_gpu": self.cluster.actors_per_gpu, "gpus_used": self.cluster.gpus_used}
        return told
