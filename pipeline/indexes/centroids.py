"""k-means: the centres of an index's partitions, and of what it shortens vectors with.

Lance's own goes 50 rounds over 256 vectors a centre, on float16 without the processor's help: for a million vectors
that takes longer than all the rest of a build. A sixth of the sample, a fifth of the rounds and BLAS find centres that
serve a search as well (bench/README.md).
"""

import lance
import numpy as np
import pyarrow as pa

from pipeline.embed import Vectors

ROUNDS = 10
_AT_ONCE = 16_384  # vectors compared with all centres at a time
_READ = 20_000  # rows taken at a time


def vectors_of(column: pa.ChunkedArray | pa.Array) -> Vectors:
    """A column of vectors as one array (rows, dimension) of unit length; null ones left out."""
    parts = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    width = column.type.list_size
    arrays = [part.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for part in parts]
    found = np.concatenate(arrays).astype(np.float32) if arrays else np.empty((0, width), np.float32)
    length = np.linalg.norm(found, axis=1, keepdims=True).astype(np.float32)
    unit: Vectors = found / np.maximum(length, np.finfo(np.float32).tiny)
    return unit


def sample(dataset: lance.LanceDataset, column: str, count: int, rng: np.random.Generator) -> Vectors:
    """The vectors of some rows, chosen at random."""
    rows = dataset.count_rows()
    chosen = np.sort(rng.choice(rows, min(rows, count), replace=False))
    parts = [
        vectors_of(dataset.take(chosen[start : start + _READ].tolist(), columns=[column])[column])
        for start in range(0, len(chosen), _READ)
    ]
    return np.concatenate(parts)


def kmeans(vectors: Vectors, count: int, rng: np.random.Generator) -> Vectors:
    """`count` centres of the vectors by squared distance, or as many as there are vectors.

    A centre that loses all its vectors starts anew at one of them.
    """
    count = min(count, len(vectors))
    centres = vectors[rng.choice(len(vectors), count, replace=False)].copy()
    for _ in range(ROUNDS):
        sums, held = np.zeros_like(centres), np.zeros(count, np.int64)
        for start in range(0, len(vectors), _AT_ONCE):
            some = vectors[start : start + _AT_ONCE]
            mine = nearest_centre(some, centres)
            order = np.argsort(mine, kind="stable")
            first = np.flatnonzero(np.diff(mine[order], prepend=-1))
            sums[mine[order][first]] += np.add.reduceat(some[order], first, axis=0)
            held += np.bincount(mine, minlength=count)
        empty = held == 0
        centres = sums / np.maximum(held, 1).astype(np.float32)[:, None]
        centres[empty] = vectors[rng.choice(len(vectors), int(empty.sum()), replace=False)]
    return centres


def nearest_centre(vectors: Vectors, centres: Vectors) -> np.ndarray:
    """Which centre each vector is nearest to."""
    half = np.einsum("ij,ij->i", centres, centres) / 2
    found: np.ndarray = np.argmax(vectors @ centres.T - half, axis=1)
    return found
