"""What is looked for, as one vector: words, a picture, both together, or the vector that a row already has."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from pipeline.config import Contract
from pipeline.decode import Rejected, decode
from pipeline.embed import Pixels, Preparer, Vectors
from pipeline.errors import InputError, ShardError
from pipeline.plain import quoted
from pipeline.retrieval.question import Query
from pipeline.schema import EMBEDDING_COLUMNS
from pipeline.stores.retry import call
from pipeline.stores.storage import connect, reading

_LARGEST = 100_000_000  # pixels of a picture that is asked with

Picture = str | os.PathLike[str] | bytes


class QueryEncoder(Protocol):
    """The model, as a query needs it; vectors are float32 of unit length."""

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """(B, dimension), by the text tower alone."""
        ...

    def embed_images(self, pixels: Pixels) -> Vectors:
        """(N, dimension) of (N, size, size, 3) uint8, by the vision tower alone."""
        ...

    def embed_pairs(self, pixels: Pixels, texts: Sequence[str]) -> Vectors:
        """(N, dimension) of N pictures, each fused with its own text."""
        ...

    def match(self, pixels: Pixels, texts: Sequence[str]) -> Vectors:
        """ITM probability (B, N) of each text with each picture."""
        ...


@dataclass(frozen=True, slots=True)
class QueryModel:
    """What a query knows of a model: its contract, and how to get its two halves once they are needed."""

    contract: Contract
    preparer: Callable[[], Preparer]
    encoder: Callable[[], QueryEncoder]


class Subject(NamedTuple):
    """A vector to look for, the picture that is left out of the answer, and what there is to say."""

    vector: Vectors
    without: str | None = None  # sha256
    notes: tuple[str, ...] = ()


def read_picture(image: Picture) -> bytes:
    """The bytes of a picture to ask with: a path, a URL, or the bytes themselves.

    Raises:
        InputError: it cannot be read.
    """
    if isinstance(image, bytes):
        return image
    uri = os.fspath(image)
    try:
        with reading(uri):
            store, path = connect(uri)
            return bytes(call(store.cat_file, path))
    except ShardError as error:
        raise InputError(f"--image {error}") from error


def subject(query: Query, model: QueryModel, dataset: Any) -> Subject:
    """What a query looks for among the vectors of its column.

    Args:
        query: by vector, or hybrid.
        model: loaded here, unless a row's own vector is asked for.
        dataset: the table, a `lance.LanceDataset`.

    Raises:
        InputError: the picture is none, or there is no such row, or it has no vector.
    """
    if query.like is not None:
        return _of_row(query.like, EMBEDDING_COLUMNS[query.column], dataset)
    preparer, words = model.preparer(), query.words.strip()
    cut = bool(words) and preparer.captions([query.words])[0][1]
    notes = ("the words are more than the model takes: only their beginning was looked for",) if cut else ()
    if query.image is None:
        return Subject(model.encoder().embed_texts([query.words])[0], notes=notes)
    pixels = _square(query.image, preparer)[None]
    if not words:
        return Subject(model.encoder().embed_images(pixels)[0], notes=notes)
    if query.column == "cross":
        return Subject(model.encoder().embed_pairs(pixels, [query.words])[0], notes=notes)
    both = model.encoder().embed_texts([query.words])[0] + model.encoder().embed_images(pixels)[0]
    return Subject(both / np.linalg.norm(both), notes=notes)


def _square(image: bytes, preparer: Preparer) -> Pixels:
    """The picture that is asked with, as the model takes it."""
    try:
        picture = decode(image, _LARGEST).picture
    except Rejected as error:
        raise InputError(f"--image cannot be used, it is {error.reason}: {error.detail}") from error
    if not preparer.fits(picture.height, picture.width):
        raise InputError(f"--image is {picture.width} x {picture.height} pixels, too narrow for the model")
    return preparer.picture(picture)


def _of_row(row_id: str, column: str, dataset: Any) -> Subject:
    rows = dataset.to_table(columns=["sha256", column], filter=f"id = {quoted(row_id)}").to_pylist()
    if not rows:
        raise InputError(f"--like {row_id!r}: the table has no row with this id")
    if rows[0][column] is None:
        raise InputError(f"--like {row_id!r}: this row has no {column}; search another --column")
    return Subject(np.asarray(rows[0][column], np.float32), rows[0]["sha256"])
