"""A run told before it is made: what there is to do, how quickly, how large, at what cost. Nothing is written.

list and plan, as a run does -> sample slices -> readers and actors side by side for seconds -> arithmetic
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from PIL import Image

from pipeline import cluster
from pipeline.barred import Barred
from pipeline.config import RunConfig
from pipeline.database import Database
from pipeline.datasets import Found, find_dataset
from pipeline.embed import Model
from pipeline.forecasts.advice import advise
from pipeline.forecasts.choice import bytes_of, choose
from pipeline.forecasts.estimate import estimate, tokens_of
from pipeline.forecasts.history import latest_on
from pipeline.forecasts.layout import weigh
from pipeline.forecasts.measure import Measured, Patience, Stage, measure, nodes_up, readers_of
from pipeline.forecasts.network import traffic
from pipeline.forecasts.outlook import Cluster, Done, Forecast, Pace, Part
from pipeline.forecasts.regions import elsewhere
from pipeline.forecasts.sampling import Budget, Look, Sampled, sample
from pipeline.forecasts.schedule import Speed, commits, finishes
from pipeline.forecasts.totals import totals
from pipeline.plan import Plan, shards_of
from pipeline.shards import Slice
from pipeline.stages import pictures_at_once
from pipeline.stores.storage import redact
from pipeline.takedowns import read_takedowns


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a forecast reads, and how long it measures."""

    budget: Budget = field(default_factory=Budget)
    patience: Patience = field(default_factory=Patience)


def forecast(
    config: RunConfig, model: Model, gpu_hour_price: float | None = None, limits: Limits | None = None
) -> Forecast:
    """Tell what a run of this configuration would do now.

    Args:
        config: of the run.
        model: of the run.
        gpu_hour_price: of one GPU, in any currency.
        limits: of the forecast itself.

    Raises:
        InputError, ContractError, ConfigError: as the run would.
        ClusterError: the cluster lacks what was asked for, or the model cannot be used there.
    """
    began, limits = time.monotonic(), limits or Limits()
    found = find_dataset(config, model.contract)
    plan = found.plan(config)
    listed = time.monotonic() - began
    barred = Barred(config.write.dataset_name, read_takedowns(found.database))
    read = replace(config.read, keep=found.stored.keep)
    slices = [*plan.pending, *plan.changed]
    preparer = model.make_preparer()
    square = preparer.picture(Image.new("RGB", (64, 64))).nbytes  # bytes of a prepared picture
    sampled = sample(choose(slices, limits.budget.slices), read, preparer, barred, limits.budget)
    pairs = pairs_of(slices, sampled.looks)
    told = replace(_counted(config, found, plan, sampled, pairs), gpu_hour_price=gpu_hour_price)
    where: dict[str, str] = {}
    if slices:
        before = time.monotonic()
        with cluster.joined() as capacity:
            on = cluster.lay_out(config.embed, capacity, len(slices))
            here = nodes_up()
            around = listed + time.monotonic() - before  # as long as a run needs to come so far
            stage = Stage(read, config.embed, model, on, found.stored, barred)
            measured = measure(stage, slices, limits.patience)
            leaving = time.monotonic()
        around += time.monotonic() - leaving
        regions = {node.region for node in here if node.region}
        where = elsewhere([found.database.uri, *(s.shard.uri for s in slices[:1])], regions)
        room = Cluster.of(on, capacity, model, config.embed.batch_size)
        told = replace(told, cluster=room)
        if isinstance(measured, Measured):
            told = _paced(told, config, pairs, measured, around, square)
        else:
            tokens, readers = tokens_of(sampled.rows), readers_of(on, capacity.cpus)
            guess = estimate(model, on, capacity, readers, told.totals, tokens)
            told = replace(told, pace=_guessed(told, config, pairs, measured, guess))
        sizes = _sizes_of_a_pair(told, slices[0], square)
        told = replace(told, network=traffic(room, capacity, told.pace, sizes, here))
    return replace(told, advice=advise(told, config, slices, where), took=round(time.monotonic() - began, 1))


def _counted(config: RunConfig, found: Found, plan: Plan, sampled: Sampled, pairs: Sequence[float]) -> Forecast:
    """All that needs no cluster."""
    of_all, slices = totals(sampled.looks), [*plan.pending, *plan.changed]
    weight = weigh(sampled.rows, found.stored, found.layout, config.write.dataset_name)
    fragments = sum(math.ceil(count / config.write.fragment_rows) for count in pairs)
    records = found.ledger.current()
    known = [records[s.name] for s in plan.skipped]
    done = Done(_part(plan.skipped), sum(r.embedded for r in known), sum(r.rejected for r in known))
    return Forecast(
        table=found.database.shown,
        root=redact(found.listing.root),
        found=_part([*plan.skipped, *slices, *plan.quarantined]),
        done=done,
        todo=_part(slices),
        changed=len(shards_of(plan.changed)),
        quarantined=len(shards_of(plan.quarantined)),
        vanished=len(plan.vanished),
        totals=of_all,
        table_bytes=weight.of(max(0.0, of_all.pairs.value - of_all.rejects.value), fragments),
        fragments=fragments,
    )


def _part(slices: Iterable[Slice]) -> Part:
    slices = list(slices)
    shards = {s.shard.path: max(0, s.shard.size) for s in slices}
    return Part(len(shards), len(slices), sum(shards.values()))


def pairs_of(slices: Sequence[Slice], looks: Iterable[Look]) -> list[float]:
    """Of each slice about so many pairs, by what was seen of its stratum; none of those that cannot be read."""
    known: dict[str, float] = {}
    for look in looks:
        chosen = look.stratum.chosen
        mine = look.pairs.sum() / look.share if look.share else 0.0
        for slice_ in look.stratum.slices if not look.error else ():
            known[slice_.name] = mine * (bytes_of(slice_) / bytes_of(chosen) if bytes_of(chosen) else 1.0)
    return [known.get(slice_.name, 0.0) for slice_ in slices]


def _paced(
    told: Forecast, config: RunConfig, pairs: Sequence[float], measured: Measured, around: float, square: int
) -> Forecast:
    """The same with time and commits; `around` goes before and after the work."""
    assert told.cluster is not None  # noqa: S101  # something is to be done
    on = replace(told.cluster, footprint=measured.footprint, dtype=measured.dtype)
    readers = readers_of(on.placement, on.cpus)
    after = measured.reading_after, measured.embedding_after
    block = pictures_at_once(config.embed, square) * told.totals.pairs.value / max(1.0, told.totals.samples.value)
    actors = on.placement.actors
    speed = Speed(readers, measured.read, measured.embed * actors, *after, actors, block)
    source = (
        f"measured: {measured.actors} of {on.placement.actors} actors embedded {measured.pairs:,} pairs in "
        f"{measured.calls:,} calls"
    )
    return replace(told, cluster=on, pace=_pace(told, config, pairs, speed, source, around))


def _pace(
    told: Forecast, config: RunConfig, pairs: Sequence[float], speed: Speed, source: str, around: float = 0.0
) -> Pace:
    done, counts = finishes(pairs, speed), told.totals
    kept = 1 - counts.rejects.value / max(1.0, counts.pairs.value)
    rows = [count * kept for count in pairs]
    seconds, made = around + max(done, default=0.0), commits(zip(done, rows, strict=True), config.write.commit_after)
    return Pace(speed.rate, seconds, made, source, speed.readers, speed.readers * speed.read, speed.embed)


def _guessed(
    told: Forecast, config: RunConfig, pairs: Sequence[float], why: str, guess: tuple[Speed, str] | str
) -> Pace:
    """Time and commits where nothing was measured: by an earlier run, else by what is published of the nodes."""
    assert told.cluster is not None  # noqa: S101  # something is to be done
    on = told.cluster.placement
    earlier = latest_on(Database(config.write.db, config.write.table), on.device)
    if earlier is not None:
        rate = earlier.rate * on.actors
        seconds, write = told.totals.pairs.value / rate, config.write
        every = max(write.commit_seconds, min(write.commit_after(0), write.commit_rows / rate))
        source = f"estimated from run {earlier.run_id}, by the number of actors; not measured: {why}"
        made = min(told.todo.slices, 1 + round(seconds / every) if every else told.todo.slices)
        return Pace(rate, seconds, made, source, estimated=True)
    if isinstance(guess, str):
        return Pace(None, None, None, f"not measured: {why}; nor estimated: {guess}")
    speed, source = guess
    return replace(_pace(told, config, pairs, speed, f"estimated: {source}; not measured: {why}"), estimated=True)


def _sizes_of_a_pair(told: Forecast, first: Slice, square: int) -> tuple[float, float]:
    """Bytes of its shard that come from a store, and of its prepared picture, which is one for all its captions."""
    pairs = told.totals.pairs.value or 1.0
    stored = "://" in first.shard.uri and not first.shard.uri.startswith("file://")
    return told.todo.bytes / pairs if stored else 0.0, square * told.totals.samples.value / pairs
