"""Shards for jobs with faults: small, and of every kind."""

import json
from pathlib import Path

from tests.shards import Member, picture, write_parquet, write_tar

# Blocks of more than 100 kB travel through Ray's object store, as those of real shards do, and not with the messages.
LONG = " and so on" * 1200


def make_shards(folder: Path, edition: int = 0) -> Path:
    """Tars of ten pairs, a broken picture and a missing caption among them, an empty tar, a parquet of several slices.

    Another edition has the same keys and captions, and other pictures.
    """
    folder.mkdir()
    for i in range(8):
        write_tar(folder / f"{i:05d}.tar", _members(10 * i, edition, broken=i % 3 == 1))
    write_tar(folder / "empty.tar", [])
    count = 40
    columns = {
        "key": [f"k{i}" for i in range(count)],
        "jpg": [_picture(1000 + i, edition) if i % 15 else b"no picture" for i in range(count)],
        "caption": [f"row {i}" + LONG for i in range(count)],
        "json": [json.dumps({"n": i}) for i in range(count)],
    }
    write_parquet(folder / "part.parquet", columns, group_rows=10)
    return folder


def _members(first: int, edition: int, *, broken: bool) -> list[Member]:
    made: list[Member] = []
    for i in range(first, first + 10):
        image = _picture(i, edition)
        made.append((f"{i:05d}.jpg", image[:200] if broken and i == first + 3 else image))
        if not (broken and i == first + 5):
            made.append((f"{i:05d}.txt", f"caption {i}{LONG}".encode()))
    return made


def _picture(number: int, edition: int) -> bytes:
    return picture(number + 10_000 * edition)
