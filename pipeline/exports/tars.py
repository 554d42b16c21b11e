"""Rows as a new WebDataset: one sample a picture, fetched from its source shard, with all its chosen captions.

Laid out as img2dataset does: `00000.tar` and so on; in it `000000000.jpg`, `.txt` (the first caption) and `.json`
(everything known, with all captions under `captions`); keys are new, shard number and place in the shard.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import FetchError
from pipeline.exports.choice import Choice
from pipeline.exports.flat import plain_rows
from pipeline.exports.output import Folder
from pipeline.fetch import Row
from pipeline.metadata import as_json, utf8
from pipeline.retrieval.hits import PLACE, fetch_by_dataset

SHARD_SIZE = 10_000  # as img2dataset writes them
_PICTURES, _BYTES = 512, 64 * 2**20  # fetched, and held in memory, at once
_ROWS = 4096  # of the table, without their pictures
_SUFFIXES = {b"\x89PNG": "png", b"RIFF": "webp"}  # what readers look for; by the first bytes, as readers tell them
_OWN = ("caption", "caption_index", "metadata", "id", "itc_score", "itm_score", "run_id", *PLACE)

Ids = npt.NDArray[np.int64]  # of rows


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a shard becomes at most; one sample is always in it."""

    samples: int
    size: int | None  # bytes


@dataclass
class Packed:
    """What was written, and what could not be had."""

    pictures: int = 0
    pairs: int = 0
    shards: int = 0
    missing: int = 0
    first_missing: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture and the rows that have it."""

    image: bytes
    rows: list[Row]

    def members(self, key: str) -> list[tuple[str, bytes]]:
        """Files of the sample, by suffix."""
        suffix = _SUFFIXES.get(self.image[:4], "jpg")
        caption = utf8(self.rows[0]["caption"] or "")
        told = as_json(self._told(key), ()) or ""
        return [(suffix, self.image), ("txt", caption.encode()), ("json", told.encode())]

    def _told(self, key: str) -> dict[str, Any]:
        first = self.rows[0]
        told: dict[str, Any] = json.loads(first["metadata"] or "{}")
        told |= {name: value for name, value in first.items() if name not in _OWN and value is not None}
        told |= {"key": key, "caption": first["caption"], "captions": [row["caption"] for row in self.rows]}
        told |= {f"{name}s": [row[name] for row in self.rows] for name in ("id", "itc_score", "itm_score")}
        source = {name: first[name] for name in ("dataset", "shard", "key")}
        return told | {"sha256": first["sha256"], "source": source}


def write_tars(folder: Folder, choice: Choice, limits: Limits, roots: Mapping[str, str]) -> Packed:
    """Write a sample for each distinct picture (sha256), in the table's order.

    What cannot be fetched is listed in `_missing.jsonl` with the reason.

    Raises:
        FetchError: not one picture can be fetched.
    """
    packed = Packed()
    with ExitStack() as files:
        samples = _fetched(choice, roots, packed, _Missing(folder, files))
        sample = next(samples, None)
        while sample is not None:
            sample = _write_shard(folder, sample, samples, limits, packed)
        if not packed.pictures:
            raise FetchError(f"none of the {packed.missing} pictures can be fetched: {packed.first_missing}")
    return packed


def _write_shard(
    folder: Folder, first: Sample, others: Iterator[Sample], limits: Limits, packed: Packed
) -> Sample | None:
    """Write one tar; returns the sample that the next one begins with."""
    number, count, size = packed.shards, 0, 0
    digits = len(str(limits.samples - 1))
    sample: Sample | None = first
    with (
        folder.file(f"{number:05d}.tar") as file,
        tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as tar,
    ):
        while sample is not None and count < limits.samples:
            key = f"{number:05d}{count:0{digits}}"
            members = sample.members(key)
            size += sum(
                tarfile.BLOCKSIZE + -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE for _, data in members
            )
            if limits.size is not None and size > limits.size and count:
                break
            for suffix, data in members:
                _add(tar, f"{key}.{suffix}", data)
            count += 1
            packed.pictures += 1
            packed.pairs += len(sample.rows)
            sample = next(others, None)
    packed.shards += 1
    return sample


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time, no owner: the same rows give the same bytes
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


class _Missing:
    """The list of pictures that could not be had; a file only if there are any."""

    def __init__(self, folder: Folder, files: ExitStack) -> None:
        self._folder = folder
        self._files = files
        self._file: BinaryIO | None = None

    def add(self, row: Row, why: str) -> None:
        """One picture."""
        if self._file is None:
            self._file = self._files.enter_context(self._folder.file("_missing.jsonl"))
        told = {name: row[name] for name in ("id", "dataset", "shard", "key", "sha256")} | {"error": why}
        self._file.write(utf8(json.dumps(told, ensure_ascii=False) + "\n").encode())


def _fetched(choice: Choice, roots: Mapping[str, str], packed: Packed, missing: _Missing) -> Iterator[Sample]:
    for some in _by_size(_pictures(choice)):
        places = [rows[0] for rows in some]
        for rows, image in zip(some, fetch_by_dataset(places, roots), strict=True):
            if isinstance(image, FetchError):
                packed.missing += 1
                packed.first_missing = packed.first_missing or str(image)
                missing.add(rows[0], str(image))
            else:
                yield Sample(image, rows)


def _by_size(pictures: Iterator[list[Row]]) -> Iterator[list[list[Row]]]:
    """As many pictures together as may be held in memory; a gzipped tar is read through for each such part."""
    some: list[list[Row]] = []
    size = 0
    for rows in pictures:
        # A parquet tells no length beforehand; few pictures have more than a byte a pixel.
        size += rows[0]["image_length"] or rows[0]["width"] * rows[0]["height"]
        if some and (size > _BYTES or len(some) == _PICTURES):
            yield some
            some, size = [], 0
        some.append(rows)
    if some:
        yield some


def _pictures(choice: Choice) -> Iterator[list[Row]]:
    """The rows of each distinct picture, in the order in which the first of them stand in the table."""
    ids, starts = _grouped(choice)
    begin = 0
    while begin < len(ids):
        place = np.searchsorted(starts, begin + _ROWS)
        end = int(starts[place]) if place < len(starts) else len(ids)
        by_sha256: dict[str, list[Row]] = {}
        for row in plain_rows(choice.take(ids[begin:end].tolist(), choice.columns)):
            by_sha256.setdefault(row["sha256"], []).append(row)
        yield from by_sha256.values()
        begin = end


def _grouped(choice: Choice) -> tuple[Ids, Ids]:
    """Ids of all rows, those of one picture together, and where another picture begins: 24 bytes a row in all."""
    ids, hashes = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    for batch in choice.batches(["sha256"], with_row_id=True):
        ids.append(batch["_rowid"].to_numpy().astype(np.int64))
        # Half a picture's sha256 in 64 bits; whole ones are compared where the rows are at hand.
        first = "".join(text[:16] for text in batch["sha256"].to_pylist())
        hashes.append(np.frombuffer(bytes.fromhex(first), ">u8").astype(np.uint64))
    _, first_of, picture = np.unique(np.concatenate(hashes), return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first_of))[picture]
    order = np.argsort(place, kind="stable")
    return np.concatenate(ids)[order], np.flatnonzero(np.diff(place[order])) + 1
