"""The pulse of a run: what its workers are at, and on which nodes. Workers tell it and never wait for it.

One small Ray actor, which lives as long as the run; the driver's `watchdog` asks it.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import ray
from ray.core.generated.common_pb2 import NodeDeathInfo
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

READING, EMBEDDING = "reading", "embedding"  # the stages that tell
_UNASKED = (NodeDeathInfo.UNEXPECTED_TERMINATION, NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)
_REMEMBERED = 10_000  # pieces of work; those tried again come soon after
_SECONDS_TO_TELL = 10.0  # a worker that is about to end
_SECONDS_TO_CONNECT = 5.0


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker is at: a piece of work, which has the same name when it is tried again, and how far it is."""

    stage: str
    work: str
    done: int
    slice: str
    node: str


@dataclass(frozen=True, slots=True)
class Last:
    """The last that was heard from a stage."""

    slice: str
    node: str
    seconds: float  # ago


@dataclass(frozen=True, slots=True)
class Look:
    """How a run stands."""

    idle: float  # seconds since any work went further than ever before
    actors: int  # that have loaded their model so far
    last: dict[str, Last]  # by stage
    lost: dict[str, list[str]]  # node -> errors with which its GPU was lost
    homes: frozenset[str] = frozenset()  # ids of the nodes on which actors have loaded theirs
    compiled: dict[str, float] = field(default_factory=dict)  # node -> seconds; 0 where it cannot be done


@dataclass(slots=True)
class Pulse:
    """The actor. Work that was begun again counts as going forward only from where it was before."""

    _moved: float = field(default_factory=time.monotonic)
    _furthest: dict[str, int] = field(default_factory=dict)
    _last: dict[str, tuple[Beat, float]] = field(default_factory=dict)
    _lost: dict[str, list[str]] = field(default_factory=dict)
    _actors: int = 0
    _homes: set[str] = field(default_factory=set)
    _compiled: dict[str, float] = field(default_factory=dict)

    def beat(self, beat: Beat) -> None:
        """Hear what a worker is at."""
        now, work = time.monotonic(), f"{beat.stage} {beat.work}"
        self._last[beat.stage] = (beat, now)
        if beat.done > self._furthest.get(work, -1):
            self._moved = now
            self._furthest[work] = beat.done
            if len(self._furthest) > _REMEMBERED:
                del self._furthest[next(iter(self._furthest))]

    def started(self, home: str, node: str, compiled: float | None) -> None:
        """Hear that an actor has loaded its model, and compiled it in so many seconds; `home` is its node's id."""
        self._homes.add(home)
        if compiled is not None:
            self._compiled.setdefault(node, compiled)
        if self._actors == 0:  # later ones may be the same again, after a crash
            self._moved = time.monotonic()
        self._actors += 1

    def lost(self, home: str, node: str, error: str) -> None:
        """Hear that a node lost its GPU: until an actor has started there again, it needs the CPUs for that."""
        self._homes.discard(home)
        self._lost.setdefault(node, []).append(error)

    def lost_nodes(self) -> dict[str, str]:
        """The nodes that Ray has lost, and why; not those that were taken down in order."""
        return {
            f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})": node["DeathReasonMessage"]
            for node in ray.nodes()
            if not node["Alive"] and node["DeathReason"] in _UNASKED
        }

    def look(self) -> Look:
        """How the run stands."""
        now = time.monotonic()
        last = {stage: Last(beat.slice, beat.node, now - at) for stage, (beat, at) in self._last.items()}
        homes = frozenset(self._homes)
        return Look(now - self._moved, self._actors, last, self._lost, homes, self._compiled)


@dataclass(frozen=True, slots=True)
class Line:
    """A worker's, or the driver's, line to the pulse; `every` so many seconds a worker tells what it is at."""

    actor: Any
    every: float
    head: str = ""  # host:port of the cluster's, where it is known
    raylet: str = ""  # the socket of Ray's own process on this node

    def started(self, compiled: float | None = None) -> None:
        """Tell that an actor has loaded its model, and the seconds that it took to compile it, if it did."""
        home = ray.get_runtime_context().get_node_id()
        self.actor.started.options(num_returns=0).remote(home, here(), compiled)

    def gone(self, error: BaseException) -> NoReturn:
        """Tell that this process' GPU is lost, and end the process: Ray starts another and redoes its work."""
        with suppress(RayError):
            home = ray.get_runtime_context().get_node_id()
            ray.get(self.actor.lost.remote(home, here(), str(error)), timeout=_SECONDS_TO_TELL)
        os._exit(1)

    def look(self, patience: float) -> Look | None:
        """Ask how the run stands; None if there is no answer in time."""
        try:
            look: Look = ray.get(self.actor.look.remote(), timeout=patience)
        except RayError:  # a GetTimeoutError too
            return None
        return look

    def lost_nodes(self, patience: float) -> dict[str, str] | None:
        """The nodes that Ray has lost, and why; None if there is no answer in time."""
        try:
            nodes: dict[str, str] = ray.get(self.actor.lost_nodes.remote(), timeout=patience)
        except RayError:
            return None
        return nodes

    def has_head(self) -> bool:
        """Whether the cluster's head takes a connection."""
        host, _, port = self.head.rpartition(":")
        if not host:
            return True
        try:
            with socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_CONNECT):
                return True
        except OSError:
            return False

    def outlives_raylet(self, over: threading.Event) -> bool:
        """Wait until Ray's own process on this node has ended, or all is over; whether it has."""
        try:
            with socket.socket(socket.AF_UNIX) as raylet:
                raylet.settimeout(self.every)
                raylet.connect(self.raylet)
                while not over.is_set():
                    with suppress(TimeoutError):
                        return not raylet.recv(1)  # it says nothing to a stranger: this is the end
        except OSError:
            pass  # no such socket: nothing can be told
        return False


@contextmanager
def taken(every: float) -> Iterator[Line]:
    """A run's pulse, while the run lasts."""
    context = ray.get_runtime_context()
    node = context.get_node_id()
    raylet = next(one["RayletSocketName"] for one in ray.nodes() if one["NodeID"] == node)
    here = NodeAffinitySchedulingStrategy(node, soft=True)  # dies with the driver
    actor = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(Pulse).remote()
    try:
        yield Line(actor, every, context.gcs_address, raylet)
    finally:
        ray.kill(actor)


class Teller:
    """Tells the pulse from a thread of its own what the worker is at, also while that hangs in a call."""

    def __init__(self, line: Line, stage: str) -> None:
        self._line = line
        self._stage = stage
        self._node = here()
        self._at: Beat | None = None
        self._over = threading.Event()
        threading.Thread(target=self._tell, daemon=True).start()

    @contextmanager
    def at(self, work: str, slice: str) -> Iterator[None]:
        """While the block runs, this is what the worker is at."""
        self._at = Beat(self._stage, work, 0, slice, self._node)
        try:
            yield
        finally:
            self._at = None

    def further(self, done: int) -> None:
        """The work in hand is so far now."""
        if self._at is not None:
            self._at = Beat(self._stage, self._at.work, done, self._at.slice, self._node)

    def close(self) -> None:
        """Tell nothing any more."""
        self._over.set()

    def _tell(self) -> None:
        while not self._over.wait(self._line.every):
            if (beat := self._at) is not None:
                self._line.actor.beat.options(num_returns=0).remote(beat)


def here() -> str:
    """This node, as a person finds it: its address, and the start of its id, which no other has."""
    return f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"
