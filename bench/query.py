"""Search: the text tower, a million vectors beside faiss, a filter, and a whole answer.

    python -m bench.query --json query.json

Needs faiss-cpu (the extra `bench`), 12 GB of memory, 8 GB of disk and 20 minutes of two quiet cores.
"""

import json
import os
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import faiss
import numpy as np
import tyro

from bench.hardware import hardware
from bench.searching import DEPTH, WANTED, Cost, Figure, enough, faiss_search, fill, ours, size, timed
from bench.vectors import WIDTH, Maker, make_table
from bench.words import answers, text_tower
from pipeline.database import Database
from pipeline.indexes.build import build
from pipeline.indexes.exact import Best, exact
from pipeline.indexes.kinds import choose
from pipeline.indexes.report import Indexed, Request
from pipeline.indexes.work import index
from pipeline.upkeep.compact import merge_fragments

FILTER = "itm_score >= 0.99"  # keeps 1%
T = TypeVar("T")
_LADDER = (4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Options:
    """What the benchmark takes."""

    rows: int = 1_000_000
    """Vectors."""
    queries: int = 300
    """Of each sort."""
    repeats: int = 3
    """Rounds of all queries; the median round and the least are reported."""
    cores: int = 2
    """Of the machine."""
    kinds: str = "auto"
    """Kinds of index to build, separated by commas, such as auto,ivf_sq."""
    hnsw: bool = True
    """Also build faiss's HNSW32, which takes longest."""
    model: bool = True
    """Also time the text tower and the demo's answers."""
    json: Path | None = None
    """Write all figures to a file."""


@dataclass(frozen=True)
class Queries:
    """Vectors that are looked for, and what exact search finds."""

    pictures: np.ndarray
    words: np.ndarray
    of_pictures: list[Best]
    of_words: list[Best]
    filtered: list[Best]

    @classmethod
    def draw(cls, database: Database, maker: Maker, count: int) -> "Queries":
        """Fresh ones, which no index was tuned on."""
        dataset, column = database.require(), "image_embedding"
        pictures, words, none = maker.pictures(count), maker.words(count).astype(np.float32), [None] * count
        found = [exact(dataset, column, some, none, DEPTH) for some in (pictures, words)]
        return cls(pictures, words, *found, exact(dataset, column, pictures, none, DEPTH, FILTER))


def lance_figures(database: Database, queries: Queries, options: Options, kind: str) -> Iterator[dict[str, Any]]:
    """Build as the job does, then ask as a person does, who has a process of their own."""
    choice = choose(kind, None, options.rows, WIDTH)
    cost = Cost.of(lambda: build(database, "image_embedding", choice))
    built = index(database, Request(optimize=True)).vectors[0]  # measures and tunes; there is nothing to fold
    yield cost.told(choice.line, built.bytes / 2**20)
    print("\n".join([f"tuned to {built.tuned}, by its own measuring:", *(f"  {m.line}" for m in built.measured)]))
    yield from alone(lance_asked, database, queries, options, built)


def lance_asked(database: Database, queries: Queries, options: Options, built: Indexed) -> list[dict[str, Any]]:
    """By pictures, by words, and behind a filter: as the build tuned it, and as faiss is asked: just enough."""
    found = []
    for what, vectors, truth, where in (
        ("pictures", queries.pictures, queries.of_pictures, ""),
        ("words", queries.words, queries.of_words, ""),
        ("pictures, filter keeps 1%", queries.pictures, queries.filtered, FILTER),
    ):
        found.append(told(timed(f"{built.kind}, {what}", ours(database, where), vectors, truth, options.repeats)))
        if built.tuned is not None:
            search, refine = partial(ours, database, where), built.tuned.refine
            ways = [(nprobes, refine) for nprobes in range(1, built.partitions + 1)]
            way = ways[bisect_left(ways[:-1], True, key=lambda one: enough(search(way=one), vectors, truth))]
            named = f"{built.kind}, {what}, nprobes {way[0]}, refine {way[1]}"
            found.append(told(timed(named, search(way=way), vectors, truth, options.repeats)))
    return found


def alone(work: Callable[..., T], *arguments: Any) -> T:
    """In a new process: after a build or a model in the same one, Lance takes a third longer for each search."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def faiss_figures(maker: Maker, queries: Queries, options: Options) -> Iterator[dict[str, Any]]:
    """Faiss's IVF-PQ as it is and refined by the whole vectors, and its HNSW, over the same vectors in memory."""
    vectors = np.concatenate([some.astype(np.float32) for some in maker.rows(options.rows)])
    flat = faiss.index_factory(WIDTH, "IVF1024,PQ64", faiss.METRIC_INNER_PRODUCT)
    yield fill(flat, vectors, options.cores).told("faiss IVF1024,PQ64", size(flat))
    for flat.nprobe in (10, 40):
        yield asked(f"faiss IVF1024,PQ64, nprobe {flat.nprobe}", flat, queries, options)
    refined = faiss.IndexRefineFlat(flat, faiss.swig_ptr(vectors))
    refined.k_factor = 20
    for flat.nprobe in _LADDER:
        if enough(faiss_search(refined), queries.pictures, queries.of_pictures):
            break
    way = f"faiss IVF1024,PQ64, nprobe {flat.nprobe}, refine {refined.k_factor:g}"
    yield asked(way, refined, queries, options)
    if options.hnsw:
        graph = faiss.index_factory(WIDTH, "HNSW32", faiss.METRIC_INNER_PRODUCT)
        yield fill(graph, vectors, options.cores).told("faiss HNSW32", size(graph))
        for graph.hnsw.efSearch in _LADDER:
            if enough(faiss_search(graph), queries.pictures, queries.of_pictures):
                break
        yield asked(f"faiss HNSW32, efSearch {graph.hnsw.efSearch}", graph, queries, options)


def asked(way: str, built: faiss.Index, queries: Queries, options: Options) -> dict[str, Any]:
    """Faiss asked by pictures, one at a time."""
    return told(timed(way, faiss_search(built), queries.pictures, queries.of_pictures, options.repeats))


def told(figure: Figure) -> dict[str, Any]:
    """A figure, printed and kept."""
    print(figure.line, flush=True)
    return asdict(figure)


def main(options: Options) -> None:
    """Measure all in turn, print and write the figures."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    machine = f"{hardware()}, faiss {faiss.__version__}"
    print(f"{machine}; load {os.getloadavg()[0]:.1f}", flush=True)
    found: dict[str, Any] = {"hardware": machine, "options": asdict(options), "wanted": WANTED, "figures": []}
    if options.model:
        found |= {"text": alone(text_tower, 7), "answers": alone(answers, 60)}
        print(f"text tower alone: {found['text']['ratio']} times as fast as the stock forward pass", flush=True)
        print(f"a whole answer of the demo: {found['answers']}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        maker, began = Maker(), time.perf_counter()
        database = make_table(Path(folder), maker, options.rows)
        merge_fragments(database)  # as jobs/compact.py does
        queries = Queries.draw(database, maker, options.queries)
        print(f"{options.rows:,} rows made and searched exactly in {time.perf_counter() - began:.0f} s", flush=True)
        figures = found["figures"]
        some = queries.pictures[:20], queries.of_pictures[:20]
        figures.append(told(timed("exact search, no index", ours(database, exact=True), *some, 1)))
        for kind in options.kinds.split(","):
            figures += lance_figures(database, queries, options, kind)
        figures += faiss_figures(maker, queries, options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, default=str))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
