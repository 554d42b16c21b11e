"""A forecast as a person reads it."""

from collections.abc import Iterator
from typing import TextIO

from rich import box
from rich.table import Table

from pipeline.forecasts.outlook import Cluster, Forecast
from pipeline.plain import plain
from pipeline.terminal import console, size
from pipeline.watch.progress import duration

_UNKNOWN = "not known"


def show(told: Forecast, stream: TextIO | None = None) -> None:
    """Print it on standard output, or `stream`."""
    here = console(stream)
    here.print(f"{plain(told.root)} -> {plain(told.table)}")
    here.print(_counts(told))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, value in lines(told):
        grid.add_row(name, plain(value))
    here.print(grid)
    for one in told.advice:
        here.print(f"! {plain(one.what)}\n  -> {plain(one.do)}")
    here.print(f"nothing was written; this took {told.took:.0f} s")


def _counts(told: Forecast) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in ("shards", "slices", "size", "samples", "pairs", "rejects"):
        table.add_column(name, justify="right")
    found, done, todo, all_ = told.found, told.done, told.todo, told.totals
    table.add_row("found", f"{found.shards:,}", f"{found.slices:,}", size(found.bytes))
    of = done.part
    both = f"{done.pairs + done.rejects:,}", f"{done.rejects:,}"
    table.add_row("done", f"{of.shards:,}", f"{of.slices:,}", size(of.bytes), "", *both)
    estimated = str(all_.samples), str(all_.pairs), str(all_.rejects)
    table.add_row("to do", f"{todo.shards:,}", f"{todo.slices:,}", size(todo.bytes), *estimated)
    return table


def lines(told: Forecast) -> Iterator[tuple[str, str]]:
    """What is told below the counts, by name."""
    counts, pace, on = told.totals, told.pace, told.cluster
    if told.todo.slices:
        yield "counted", f"from {counts.read:,} samples of {counts.slices} slices; ± holds 19 times of 20"
    if counts.reasons:
        yield "rejects", ", ".join(f"{reason} {count:,}" for reason, count in counts.reasons.items())
    other = {"changed": told.changed, "quarantined": told.quarantined, "vanished": told.vanished}
    if any(other.values()):
        yield "shards", ", ".join(f"{name} {count:,}" for name, count in other.items() if count)
    if on:
        yield "compute", on.placement.describe()
        yield "actor", _actor(on)
    about = "about " if pace.estimated else ""
    rate = f"{about}{pace.rate:,.1f} pairs/s" if pace.rate is not None else _UNKNOWN
    halves = f"; readers {pace.read:,.0f}, actors {pace.embed:,.0f}" if pace.readers else ""
    yield "speed", f"{rate} ({pace.source}{halves})"
    yield "time", f"{about}{duration(pace.seconds)}" if pace.seconds is not None else _UNKNOWN
    yield "commits", f"{about}{pace.commits:,}" if pace.commits is not None else _UNKNOWN
    yield "table", f"{size(told.table_bytes)} more, in {told.fragments:,} fragments"
    if told.gpu_hour_price is not None and on:
        gpus = f"{on.gpus_used} GPUs at {told.gpu_hour_price:g} an hour"
        yield "cost", f"{about}{told.cost:,.2f} ({gpus})" if told.cost is not None else f"{_UNKNOWN} ({gpus})"


def _actor(on: Cluster) -> str:
    taken = on.footprint
    if taken is None:
        weights = (
            f"weights of {size(on.weights_on_disk)} on disk, about as much in memory"
            if on.weights_on_disk
            else ("memory not known: the weights are not fetched yet")
        )
        batch = "is found when it starts" if on.batch_size == "auto" else f"{on.batch_size} at most"
        return f"{weights}; what a call takes beside them was not measured; micro-batch {batch}{_per_gpu(on)}"
    compiled = f", compiled in {taken.compiled:.0f} s" if taken.compiled else ""
    where = "of the GPU" if on.placement.device == "cuda" else "of memory"
    return (
        f"{size(taken.memory)} {where} at most, weights {size(taken.weights)} in {on.dtype}{compiled}, "
        f"micro-batch {taken.micro_batch}{_per_gpu(on)}"
    )


def _per_gpu(on: Cluster) -> str:
    return f", {on.actors_per_gpu} to a GPU" if on.actors_per_gpu else ""
