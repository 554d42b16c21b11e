"""What is evaluated: distinct pictures and their captions, with their vectors, from a table or straight from shards."""

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import ReadConfig
from pipeline.database import Database, naming
from pipeline.embed import Pixels, Preparer, Vectors
from pipeline.errors import ConfigError, InputError, TableError
from pipeline.evaluation.ranking import Side
from pipeline.fetch import Row
from pipeline.plain import plain
from pipeline.prepare import prepare_slice
from pipeline.retrieval.hits import PLACE
from pipeline.roots import source_roots
from pipeline.schema import EMBEDDING_COLUMNS, Kind
from pipeline.shards import cut, list_shards

MOST = 1_000_000  # pairs without a --limit: their vectors are held in memory, and all are compared with all
_ROWS = 1024  # of a table, read at once
_PICTURE = (*PLACE, "width", "height")


class Towers(Protocol):
    """The two halves of a model, each alone."""

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """(B, dimension) float32 of unit length."""
        ...

    def embed_images(self, pixels: Pixels) -> Vectors:
        """(N, dimension) of (N, size, size, 3) uint8."""
        ...


@dataclass(frozen=True, slots=True)
class Pairs:
    """Distinct pictures, their captions, and the vectors of both."""

    rows: list[Row]  # of each picture: where it lies
    roots: Mapping[str, str]  # of each dataset in them
    captions: list[str]
    images: Side
    texts: Side
    rejects: Mapping[str, int] = field(default_factory=dict)  # pairs that could not be read, by reason

    @property
    def shared(self) -> int:
        """Captions that stand with several pictures; only the picture of each counts as its own."""
        pictures: dict[str, set[int]] = {}
        for caption, image in zip(self.captions, self.texts.image.tolist(), strict=True):
            pictures.setdefault(caption, set()).add(image)
        return sum(len(pictures[caption]) > 1 for caption in self.captions)


class _Gathered:
    """Pairs as they come; a picture is known by its sha256."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._numbers: dict[str, int] = {}
        self._rows: list[Row] = []
        self._captions: list[str] = []
        self._image_of: list[int] = []
        self._images: list[Vectors] = []
        self._texts: list[Vectors] = []

    @property
    def full(self) -> bool:
        """Whether there are as many pictures as were asked for."""
        return len(self._numbers) == self._limit

    def new(self, sha256: Sequence[str]) -> list[int]:
        """Which of these pictures are not known yet, each once, as long as there is room."""
        room = len(sha256) if self._limit is None else self._limit - len(self._numbers)
        first = {name: i for i, name in reversed(list(enumerate(sha256))) if name not in self._numbers}
        return sorted(first.values())[:room]

    def add_pictures(self, rows: Sequence[Row], vectors: Vectors) -> None:
        """Pictures that were `new`."""
        for row in rows:
            self._numbers[row["sha256"]] = len(self._numbers)
        self._rows += rows
        self._images.append(_unit(vectors))

    def known(self, sha256: Sequence[str]) -> list[bool]:
        """Of each, whether the picture is known."""
        return [name in self._numbers for name in sha256]

    def add_captions(self, sha256: Sequence[str], captions: Sequence[str], vectors: Vectors) -> None:
        """Captions of known pictures."""
        self._image_of += [self._numbers[name] for name in sha256]
        self._captions += captions
        self._texts.append(_unit(vectors))

    def pairs(self, roots: Mapping[str, str], rejects: Mapping[str, int], none: str) -> Pairs:
        """All of them; an InputError that says `none` if there are none."""
        if not self._captions:
            raise InputError(none)
        images = Side(np.concatenate(self._images), np.arange(len(self._rows)))
        texts = Side(np.concatenate(self._texts), np.array(self._image_of))
        return Pairs(self._rows, roots, self._captions, images, texts, rejects)


def _unit(vectors: Vectors) -> Vectors:
    """Of unit length in float32; stored as float16 they are so within 2e-3."""
    wide = vectors.astype(np.float32)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return wide


def from_table(database: Database, dataset: lance.LanceDataset, where: str, limit: int | None) -> Pairs:
    """The pairs of a table, with the vectors that are stored there.

    Args:
        database: that the table is in.
        dataset: the table at some version.
        where: an SQL condition, checked; empty for all rows.
        limit: pictures at most, chosen by the order of their sha256: by chance, but always the same ones.

    Raises:
        TableError: the table lacks a vector.
        ConfigError: too many pairs.
        InputError: no pair.
    """
    vectors = [EMBEDDING_COLUMNS[side] for side in ("image", "text")]
    if missing := [column for column in vectors if column not in dataset.schema.names]:
        raise TableError(
            f"{database.shown} holds no {' and no '.join(missing)}, which an evaluation compares: embed with image "
            "and text in --vectors, or evaluate the shards themselves with --input"
        )
    scan = partial(_batches, database, dataset)
    with naming("count rows of", database.path()):
        count = dataset.count_rows(where or None)
    if limit is None and count > MOST:
        raise ConfigError(
            f"{count:,} pairs are too many to compare all with all: choose with --where, or a sample of so many "
            "pictures with --limit"
        )
    if limit is not None:
        where = _first_by_sha256(scan(["sha256"], where), where, limit)
    gathered = _Gathered(None)
    for batch in scan([*_PICTURE, "caption", *vectors], where):
        names = batch["sha256"].to_pylist()
        new = gathered.new(names)
        image, text = (_matrix(batch[column]) for column in vectors)
        gathered.add_pictures(batch.select(_PICTURE).take(pa.array(new, pa.int64())).to_pylist(), image[new])
        gathered.add_captions(names, batch["caption"].to_pylist(), text)
    chosen = f"no row meets --where {plain(where, 200)!r}" if where else "it holds no rows yet"
    return gathered.pairs(source_roots(database), {}, f"nothing to evaluate in {database.shown}: {chosen}")


def _batches(
    database: Database, dataset: lance.LanceDataset, columns: list[str], where: str
) -> Iterator[pa.RecordBatch]:
    with naming("read", database.path()):
        yield from dataset.scanner(columns=columns, filter=where or None, batch_size=_ROWS).to_batches()


def _first_by_sha256(batches: Iterator[pa.RecordBatch], where: str, limit: int) -> str:
    """The condition, narrowed to the first `limit` pictures in the order of their sha256."""
    first: set[str] = set()
    for batch in batches:
        first.update(batch["sha256"].to_pylist())
        if len(first) > limit + 10 * _ROWS:
            first = set(heapq.nsmallest(limit, first))
    if len(first) <= limit:
        return where
    last = heapq.nsmallest(limit, first)[-1]
    # On a line of its own: the condition may end in a comment.
    return f"({where}\n) AND sha256 <= '{last}'" if where else f"sha256 <= '{last}'"


def _matrix(column: pa.FixedSizeListArray) -> Vectors:
    values: Vectors = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), -1)


def from_shards(read: ReadConfig, preparer: Preparer, towers: Towers, limit: int | None) -> Pairs:
    """The pairs of shards, read and embedded here and now.

    Args:
        read: which shards, and how.
        preparer: the checkpoint's preprocessing.
        towers: the model.
        limit: pictures at most, the first in the order of the shards.

    Raises:
        InputError: no shard, no pair, or a shard that cannot be read to its end.
    """
    listing = list_shards(read.inputs, None)
    gathered = _Gathered(limit)
    rejects: Counter[str] = Counter()
    for slice_ in (part for shard in listing.shards for part in cut(shard, read.slice_bytes)):
        for table in prepare_slice(slice_, "", read, preparer):
            if gathered.full:
                break
            rejects.update(table["reason"].filter(pc.equal(table["kind"], Kind.REJECT)).to_pylist())
            if broken := table["detail"].filter(pc.equal(table["kind"], Kind.END)).drop_null().to_pylist():
                raise InputError(f"{broken[0]}: an evaluation needs every shard whole")
            _add(gathered, table.filter(pc.equal(table["kind"], Kind.SAMPLE)), towers)
    return gathered.pairs({"": listing.root}, rejects, f"no pair in {', '.join(read.inputs)}")


def _add(gathered: _Gathered, samples: pa.Table, towers: Towers) -> None:
    """Embed what is new among some prepared samples."""
    names = samples["sha256"].to_pylist()
    if new := gathered.new(names):
        columns = [name for name in _PICTURE if name in samples.schema.names]
        rows = samples.select(columns).take(pa.array(new)).to_pylist()
        pixels = _squares(samples["pixels"].take(pa.array(new)))
        gathered.add_pictures([{"dataset": "", **row} for row in rows], towers.embed_images(pixels))
    known = samples.filter(pa.array(gathered.known(names), pa.bool_()))
    if known.num_rows:
        captions = pc.struct_field(pc.list_flatten(known["captions"]), "caption").to_pylist()
        of = known["sha256"].take(pc.list_parent_indices(known["captions"])).to_pylist()
        gathered.add_captions(of, captions, towers.embed_texts(captions))


def _squares(values: pa.ChunkedArray) -> Pixels:
    flat = np.stack([np.frombuffer(value.as_buffer(), np.uint8) for value in values])
    side = math.isqrt(flat.shape[1] // 3)
    return flat.reshape(-1, side, side, 3)
