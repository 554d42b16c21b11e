"""Pictures and shards made by hand, byte by byte as a test wants them."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.config import ReadConfig
from pipeline.read import Reject, Sample, read_slice
from pipeline.shards import Shard, Slice

Member = tuple[str, bytes]


@cache
def picture(seed: int = 0, size: tuple[int, int] = (48, 32), kind: str = "JPEG") -> bytes:
    """A small picture of which no two seeds are alike."""
    values = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return encoded(Image.fromarray(values).resize(size), kind)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def members(count: int, start: int = 0) -> list[Member]:
    """`count` plain samples: a JPEG, a caption and JSON each."""
    made: list[Member] = []
    for i in range(start, start + count):
        fields = {"url": f"http://x/{i}", "similarity": i / 8, "caption": f"caption {i}"}
        made += [(f"{i:05d}.jpg", picture(i)), (f"{i:05d}.txt", f"caption {i}".encode())]
        made += [(f"{i:05d}.json", json.dumps(fields).encode())]
    return made


def tar_bytes(items: Iterable[Member | tarfile.TarInfo], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for item in items:
            if isinstance(item, tarfile.TarInfo):
                tar.addfile(item)
                continue
            info = tarfile.TarInfo(item[0])
            info.size = len(item[1])
            tar.addfile(info, io.BytesIO(item[1]))
    return buffer.getvalue()


def write_tar(path: Path, items: Iterable[Member | tarfile.TarInfo]) -> Path:
    data = tar_bytes(items)
    path.write_bytes(gzip.compress(data) if path.suffix in (".gz", ".tgz") else data)
    return path


def write_parquet(path: Path, columns: dict[str, Any], group_rows: int = 1000) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=group_rows)
    return path


def shard(path: Path) -> Shard:
    return Shard(str(path), path.name, path.stat().st_size, f"{path.stat().st_mtime:.6f}")


def whole(path: Path) -> Slice:
    return Slice(shard(path), 0, 1, None)


def read(path: Path, **options: Any) -> list[Sample | Reject]:
    return list(read_slice(whole(path), ReadConfig((str(path),), **options)))


def samples(found: Iterable[Sample | Reject]) -> list[Sample]:
    return [f for f in found if isinstance(f, Sample)]


def rejects(found: Iterable[Sample | Reject]) -> list[Reject]:
    return [f for f in found if isinstance(f, Reject)]


def positions(found: Iterable[Sample | Reject]) -> list[int]:
    """Of every pair, in the order read."""
    out: list[int] = []
    for one in found:
        out += [one.position] if isinstance(one, Reject) else [c.position for c in one.captions]
    return out


class Squares:
    """A Preparer that a person can follow: 4 x 4 squares, one token a word, five words at most."""

    def fits(self, height: int, width: int) -> bool:
        return max(height, width) / min(height, width) < 15

    def resized(self, height: int, width: int) -> tuple[int, int]:
        return 4, 4

    def picture(self, picture: Image.Image, extent: tuple[float, float] | None = None) -> np.ndarray:
        height, width = extent or (picture.height, picture.width)
        return np.asarray(picture.resize((4, 4), box=(0, 0, width, height)))

    def captions(self, texts: list[str]) -> list[tuple[list[int], bool]]:
        return [([len(w) for w in t.split()[:5]], len(t.split()) > 5) for t in texts]
