"""One way to search the vectors, timed and compared with exact search: ours over a table, and faiss over memory."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import faiss
import numpy as np

from bench.vectors import name
from pipeline.database import Database
from pipeline.indexes.exact import Best
from pipeline.retrieval.nearest import nearest
from pipeline.retrieval.question import Query

DEPTH = 10
WANTED = 0.95  # recall
Search = Callable[[np.ndarray], list[str]]  # a vector -> the names of the nearest pictures


@dataclass(frozen=True)
class Figure:
    """What one way of searching is worth."""

    way: str
    recall: float
    p50_ms: float  # median over the repeats
    least_ms: float  # the least p50 of a repeat: what a quiet machine gives
    p95_ms: float
    cpu_ms: float  # median CPU time of a query: what others do on the machine is not in it
    load: float  # of the machine, in the minute before

    @property
    def line(self) -> str:
        """As a person reads it."""
        times = (
            f"p50 {self.p50_ms:6.1f} ms (least {self.least_ms:5.1f}), p95 {self.p95_ms:6.1f}, CPU {self.cpu_ms:5.1f}"
        )
        return f"{self.way:58} recall@{DEPTH} {self.recall:.3f}  {times}  load {self.load:.1f}"


def timed(way: str, search: Search, queries: np.ndarray, truth: Sequence[Best], repeats: int) -> Figure:
    """Each query by itself, one after the other, all of them so many times after one round that is not counted."""
    found = [search(vector) for vector in queries]
    recall = sum(len({*names} & best.keys()) for names, best in zip(found, truth, strict=True)) / sum(map(len, truth))
    rounds, computed = [], []
    for _ in range(repeats):
        took = []
        for vector in queries:
            began, cpu = time.perf_counter(), time.process_time()
            search(vector)
            took.append((time.perf_counter() - began) * 1e3)
            computed.append((time.process_time() - cpu) * 1e3)
        rounds.append(np.percentile(took, [50, 95]))
    middle = [float(one[0]) for one in rounds]
    return Figure(
        way,
        round(recall, 4),
        round(median(middle), 2),
        round(min(middle), 2),
        round(median(float(one[1]) for one in rounds), 2),
        round(median(computed), 2),
        round(os.getloadavg()[0], 1),
    )


def ours(database: Database, where: str = "", exact: bool = False, way: tuple[int, int] | None = None) -> Search:
    """As a person's search: the nearest distinct pictures, asked as the build found best, or another `way`."""
    nprobes, refine = way or (None, None)
    dataset, query = database.open(), Query("-", where=where, exact=exact, nprobes=nprobes, refine=refine)

    def search(vector: np.ndarray) -> list[str]:
        names: list[str] = nearest(dataset, vector, query, DEPTH)["sha256"].to_pylist()
        return names

    return search


def faiss_search(index: faiss.Index) -> Search:
    """One query at a time, as ours."""

    def search(vector: np.ndarray) -> list[str]:
        _, found = index.search(vector[None], DEPTH)
        return [name(int(number)) for number in found[0]]

    return search


@dataclass(frozen=True)
class Cost:
    """What building an index took; its size is told by who built it."""

    seconds: float
    cpu_seconds: float
    load: float

    @classmethod
    def of(cls, build: Callable[[], object]) -> "Cost":
        """Of one build."""
        began, cpu = time.perf_counter(), time.process_time()
        build()
        took = time.perf_counter() - began, time.process_time() - cpu
        return cls(round(took[0], 1), round(took[1], 1), round(os.getloadavg()[0], 1))

    def told(self, what: str, megabytes: float) -> dict[str, Any]:
        """Printed, and for the file."""
        times = f"{self.seconds:.1f} s ({self.cpu_seconds:.1f} s of CPU, load {self.load})"
        print(f"{what}: built in {times}, {megabytes:.0f} MB", flush=True)
        return {"built": what, "megabytes": round(megabytes, 1), **asdict(self)}


def fill(index: faiss.Index, vectors: np.ndarray, threads: int) -> Cost:
    """Train and fill an index of faiss with vectors of unit length; then it searches with one thread."""
    faiss.omp_set_num_threads(threads)

    def build() -> None:
        index.train(vectors)
        index.add(vectors)

    cost = Cost.of(build)
    faiss.omp_set_num_threads(1)
    return cost


def size(index: faiss.Index) -> float:
    """Megabytes of an index of faiss."""
    return float(faiss.serialize_index(index).nbytes / 2**20)


def enough(search: Search, queries: np.ndarray, truth: Sequence[Best]) -> bool:
    """Whether a way finds as much as is wanted."""
    found = (len({*search(vector)} & best.keys()) for vector, best in zip(queries, truth, strict=True))
    return sum(found) >= WANTED * sum(map(len, truth))
