"""What the nodes would send each other and read from the store, a second, beside what their network cards take."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from pipeline.capacity import Capacity
    from pipeline.forecasts.outlook import Cluster, Pace

_ASSUMED = 10e9  # bit/s of a card that does not tell


@dataclass(frozen=True, slots=True)
class Node:
    """One that is up: where it is, what its card takes (bit/s, 0 where it does not tell), and its GPUs."""

    region: str | None
    bits: float
    gpus: float


@dataclass(frozen=True, slots=True)
class Load:
    """Of each of some nodes, in bytes a second: shards that it reads, and prepared pictures that it gets or sends."""

    nodes: int = 0
    shards: float = 0.0
    squares: float = 0.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """At the told pace; `told` is whether a node told what its card takes, else that is assumed."""

    embedding: Load  # nodes whose GPUs are used, which get pictures; none where torch computes on CPUs
    reading: Load  # all others, which send them
    card: float  # bytes a second
    told: bool
    cpus: int  # that each GPU node needed to prepare all of its pictures itself


def bits_of(address: str) -> float:
    """Of this machine's network card with an address: bit/s, 0 where it is down or does not tell."""
    known = psutil.net_if_stats()
    for name, addresses in psutil.net_if_addrs().items():
        if name in known and known[name].isup and address in {one.address for one in addresses}:
            return known[name].speed * 1e6
    return 0.0


def traffic(
    on: "Cluster", has: "Capacity", pace: "Pace", a_pair: tuple[float, float], nodes: Iterable[Node]
) -> Traffic | None:
    """What goes over the network; None where no pace is known. Reading is spread over all CPUs, as Ray does it.

    Args:
        on: how the run is laid out.
        has: the cluster, with what its autoscaler may bring.
        pace: that was told.
        a_pair: bytes of its shard that are read from a store, and of its prepared picture.
        nodes: that are up.
    """
    if not pace.rate or not pace.readers:
        return None
    used, others, share = _split(on, has)
    shards, squares = pace.rate * a_pair[0], pace.rate * a_pair[1]
    at, readers = on.placement, pace.rate / pace.read * pace.readers
    known = [node.bits for node in nodes if node.bits and (node.gpus or not used)]
    return Traffic(
        embedding=_load(used, shards * (1 - share), squares * share),
        reading=_load(others, shards * share, squares * share if used else 0.0),
        card=min(known, default=_ASSUMED) / 8,
        told=bool(known),
        cpus=math.ceil((readers * at.reader_cpus + at.actors * at.num_cpus) / used - 1e-9) if used else 0,
    )


def _split(on: "Cluster", has: "Capacity") -> tuple[int, int, float]:
    """How many GPU nodes are used, how many others read, and the share of the pairs that the others prepare."""
    all_, with_gpu = sum(group.nodes for group in has.most if group.cpus), [g for g in has.most if g.gpus]
    if not on.gpus_used:
        return 0, all_, 1.0
    count = sum(group.nodes for group in with_gpu)
    used = min(count, math.ceil(on.gpus_used * count / has.gpus))
    theirs = used / count * sum(group.nodes * group.cpus for group in with_gpu)
    here = max(0.0, theirs - on.placement.actors * on.placement.num_cpus)
    away = max(0.0, has.cpus - theirs)
    return used, all_ - used, away / (away + here) if away else 0.0


def _load(nodes: int, shards: float, squares: float) -> Load:
    return Load(nodes, shards / nodes, squares / nodes) if nodes > 0 else Load()
