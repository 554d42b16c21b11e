"""The run's own stages for some seconds, on the cluster as it is up now; what they make is counted and dropped."""

import json
import time
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ExecutionResources
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.barred import Barred
from pipeline.cluster import Placement, cause
from pipeline.config import EmbedConfig, ReadConfig
from pipeline.embed import Footprint, Model
from pipeline.forecasts.network import Node, bits_of
from pipeline.forecasts.regions import region_here
from pipeline.pump import Pump
from pipeline.schema import Kind, prepared_schema
from pipeline.shards import Slice
from pipeline.stages import Crew, EmbedActor, embedded, prepared, read_stage
from pipeline.stored import Stored
from pipeline.watch.pulse import taken

_MOST_SLICES = 1000
_MOST_NODES = 32  # that are asked where they are
_LONGEST = 4.0  # seconds that an actor takes for what it is given; the rest of it is dropped
_ANSWER = 10.0  # seconds for the nodes
Rows = Sequence[dict[str, Any]]
_SEEN = ["kind", "pairs", "seconds", "detail"]


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds until the first block is embedded, and seconds of work after it."""

    start: float = 60.0
    work: float = 10.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What readers and actors did beside each other."""

    actors: int  # of those that would run
    read: float  # pairs a second of one reader
    embed: float  # pairs a second of one actor
    calls: int
    pairs: int  # that were embedded for this
    reading_after: float  # seconds until the first reader was at work
    embedding_after: float  # seconds until the first actor was
    footprint: Footprint
    dtype: str


@dataclass(frozen=True, slots=True)
class Stage:
    """What readers and actors of a run are made of."""

    read: ReadConfig
    embed: EmbedConfig
    model: Model
    placement: Placement
    stored: Stored
    barred: Barred


class Gauge(EmbedActor):
    """The embedding actor as a run has it. Tells its own seconds, and what the model takes; drops what is too much."""

    _a_picture = 0.0  # seconds

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The records of model calls, and what the readers told."""
        samples = batch.filter(pc.equal(batch["kind"], Kind.SAMPLE))
        made, at = [batch.filter(pc.equal(batch["kind"], Kind.END)).select(_SEEN)], 0
        began = time.perf_counter()
        while at < len(samples) and (not at or time.perf_counter() - began < _LONGEST):
            size = max(1, int(_LONGEST / self._a_picture)) if self._a_picture else 1
            made.append(self._timed(samples.slice(at, size)))
            at += size
        return pa.concat_tables(made)

    def _timed(self, samples: pa.Table) -> pa.Table:
        at, began = time.time(), time.perf_counter()
        calls = super().__call__(samples)
        seconds = time.perf_counter() - began
        self._a_picture = seconds / len(samples)
        calls = calls.filter(pc.equal(calls["kind"], Kind.CALL)).select(_SEEN)
        shares = pc.multiply(calls["seconds"], seconds / pc.sum(calls["seconds"]).as_py())
        told = {"began": at, "dtype": self._embedder.dtype, "footprint": asdict(self._embedder.footprint())}
        calls = calls.set_column(2, "seconds", shares)
        return calls.set_column(3, "detail", pa.array([json.dumps(told)] * len(calls)))


def read_briefly(block: pa.Table, seconds: float, **how: Any) -> Iterator[pa.Table]:
    """The reading stage, ended after some seconds; its last row tells the pairs, the seconds and when it began."""
    began, stream = time.time(), read_stage(block, **how)
    pairs, busy = 0, 0.0
    while busy < seconds:
        clock = time.perf_counter()
        table = next(stream, None)
        busy += time.perf_counter() - clock
        if table is None:
            break
        table = table.filter(pc.not_equal(table["kind"], Kind.END))
        rejects = pc.sum(pc.equal(table["kind"], Kind.REJECT)).as_py() or 0
        pairs += rejects + (pc.sum(pc.list_value_length(table["captions"])).as_py() or 0)
        yield table
    stream.close()  # type: ignore[attr-defined]  # a generator
    told = {"kind": Kind.END, "pairs": pairs, "seconds": busy, "detail": json.dumps({"began": began})}
    yield pa.Table.from_pylist([told], schema=prepared_schema(how["config"].keep))


def seen(block: pa.Table) -> list[dict[str, Any]]:
    """What a block tells; small enough to be sent to the driver."""
    told: list[dict[str, Any]] = block.to_pylist()
    return [row | {"detail": json.loads(row["detail"])} for row in told]


_seen = ray.remote(num_cpus=0, max_retries=1)(seen)


def readers_of(placement: Placement, cpus: float) -> int:
    """How many readers fit beside the actors."""
    return max(1, int((cpus - placement.actors * placement.num_cpus) / placement.reader_cpus + 1e-9))


def node_here(address: str, gpus: float) -> Node:
    """What this node tells of itself."""
    return Node(region_here(), bits_of(address), gpus)


def nodes_up() -> list[Node]:
    """The nodes, of those that tell."""
    ask, tasks = ray.remote(num_cpus=0, max_retries=1)(node_here), []
    for node in [node for node in ray.nodes() if node["Alive"]][:_MOST_NODES]:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        about = node["NodeManagerAddress"], node["Resources"].get("GPU", 0.0)
        tasks.append(ask.options(scheduling_strategy=there).remote(*about))
    done, late = ray.wait(tasks, num_returns=len(tasks), timeout=_ANSWER)
    for task in late:
        ray.cancel(task, force=True)
    return list(ray.get(done))


def measure(stage: Stage, slices: Sequence[Slice], patience: Patience) -> Measured | str:
    """Start the run's stages on the first slices, and let them work for a while.

    Returns:
        Why nothing was measured, where the cluster has no room now, or nothing is there to embed.

    Raises:
        ClusterError: the model cannot be used there.
    """
    up, on = ray.cluster_resources(), stage.placement
    gpus, cpus = up.get("GPU", 0.0), up.get("CPU", 0.0)
    fitting = int(gpus) * int(1 / on.num_gpus + 1e-9) if on.num_gpus else int(cpus / on.num_cpus)
    if not fitting or cpus < on.num_cpus + on.reader_cpus:
        return "no node is up that an actor fits on, and a forecast starts none"
    actors = min(on.actors, fitting)
    on = replace(on, actors=actors, most_actors=actors)
    with taken(every=patience.start) as line:
        crew = Crew(on, line, partial(read_briefly, seconds=patience.work), Gauge)
        began = time.time()
        some = {str(number): slice_ for number, slice_ in enumerate(slices[:_MOST_SLICES])}
        samples = prepared(some, stage.read, stage.model, crew, stage.barred)
        stream = embedded(samples, stage.embed, stage.model, crew, stage.stored)
        options = copy(stream.context.execution_options)
        options.resource_limits = ExecutionResources.for_limits(cpu=cpus, gpu=gpus)  # else Ray would start nodes
        stream.context.execution_options = options
        told = list(_told(Pump(stream), patience))
    calls = [row for row in told if row["kind"] == Kind.CALL]
    reads = [row for row in told if row["kind"] == Kind.END]
    if not calls:
        return f"nothing was embedded in {patience.start:g} s: nodes may be starting, or others be at work"
    return _measured(calls, reads, on.actors, began)


def _told(pump: Pump, patience: Patience) -> Iterator[dict[str, Any]]:
    """What the blocks tell, until the time is over."""
    until, first, tasks = time.monotonic() + patience.start, True, []
    try:
        while pump.running and time.monotonic() < until:
            if (block := pump.take(wait=0.2)) is not None:
                tasks.append(_seen.remote(block))
                until = time.monotonic() + patience.work if first else until
                first = False
        for rows in ray.get(tasks):
            yield from rows
    except RayError as error:
        raise cause(error) from error
    finally:
        pump.close()


def _measured(calls: Rows, reads: Rows, actors: int, began: float) -> Measured:
    """From what was told; where no reader came to its end, the actors were the slower half."""
    pairs, seconds = sum(row["pairs"] for row in calls), sum(row["seconds"] for row in calls)
    embed = pairs / seconds
    read = sum(row["seconds"] for row in reads)
    footprints = [Footprint(**row["detail"]["footprint"]) for row in calls]
    return Measured(
        actors=actors,
        read=sum(row["pairs"] for row in reads) / read if read else embed * actors,
        embed=embed,
        calls=len(calls),
        pairs=pairs,
        reading_after=min((row["detail"]["began"] for row in reads), default=began) - began,
        embedding_after=min(row["detail"]["began"] for row in calls) - began,
        footprint=max(footprints, key=lambda f: f.memory),
        dtype=" and ".join(sorted({row["detail"]["dtype"] for row in calls})),
    )
