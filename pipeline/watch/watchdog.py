"""The watchdog: names the stage that makes no progress, the node that is lost or loses its GPU, and ends the run."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import ClusterError, StalledError
from pipeline.watch import pulse
from pipeline.watch.interrupts import leave
from pipeline.watch.pulse import EMBEDDING, READING, Line, Look

Say = Callable[[str], None]
WRITING, COMMITTING = "writing", "committing"
_LOST_GPUS = 3  # on one node
_GRACE = 60.0  # seconds for the driver to see that it is over; a commit in hand has longer
_FRESH = 4  # beats; a worker that has told nothing for longer is idle, or gone
_ON = "what was whole is committed, and the same command goes on from there"


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Watchdog:
    """Watches one run from a thread of its own, so that it can end also a driver that hangs."""

    def __init__(self, line: Line, stall_seconds: float, compute: str, say: Say = _on_stderr) -> None:
        """`compute`: how the actors are laid out, for those who wait for them in vain; `say`: as `watching`."""
        self.line = line
        self.doing = ""  # what the driver waits for besides the stream of blocks: a stage, and more
        self.homes: frozenset[str] = frozenset()  # ids of the nodes with actors
        self._stall = stall_seconds
        self._compute = compute
        self._say = say
        self._moved = time.monotonic()
        self._committing = False
        self._verdict: ClusterError | None = None
        self._news: list[str] = []
        self._heard: dict[str, int] = {}  # lost GPUs, by node
        self._compiled: set[str] = set()  # nodes of which it was told
        self._headless = False
        self._gone: dict[str, str] | None = None  # nodes that Ray has lost, and why; those from before the run too
        self._missing: list[str] = []  # those of the run
        self._over = threading.Event()

    def moved(self) -> None:
        """Something went forward."""
        self._moved = time.monotonic()

    @contextmanager
    def committing(self) -> Iterator[None]:
        """While the block runs, the driver is busy with a commit."""
        self.moved()
        self._committing = True
        try:
            yield
        finally:
            self._committing = False
            self.moved()

    def check(self) -> None:
        """Raise what the watchdog found.

        Raises:
            StalledError: no progress for too long.
            ClusterError: a node has lost its GPU too often.
        """
        if self._verdict is not None:
            raise self._verdict

    def news(self) -> list[str]:
        """What a person should be told, once."""
        told, self._news = self._news, []
        return told

    def watch(self) -> None:
        """Until the run is over."""
        while not self._over.wait(self.line.every):
            look = self.line.look(self.line.every)
            self._hear(look)
            self.tell_compiled(look)
            self.look_for_head()
            self.look_for_nodes()
            idle = time.monotonic() - self._moved
            if self._verdict is None:
                self._verdict = self.judge(idle, look)
                if self._verdict is not None and not self._committing:
                    self.moved()  # the driver's grace begins
            elif idle > (self._stall if self._committing else _GRACE):
                self._say(f"error: {self._verdict}")
                leave(1)

    def watch_node(self) -> None:
        """Say that Ray has ended on the driver's own node: it then ends the driver too, without a word."""
        if self.line.outlives_raylet(self._over) and not self._over.is_set():
            self._say(
                "error: Ray's own process on this node (raylet) has ended: was it killed, or memory short? Ray ends "
                f"this job in less than a minute; {_ON}"
            )

    def close(self) -> None:
        """The run is over."""
        self._over.set()

    def _hear(self, look: Look | None) -> None:
        self.homes = look.homes if look else self.homes
        for node, errors in look.lost.items() if look else ():
            for error in errors[self._heard.get(node, 0) :]:
                self._news.append(f"node {node} lost its GPU by {error!r}; what it was at is done again")
            self._heard[node] = len(errors)

    def tell_compiled(self, look: Look | None) -> None:
        """Say once of each node how long an actor there took to compile the model."""
        for node, seconds in look.compiled.items() if look else ():
            if node not in self._compiled:
                self._compiled.add(node)
                fails = f"torch.compile does not work on node {node}, so computing without; its actor's log says why"
                works = f"compiled the model in {seconds:.0f} s on node {node}, which keeps it for the next start"
                self._say(works if seconds else fails)

    def look_for_head(self) -> None:
        """Say once that the head is away, and that it is back: Ray itself ends a job without a word."""
        away, was = not self.line.has_head(), self._headless
        self._headless = away
        if away and not was:
            self._say(
                f"Ray's head at {self.line.head} does not answer; if it stays away, Ray ends this job, as a rule after "
                f"a minute; {_ON}"
            )
        elif was and not away:
            self._say(f"Ray's head at {self.line.head} answers again")

    def look_for_nodes(self) -> None:
        """Say once of each node that is lost meanwhile that it is, and why: Ray does so in its logs alone."""
        gone = self.line.lost_nodes(self.line.every)
        if gone is None:
            return
        known, self._gone = gone if self._gone is None else self._gone, gone
        for node in gone.keys() - known.keys():
            self._missing.append(node)
            self._say(f"node {node} is lost ({gone[node]}); what it was at is done again on others")

    def judge(self, idle: float, look: Look | None) -> ClusterError | None:
        """What is wrong, if anything is.

        Args:
            idle: seconds since the driver saw something go forward.
            look: of the pulse; None if it did not answer.
        """
        for node, errors in look.lost.items() if look else ():
            if len(errors) >= _LOST_GPUS:
                return ClusterError(
                    f"node {node} lost its GPU {len(errors)} times, the last time by {errors[-1]!r}: look at that GPU "
                    f"(nvidia-smi, dmesg) or take the node out of the cluster; {_ON}"
                )
        if look and not self._committing:
            idle = min(idle, look.idle)
        if idle < self._stall:
            return None
        lost = f"; lost meanwhile: node {', node '.join(self._missing)}" if self._missing else ""
        return StalledError(f"no progress for {idle:.0f} s in {self._stage(look)}{lost}; {_ON}")

    def _stage(self, look: Look | None) -> str:
        """Which stage holds the run up, and all that is known of it."""
        if self._committing:
            return f"{COMMITTING}: the store does not answer"
        if self.doing:
            return self.doing
        if look is None:
            return "the cluster: the run's own actor there does not answer"
        if not look.actors:
            return f"{EMBEDDING}: no actor has started: {self._compute}; see `ray status` for what they wait for"
        fresh = [s for s in (EMBEDDING, READING) if s in look.last and look.last[s].seconds < _FRESH * self.line.every]
        stages = fresh or sorted(look.last, key=lambda stage: look.last[stage].seconds)
        if not stages:
            return f"{READING}: no reader has told anything; see `ray status` for what they wait for"
        last = look.last[stages[0]]
        return f"{stages[0]}: last on node {last.node}, slice {last.slice}, heard of {last.seconds:.0f} s ago"


@contextmanager
def watching(stall_seconds: float, compute: str, say: Say = _on_stderr) -> Iterator[Watchdog]:
    """Watch a run on Ray: its pulse, and the driver's own progress.

    Args:
        stall_seconds: without any progress, until the run is ended.
        compute: how the actors are laid out.
        say: gets what a person should know at once, from this thread: the driver itself may hang.
    """
    with pulse.taken(every=min(5.0, stall_seconds / 4)) as line:
        dog = Watchdog(line, stall_seconds, compute, say)
        for watch in (dog.watch, dog.watch_node):
            threading.Thread(target=watch, daemon=True).start()
        try:
            yield dog
            dog.close()
            dog.tell_compiled(line.look(line.every))  # of a run that was shorter than the time between two looks
        finally:
            dog.close()
