"""The best pictures for many vectors at once, by comparing every row: what an index is measured against."""

from collections.abc import Sequence

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.embed import Vectors
from pipeline.indexes.centroids import vectors_of

_BATCH = 8192  # rows

Best = dict[str, float]  # sha256 -> cosine distance, the nearest first


def exact(
    dataset: lance.LanceDataset,
    column: str,
    vectors: Vectors,
    without: Sequence[str | None],
    depth: int,
    condition: str = "",
) -> list[Best]:
    """For each vector the nearest `depth` pictures, in one pass over the table.

    Args:
        dataset: the table.
        column: of vectors, the stored ones.
        vectors: what is looked for, (queries, dimension), of unit length.
        without: for each, the sha256 of a picture that is left out.
        depth: how many.
        condition: that rows must meet.
    """
    found: list[Best] = [{} for _ in vectors]
    limits = np.full(len(vectors), np.inf)
    there = f"{column} IS NOT NULL" + (f" AND ({condition})" if condition else "")
    scanner = dataset.scanner(columns=["sha256", "id", column], batch_size=_BATCH, filter=there)
    for batch in scanner.to_batches():
        if batch.num_rows == 0:
            continue
        names = pc.dictionary_encode(pc.coalesce(batch["sha256"], batch["id"]))
        distances = _by_picture(1 - vectors_of(batch[column]) @ vectors.T, names)
        for i in np.flatnonzero(distances.min(axis=0) < limits).tolist():
            near = np.argsort(distances[:, i])[: depth + 1]  # one more: the picture that is left out
            here = dict(
                zip(names.dictionary.take(pa.array(near)).to_pylist(), distances[near, i].tolist(), strict=True)
            )
            found[i] = _nearest(found[i], here, without[i], depth)
            if len(found[i]) == depth:
                limits[i] = max(found[i].values())
    return found


def _by_picture(distances: Vectors, names: pa.DictionaryArray) -> Vectors:
    """Of each picture in a batch the distance of its nearest row: (pictures, queries)."""
    codes = names.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    least: Vectors = np.minimum.reduceat(distances[order], np.flatnonzero(np.diff(codes[order], prepend=-1)), axis=0)
    return least


def _nearest(one: Best, other: Best, without: str | None, depth: int) -> Best:
    """The nearest pictures of two lists."""
    distances = dict(one)
    for name, distance in other.items():
        if name != without:
            distances[name] = min(distance, distances.get(name, np.inf))
    return dict(sorted(distances.items(), key=lambda each: each[1])[:depth])
