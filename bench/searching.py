"""One way to search the vectors, timed and compared with exact search: ours over a table, and faiss over memory."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

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
    load: float  # of the machine, in the minute before

    @property
    def line(self) -> str:
        """As a person reads it."""
        times = f"p50 {self.p50_ms:6.1f} ms (least {self.least_ms:5.1f}), p95 {self.p95_ms:6.1f}"
        return f"{self.way:44} recall@{DEPTH} {self.recall:.3f}  {times}  load {self.load:.1f}"


def timed(way: str, search: Search, queries: np.ndarray, truth: Sequence[Best], repeats: int) -> Figure:
    """Each query by itself, one after the other, all of them so many times after one round that is not counted."""
    found = [search(vector) for vector in queries]
    recall = sum(len({*names} & best.keys()) for names, best in zip(found, truth, strict=True)) / sum(map(len, truth))
    rounds = []
    for _ in range(repeats):
        took = []
        for vector in queries:
            began = time.perf_counter()
            search(vector)
            took.append((time.perf_counter() - began) * 1e3)
        rounds.append(np.percentile(took, [50, 95]))
    middle = [float(one[0]) for one in rounds]
    return Figure(
        way,
        round(recall, 4),
        round(median(middle), 2),
        round(min(middle), 2),
        round(median(float(one[1]) for one in rounds), 2),
        round(os.getloadavg()[0], 1),
    )


def ours(database: Database, where: str = "", exact: bool = False) -> Search:
    """As a person's search, with what the build found best: the nearest distinct pictures."""
    dataset, query = database.open(), Query("-", where=where, exact=exact)

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
class Built:
    """An index of faiss, and what it cost."""

    index: faiss.Index
    seconds: float
    megabytes: float


def build_faiss(factory: str, vectors: np.ndarray, threads: int) -> Built:
    """Train and fill an index of vectors of unit length, by inner product."""
    faiss.omp_set_num_threads(threads)
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    began = time.perf_counter()
    index.train(vectors)
    index.add(vectors)
    seconds = time.perf_counter() - began
    faiss.omp_set_num_threads(1)
    return Built(index, round(seconds, 1), round(faiss.serialize_index(index).nbytes / 2**20, 1))


def enough(search: Search, queries: np.ndarray, truth: Sequence[Best]) -> bool:
    """Whether a way finds as much as is wanted."""
    found = (len({*search(vector)} & best.keys()) for vector, best in zip(queries, truth, strict=True))
    return sum(found) >= WANTED * sum(map(len, truth))
