"""Shards for jobs with faults: small, and of every kind."""

import json
from pathlib import Path

from tests.shards import members, picture, write_parquet, write_tar

# Blocks of more than 100 kB travel through Ray's object store, as those of real shards do, and not with the messages.
LONG = " and so on" * 1200


def make_shards(folder: Path) -> Path:
    """Tars of ten pairs, a broken picture and a missing caption among them, an empty tar, a parquet in slices."""
    folder.mkdir()
    for i in range(8):
        items = [(n, d + LONG.encode() if n.endswith("txt") else d) for n, d in members(10, start=10 * i)]
        if i % 3 == 1:
            items = [(n, d[:200] if n == f"{10 * i + 3:05d}.jpg" else d) for n, d in items]
            items = [m for m in items if m[0] not in (f"{10 * i + 5:05d}.txt", f"{10 * i + 5:05d}.json")]
        write_tar(folder / f"{i:05d}.tar", items)
    write_tar(folder / "empty.tar", [])
    count = 40
    columns = {
        "key": [f"k{i}" for i in range(count)],
        "jpg": [picture(1000 + i) if i % 15 else b"no picture" for i in range(count)],
        "caption": [f"row {i}" + LONG for i in range(count)],
        "json": [json.dumps({"n": i}) for i in range(count)],
    }
    write_parquet(folder / "part.parquet", columns, group_rows=10)
    return folder
