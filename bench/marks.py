"""What is noted of each call of a model, and the steady state that these marks and the last output tell.

With the standard library and torch alone: a peer in an environment of its own leaves marks too.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch


@dataclass(frozen=True, slots=True)
class Mark:
    """One call, as the process saw it that made it."""

    at: float  # when it was over: seconds since 1970
    seconds: float  # that it took
    cpu: float  # that the process had computed by then, with all of its threads
    pairs: int
    threads: int  # that torch may use


class Steady(NamedTuple):
    """A run without its start: from the end of its first call to its last output."""

    pairs: int  # that call's left out
    rate: float  # pairs a second
    cpu_rate: float  # pairs a CPU-second of the processes that embed, up to their last calls
    busy: float  # share of the time that these were in a call, added up over them
    threads: int


def leave(folder: Path, seconds: float, pairs: int) -> None:
    """Note a call that is just over."""
    mark = Mark(time.time(), seconds, time.process_time(), pairs, torch.get_num_threads())
    with (folder / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(asdict(mark)) + "\n")


def left_in(folder: Path) -> list[list[Mark]]:
    """All marks, by process."""
    return [[Mark(**json.loads(line)) for line in path.read_text().splitlines()] for path in folder.iterdir()]


def steady(processes: Sequence[Sequence[Mark]], written: float) -> Steady:
    """What the marks tell.

    Args:
        processes: the marks of each process that embeds, in order.
        written: when the last output was, for a table the commit: seconds since 1970.

    Raises:
        ValueError: there were not two calls, or nothing was written after the first.
    """
    marks = [mark for one in processes for mark in one]
    first = min(marks, key=lambda mark: mark.at, default=None)
    if first is None or len(marks) < 2 or written <= first.at:
        raise ValueError(f"no steady state in {len(marks)} calls")
    pairs = sum(mark.pairs for mark in marks) - first.pairs
    seconds = written - first.at
    after = sum(mark.pairs for one in processes for mark in one[1:])
    cpu = sum(one[-1].cpu - one[0].cpu for one in processes)
    busy = sum(mark.seconds for mark in marks) - first.seconds
    return Steady(pairs, pairs / seconds, after / cpu if cpu else 0.0, busy / seconds, first.threads)
