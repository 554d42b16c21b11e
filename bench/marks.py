"""What an embedder notes of each of its calls, and the steady state that these marks and the table's versions tell."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from pipeline.embed import Embedder, Embeddings, Footprint, Inputs, MakeEmbedder, Model, Pixels


@dataclass(frozen=True, slots=True)
class Mark:
    """One call, as the process saw it that made it."""

    at: float  # when it was over: seconds since 1970
    seconds: float  # that it took
    cpu: float  # that the process had computed by then, with all of its threads
    pairs: int
    threads: int  # that torch may use


class Steady(NamedTuple):
    """A run without its start: from the end of its first call to the last committed row."""

    pairs: int  # that call's left out
    rate: float  # pairs a second
    cpu_rate: float  # pairs a CPU-second of the processes that embed, up to their last calls
    busy: float  # share of the time that these were in a call, added up over them
    threads: int


class Marked:
    """An embedder that leaves a mark of each call, but for those in which an actor tries it out."""

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self._embedder, self._folder = embedder, folder

    @property
    def dtype(self) -> str:
        """As `pipeline.embed.Embedder`, like the others."""
        return self._embedder.dtype

    def footprint(self) -> Footprint:
        """As the embedder's."""
        return self._embedder.footprint()

    def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> Embeddings:
        """As the embedder's."""
        return self._embedder.embed(pixels, token_ids, image_of)

    def embed_each(self, calls: Iterable[Inputs]) -> Iterator[tuple[Embeddings, float]]:
        """As the embedder's, with a mark of each."""
        for found, seconds in self._embedder.embed_each(calls):
            leave(self._folder, seconds, len(found.itc_score))
            yield found, seconds

    def embed_exactly(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> Embeddings:
        """As the embedder's."""
        return self._embedder.embed_exactly(pixels, token_ids, image_of)


def marked(model: Model, folder: Path) -> Model:
    """The same model, whose embedders leave marks in a folder."""
    folder.mkdir(parents=True)
    return replace(model, make_embedder=partial(_marking, model.make_embedder, folder))


def _marking(
    make: MakeEmbedder, folder: Path, device: str, dtype: str, batch_size: int, gpu_share: float = 1.0
) -> Marked:
    return Marked(make(device, dtype, batch_size, gpu_share), folder)


def leave(folder: Path, seconds: float, pairs: int) -> None:
    """Note a call that is just over."""
    mark = Mark(time.time(), seconds, time.process_time(), pairs, torch.get_num_threads())
    with (folder / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(asdict(mark)) + "\n")


def left_in(folder: Path) -> list[list[Mark]]:
    """All marks, by process."""
    return [[Mark(**json.loads(line)) for line in path.read_text().splitlines()] for path in folder.iterdir()]


def steady(processes: Sequence[Sequence[Mark]], committed: float) -> Steady:
    """What the marks tell.

    Args:
        processes: the marks of each process that embeds, in order.
        committed: when the last row was: seconds since 1970.

    Raises:
        ValueError: there were not two calls, or nothing was committed after the first.
    """
    marks = [mark for one in processes for mark in one]
    first = min(marks, key=lambda mark: mark.at, default=None)
    if first is None or len(marks) < 2 or committed <= first.at:
        raise ValueError(f"no steady state in {len(marks)} calls")
    pairs = sum(mark.pairs for mark in marks) - first.pairs
    seconds = committed - first.at
    after = sum(mark.pairs for one in processes for mark in one[1:])
    cpu = sum(one[-1].cpu - one[0].cpu for one in processes)
    busy = sum(mark.seconds for mark in marks) - first.seconds
    return Steady(pairs, pairs / seconds, after / cpu if cpu else 0.0, busy / seconds, first.threads)
