"""Groups of pictures that are the same or nearly so, as `<table>_duplicates`: id, duplicate_of, cosine.

Two pictures belong together if the cosine of their image embeddings is high enough, or if another picture belongs to
both. A picture that several shards or keys hold is one that belongs to itself. Of a group the row with the lowest id
leads, with the other captions of its sample; every other row is a duplicate of it. So the rows without a duplicate are
those that no such row stands for: `... LEFT JOIN laion_duplicates d ON d.id = s.id WHERE d.id IS NULL`.

Where the embeddings have an index, a picture is compared with those that are near its own partition; else with all.
In memory: about 150 bytes a row, and pieces of vectors.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.database import Database, naming
from pipeline.errors import ConfigError, TableError
from pipeline.indexes.centroids import vectors_of
from pipeline.removal import Removal
from pipeline.runs import record_work
from pipeline.schema import DUPLICATES, EMBEDDING_COLUMNS
from pipeline.stores.retry import patiently

EXACT_BELOW = 50_000  # pictures, that are all compared although there is an index
_COLUMN = EMBEDDING_COLUMNS["image"]
_PROBES = 4  # partitions that a picture is near to
_BLOCK = 8192  # vectors at a time
_BATCH = 8192  # rows

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Found:
    """How many pictures, groups of them with more than one sample, and rows that are duplicates."""

    pictures: int
    groups: int
    duplicates: int
    threshold: float
    by_index: bool

    def line(self) -> str:
        """As a person reads it."""
        how = "near their own partition of the index" if self.by_index else "with each other"
        return (
            f"{self.pictures} pictures, compared {how}: {self.duplicates} rows are duplicates of {self.groups} others "
            f"(cosine {self.threshold:g} or more)"
        )


@dataclass(frozen=True, slots=True)
class Rows:
    """The table's rows, by their place in it; `first` is of each picture the row with the lowest id."""

    ids: npt.NDArray[np.bytes_]
    pictures: Numbers  # number of each row's picture
    samples: Numbers  # hash of each row's dataset, shard and key
    first: Numbers


def find_duplicates(database: Database, threshold: float, *, exact: bool = False) -> Found:
    """Find them and write them down, in place of those that were found before.

    Args:
        database: where the table is.
        threshold: the least cosine, above 0 and up to 1.
        exact: compare every picture with every other, also where there is an index.

    Raises:
        ConfigError: the threshold is not valid.
        TableError: no table, or one without image embeddings.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"--threshold {threshold:g} is not valid: allowed is a cosine, above 0 and up to 1")
    started, dataset = datetime.now(UTC), database.require()
    if _COLUMN not in dataset.schema.names:
        raise TableError(
            f"{database.shown} holds no {_COLUMN}, by which pictures are compared: embed with image in --vectors"
        )
    with naming("compare the pictures of", database.path()):
        rows = _rows(dataset)
        centres = None if exact or len(rows.first) < EXACT_BELOW else _centres(dataset)
        groups = _groups(dataset, rows.first, threshold, centres)
        table = _table(dataset, rows, groups)
    _write(database, table)
    leaders = len(set(table["duplicate_of"].to_pylist()))
    found = Found(len(rows.first), leaders, len(table), threshold, centres is not None)
    record_work(database, "duplicates", started, "done", {"threshold": threshold, "exact": exact}, asdict(found))
    return found


def _rows(dataset: lance.LanceDataset) -> Rows:
    ids, keys, samples = [], [], []
    for batch in dataset.scanner(columns=["id", "sha256", "dataset", "shard", "key"], batch_size=_BATCH).to_batches():
        names = [batch[c].to_pylist() for c in ("id", "sha256", "dataset", "shard", "key")]
        ids.append(np.array(names[0], "S32"))
        keys.append(np.array([sha or id_ for sha, id_ in zip(names[1], names[0], strict=True)], "S64"))
        samples.append(np.fromiter(map(hash, zip(*names[2:], strict=True)), np.int64, batch.num_rows))
    if not ids:
        nothing = np.empty(0, np.int64)
        return Rows(np.empty(0, "S32"), nothing, nothing, nothing)
    all_ids = np.concatenate(ids)
    pictures = np.unique(np.concatenate(keys), return_inverse=True)[1].astype(np.int64)
    return Rows(all_ids, pictures, np.concatenate(samples), _lowest(all_ids, pictures))


def _lowest(ids: npt.NDArray[np.bytes_], of: Numbers) -> Numbers:
    """Of each number in `of`, in order, the place of the lowest id that has it."""
    order = np.lexsort((ids, of))
    first: Numbers = order[np.flatnonzero(np.diff(of[order], prepend=-1))]
    return first


def _centres(dataset: lance.LanceDataset) -> npt.NDArray[np.float32] | None:
    """Of the partitions of the index, if there is one."""
    try:
        found = dataset.centroids(column=_COLUMN)
    except KeyError:
        return None
    return None if found is None else vectors_of(found)


def _groups(
    dataset: lance.LanceDataset, first: Numbers, threshold: float, centres: npt.NDArray[np.float32] | None
) -> Numbers:
    """Of each picture the lowest number of those that belong together with it."""
    groups = np.arange(len(first))
    for mine, others in _pieces(dataset, first, centres):
        some = _vectors(dataset, first[mine])
        for start in range(0, len(others), _BLOCK):
            block = others[start : start + _BLOCK]
            a, b = np.nonzero(some @ _vectors(dataset, first[block]).T >= threshold)
            _join(groups, mine[a], block[b])
    return _roots(groups, np.arange(len(first)))


def _pieces(
    dataset: lance.LanceDataset, first: Numbers, centres: npt.NDArray[np.float32] | None
) -> Iterator[tuple[Numbers, Numbers]]:
    """Pictures, a block at a time, and those that each of them is compared with."""
    everyone = np.arange(len(first))
    if centres is None:
        for start in range(0, len(first), _BLOCK):
            yield everyone[start : start + _BLOCK], everyone[start:]
        return
    probes = min(_PROBES, len(centres))
    near = np.empty((len(first), probes), np.int32)  # the nearest partition first
    for start in range(0, len(first), _BLOCK):
        scores = _vectors(dataset, first[start : start + _BLOCK]) @ centres.T
        best = np.argpartition(-scores, probes - 1, axis=1)[:, :probes]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        near[start : start + _BLOCK] = np.take_along_axis(best, order, axis=1)
    flat = near.ravel()
    by_partition = np.argsort(flat, kind="stable")
    bounds = np.searchsorted(flat[by_partition], np.arange(len(centres) + 1))
    for partition in range(len(centres)):
        others = np.sort(by_partition[bounds[partition] : bounds[partition + 1]] // probes)
        home = others[near[others, 0] == partition]
        for start in range(0, len(home), _BLOCK):
            yield home[start : start + _BLOCK], others


def _vectors(dataset: lance.LanceDataset, rows: Numbers) -> npt.NDArray[np.float32]:
    """Of rows in any order."""
    order = np.argsort(rows)
    found = vectors_of(dataset.take(rows[order].tolist(), columns=[_COLUMN])[_COLUMN])
    placed = np.empty_like(found)
    placed[order] = found
    return placed


def _join(groups: Numbers, a: Numbers, b: Numbers) -> None:
    """Let pairs belong together."""
    while len(a):
        a, b = _roots(groups, a), _roots(groups, b)
        apart = a != b
        a, b = a[apart], b[apart]
        np.minimum.at(groups, np.maximum(a, b), np.minimum(a, b))


def _roots(groups: Numbers, numbers: Numbers) -> Numbers:
    while not np.array_equal(above := groups[numbers], numbers):
        numbers = above
    return numbers


def _table(dataset: lance.LanceDataset, rows: Rows, groups: Numbers) -> pa.Table:
    """A row for each duplicate, by its id."""
    of_row = groups[rows.pictures] if len(rows.ids) else rows.pictures
    numbers, of_row = np.unique(of_row, return_inverse=True)
    leaders = _lowest(rows.ids, of_row)[of_row] if len(numbers) else of_row
    mine = np.flatnonzero(rows.samples != rows.samples[leaders])
    mine = mine[np.argsort(rows.ids[mine])]
    cosines = np.ones(len(mine), np.float32)
    near = np.flatnonzero(rows.pictures[mine] != rows.pictures[leaders[mine]])
    for start in range(0, len(near), _BLOCK):
        some = near[start : start + _BLOCK]
        pairs = (_vectors(dataset, rows.first[rows.pictures[part[some]]]) for part in (mine, leaders[mine]))
        cosines[some] = np.einsum("ij,ij->i", *pairs)
    texts = [rows.ids[part].astype("U32").tolist() for part in (mine, leaders[mine])]
    return pa.table([*texts, cosines], schema=DUPLICATES)


def _write(database: Database, table: pa.Table) -> None:
    database.create("duplicates", DUPLICATES)
    fragments = database.write("duplicates", table) if len(table) else []
    for attempt in patiently(TableError):
        with attempt:
            base = database.create("duplicates", DUPLICATES)
            database.swap("duplicates", base, DUPLICATES, fragments, without=Removal("true"))
