"""Whether two actors on one GPU are faster than one: the same batches in one process, and in two that share the device.

Each of two keeps within half of the GPU's memory, as an actor with `--num-gpus 0.5` does. A part of `bench.gpu`.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import repeat
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, NamedTuple

import torch

from bench.gpu_actor import Actor
from bench.gpu_feed import Timing, stretch
from model.hardware import cap_memory

_END = 0.0


class Work(NamedTuple):
    """What every process does."""

    size: str
    device: str
    pictures: int  # in a call
    compiled: bool


def embed(orders: Connection, work: Work, share: float) -> None:
    """In a process of its own, with this share of the GPU: embed one batch over and over, as often as it is told to.

    Told a number of seconds, it answers with batches a second and the pictures that it then computes in one call.
    """
    if work.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        cap_memory(share, total, torch.cuda.set_per_process_memory_fraction)
    actor = Actor(work.size, work.device, work.pictures, work.compiled)
    list(actor.embed([actor.noise]))
    orders.send(None)
    for seconds in iter(orders.recv, _END):
        list(actor.embed([actor.noise]))
        done = stretch(repeat(actor.noise), actor.embed, seconds)
        orders.send((done.calls / done.seconds, actor.encoder.micro_batch))
        if work.device == "cuda":
            torch.cuda.empty_cache()  # what it does not hold, the others may


@contextmanager
def ready(work: Work) -> Iterator[list[Connection]]:
    """Lines to a process with all of the GPU and to two with half of it each, when all have computed once."""
    context, lines, begun = get_context("spawn"), list[Connection](), list[Any]()  # not forked: CUDA runs here
    try:
        for share in (1.0, 0.5, 0.5):
            line, there = context.Pipe()
            begun.append(context.Process(target=embed, args=(there, work, share)))
            begun[-1].start()
            there.close()  # so that a process that ends is noticed
            lines.append(line)
        for line in lines:
            line.recv()
        yield lines
    finally:
        for line in lines:
            with suppress(OSError):
                line.send(_END)
        for process in begun:
            process.join()


def _together(lines: list[Connection], seconds: float) -> tuple[float, int]:
    """Batches a second of some processes at the same time, and pictures in a call."""
    for line in lines:
        line.send(seconds)
    rates, pictures = zip(*(line.recv() for line in lines), strict=True)
    return sum(rates), min(pictures)


def measure(work: Work, timing: Timing) -> dict[str, Any]:
    """One process and two in turn: medians, in pairs a second, as one caption a picture; or why it was not measured."""
    rounds = list[tuple[float, float, float]]()
    try:
        with ready(work) as (whole, *halves):
            for _ in range(timing.repeats):
                (one, most), (two, each) = _together([whole], timing.seconds), _together(halves, timing.seconds)
                rounds.append((one * work.pictures, two * work.pictures, two / one))
    except EOFError:
        return {"not_measured": "one of the processes ended before its time, by the error above"}
    one, two, ratio = map(median, zip(*rounds, strict=True))
    calls = {"calls_of": most, "calls_of_each": each}
    return {"device": work.device, "one": one, "two": two, "ratio": ratio, **calls}


def line(found: dict[str, Any]) -> str:
    """As a person reads it."""
    if reason := found.get("not_measured"):
        return f"two processes on one device: not measured: {reason}"
    better = f": --num-gpus {0.5 if found['ratio'] > 1 else 1} is the faster" if found["device"] == "cuda" else ""
    return (
        f"two processes on one device: {found['two']:,.1f} pairs/s in calls of {found['calls_of_each']}, "
        f"one alone {found['one']:,.1f} in calls of {found['calls_of']}: x {found['ratio']:.2f}{better}"
    )
