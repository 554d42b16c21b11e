"""A vector index built by Ray's workers: each takes in its share of the fragments, and the parts are made one."""

import heapq
from typing import Any

import lance
import ray
from ray.exceptions import RayError

from pipeline.cluster import cause, joined
from pipeline.database import Database, naming
from pipeline.indexes.build import again, commit, part
from pipeline.indexes.kinds import Choice
from pipeline.indexes.learnt import Learnt, learn


def build_on_ray(database: Database, column: str, choice: Choice) -> None:
    """Build an index on a column of vectors, in place of the one that is there.

    Raises:
        TableError: it cannot be read or written.
        ClusterError: Ray cannot be joined, or a worker failed.
    """
    database = database.absolute()
    learnt = learn(database.require(), column, choice)
    with joined() as has:
        workers, shared = max(1, int(sum(group.cpus for group in has.up))), ray.put(learnt)

        def once(dataset: lance.LanceDataset) -> None:
            parts = [
                _part.remote(database, dataset.version, column, shared, numbers)
                for numbers in _shares(dataset, workers)
            ]
            try:
                commit(dataset, column, ray.get(parts))
            except RayError as error:
                raise cause(error) from error

        again(database, once)


def _shares(dataset: lance.LanceDataset, workers: int) -> list[list[int]]:
    """The fragments' numbers, dealt out so that each worker has about as many rows."""
    shares: list[tuple[int, int, list[int]]] = [(0, i, []) for i in range(workers)]
    for rows, number in sorted(((f.count_rows(), f.fragment_id) for f in dataset.get_fragments()), reverse=True):
        held, i, numbers = heapq.heappop(shares)
        heapq.heappush(shares, (held + rows, i, [*numbers, number]))
    return [sorted(numbers) for _, _, numbers in sorted(shares) if numbers]


def _part_of(database: Database, version: int, column: str, learnt: Learnt, numbers: list[int]) -> Any:
    dataset = database.require(version)  # exactly this one
    mine = [fragment for fragment in dataset.get_fragments() if fragment.fragment_id in set(numbers)]
    with naming("index", database.path()):
        return part(dataset, column, learnt, mine)


_part = ray.remote(num_cpus=1, max_retries=3)(_part_of)
