"""Progress that a person likes: a live display on a terminal, a plain line every 10 s elsewhere."""

import sys
import time
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Counts:
    """Where a run stands."""

    shards: int  # committed or failed, all slices of them
    of_shards: int
    pairs: int  # embedded or rejected so far, committed or not
    rejects: int
    failed: int
    seconds: float

    @property
    def rate(self) -> float:
        """Pairs a second since the start of embedding."""
        return self.pairs / self.seconds if self.seconds > 0 else 0.0

    @property
    def left(self) -> str:
        """Time left, guessed from the shards done so far."""
        if not self.shards or self.shards >= self.of_shards:
            return "-"
        return duration(self.seconds / self.shards * (self.of_shards - self.shards))


class Observer(Protocol):
    """Who is told how a run goes."""

    def say(self, line: str) -> None:
        """One line of text, now."""
        ...

    def update(self, counts: Counts) -> None:
        """Called a few times a second."""
        ...

    def close(self) -> None:
        """The run is over."""
        ...


def duration(seconds: float) -> str:
    """As a person says it: 42s, 3m05s, 2h10m."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def observer(stream: TextIO | None = None) -> Observer:
    """A live display if `stream` (standard error) is a terminal, else plain lines."""
    stream = stream or sys.stderr
    return LiveDisplay(stream) if stream.isatty() else Lines(stream)


class Lines:
    """A plain line every `every` seconds."""

    def __init__(self, stream: TextIO, every: float = 10.0) -> None:
        self._stream = stream
        self._every = every
        self._next = 0.0

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, file=self._stream, flush=True)

    def update(self, counts: Counts) -> None:
        """Print the counts, if the last time is long enough ago."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            self.say(
                f"shards {counts.shards}/{counts.of_shards}  pairs {counts.pairs}  {counts.rate:.1f} pairs/s  "
                f"rejects {counts.rejects}  failed {counts.failed}  left {counts.left}"
            )

    def close(self) -> None:
        """Nothing to tidy."""


class LiveDisplay:
    """A table that is drawn over itself."""

    def __init__(self, stream: TextIO) -> None:
        self._live = Live(console=Console(file=stream), refresh_per_second=4, transient=True)

    def say(self, line: str) -> None:
        """Print a line above the table."""
        self._live.console.print(line, markup=False, highlight=False)

    def update(self, counts: Counts) -> None:
        """Redraw."""
        self._live.start()  # here and not before: what is refused at the start must not leave the cursor hidden
        table = Table.grid(padding=(0, 3))
        table.add_row("shards", "pairs", "pairs/s", "rejects", "failed", "time", "left", style="dim")
        table.add_row(
            f"{counts.shards}/{counts.of_shards}",
            str(counts.pairs),
            f"{counts.rate:.1f}",
            str(counts.rejects),
            str(counts.failed),
            duration(counts.seconds),
            counts.left,
            style="bold",
        )
        self._live.update(table)

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()
