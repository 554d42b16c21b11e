"""Small tables for queries, made without a run: vectors as a test wants them, pictures in a real shard beside them."""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.config import Contract, Keep
from pipeline.contract import Layout
from pipeline.database import Database
from pipeline.decode import decode
from pipeline.query import Query, QueryModel, search
from pipeline.retrieval.hits import Hits
from pipeline.schema import SHARDS, rows_schema
from tests.shards import Member, Squares, picture, read, samples, write_tar

DIMENSION = 8
CONTRACT = Contract("w" * 8, "fake", "main", "4x4", DIMENSION)

HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "\"><svg onload=alert(2)> ' onmouseover='alert(3)",
    "nul \0 bell \a escape \x1b[31mred\x1b]0;title\a",
    "\u202egnp.exe \u200f\u2066isolate",
    "[bold red]markup[/] :smile: {{ 7 * 7 }} {% raw %} %s",
    "two\nlines\r\nand\u2028a\ttab",
    "👩\u200d👩\u200d👧 naïve café שלום",
    "x" * 100_000,
    "",
]


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def text_vector(words: str) -> np.ndarray:
    return unit(np.random.default_rng(zlib.crc32(words.encode())).normal(size=DIMENSION))


def image_vector(square: np.ndarray) -> np.ndarray:
    return unit(np.random.default_rng(5).normal(size=(DIMENSION, square.size)) @ (square.reshape(-1) / 255 - 0.5))


def pair_vector(square: np.ndarray, words: str) -> np.ndarray:
    """Of a picture and words fused: neither's own, nor their sum."""
    return unit(image_vector(square)[::-1] * 3 + text_vector(words) ** 3)


def match_of(square: np.ndarray, words: str) -> float:
    """A probability that depends on the picture and the words both."""
    return float((square.astype(int).sum() + zlib.crc32(words.encode())) % 997) / 997


@dataclass
class FakeEncoder:
    """A QueryEncoder whose answers can be computed by hand; remembers what it was asked."""

    texts: list[str] = field(default_factory=list)
    images: int = 0
    matched: list[bytes] = field(default_factory=list)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += texts
        return np.stack([text_vector(t) for t in texts])

    def embed_images(self, pixels: np.ndarray) -> np.ndarray:
        self.images += len(pixels)
        return np.stack([image_vector(p) for p in pixels])

    def embed_pairs(self, pixels: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        return np.stack([pair_vector(p, t) for p, t in zip(pixels, texts, strict=True)])

    def match(self, pixels: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        self.matched += [p.tobytes() for p in pixels]
        return np.array([[match_of(p, t) for p in pixels] for t in texts], dtype=np.float32)


@dataclass
class FakeLake:
    """A table, its ledger and its shards in one folder."""

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    encoder: FakeEncoder = field(default_factory=FakeEncoder)
    loaded: int = 0

    @property
    def database(self) -> Database:
        return Database(str(self.folder / "lake"), "laion")

    def add(self, shard: str, items: Sequence[tuple[bytes, Sequence[str]]], dataset: str = "laion") -> None:
        """Write a tar of pictures with their captions into the dataset's folder, and rows for it."""
        root = self.folder / dataset
        root.mkdir(exist_ok=True)
        members: list[Member] = []
        for i, (image, _) in enumerate(items):
            members += [(f"{i:05d}.jpg", image), (f"{i:05d}.txt", b"x")]
        path = write_tar(root / shard, members)
        for sample, (image, captions) in zip(samples(read(path)), items, strict=True):
            self._add(sample, image, captions, dataset, shard)

    def _add(self, sample: Any, image: bytes, captions: Sequence[str], dataset: str, shard: str) -> None:
        picture = decoded(image)
        vector = image_vector(Squares().picture(picture))
        for index, caption in enumerate(captions):
            row = {"id": f"{len(self.rows):06d}", "dataset": dataset, "shard": shard, "key": sample.key}
            row |= {"caption": caption, "caption_index": index, "width": picture.width, "height": picture.height}
            row |= {"sha256": hashlib.sha256(image).hexdigest(), "image_embedding": vector, "run_id": "r"}
            row |= {"image_offset": sample.place.image_offset, "image_length": sample.place.image_length}
            row |= {"itc_score": 0.5, "itm_score": len(self.rows) % 10 / 10, "text_embedding": text_vector(caption)}
            row |= {"cross_embedding": pair_vector(Squares().picture(picture), caption)}
            self.rows.append(row)

    def write(self, keep: Sequence[Keep] = (), vectors: Sequence[str] = ("image", "text")) -> "FakeLake":
        """Write what was added, in two fragments, and the ledger."""
        layout = Layout(rows_schema(keep, vectors, DIMENSION, "float16"), CONTRACT)
        names = layout.schema.names
        rows = [{k: v for k, v in row.items() if k in names} for row in self.rows]
        half = (len(rows) + 1) // 2
        for part in (rows[:half], rows[half:]):
            table = pa.Table.from_pylist(
                [r | {k: _stored(v) for k, v in r.items() if k.endswith("_embedding")} for r in part],
                schema=layout.with_metadata,
            )
            lance.write_dataset(table, self.database.path(), mode="append")
        roots = {row["dataset"]: str(self.folder / row["dataset"]) for row in self.rows}
        ledger = [{"dataset": d, "root": r, "outcome": "committed", "version": 2} for d, r in roots.items()]
        lance.write_dataset(pa.Table.from_pylist(ledger, schema=SHARDS), self.database.path("shards"), mode="append")
        return self

    @property
    def model(self) -> QueryModel:
        return QueryModel(CONTRACT, Squares, self._load)

    def _load(self) -> FakeEncoder:
        self.loaded += 1
        return self.encoder

    def search(self, words: str = "", **options: Any) -> Hits:
        return search(self.database, Query(words, **options), self.model)

    def nearest(
        self, vector: np.ndarray, keep: Any = lambda row: True, column: str = "image", one_per_image: bool = True
    ) -> list[tuple[float, dict[str, Any]]]:
        """By brute force: distance and row, of the best caption of every picture or of all, the nearest first."""
        found = []
        for row in filter(keep, self.rows):
            if row[f"{column}_embedding"] is None:
                continue
            stored = np.asarray(row[f"{column}_embedding"], np.float16).astype(np.float64)
            distance = 1 - float(stored @ vector / np.linalg.norm(stored) / np.linalg.norm(vector))
            found.append((round(distance, 6), row["sha256"], row["caption_index"], row["id"], row))
        best: dict[str, tuple[float, dict[str, Any]]] = {}
        for distance, sha256, _, row_id, row in sorted(found, key=lambda f: f[:4]):
            best.setdefault(sha256 if one_per_image else row_id, (distance, row))
        return [*best.values()]


def _stored(vector: np.ndarray | None) -> np.ndarray | None:
    return None if vector is None else np.asarray(vector, np.float16)


def decoded(image: bytes) -> Image.Image:
    return decode(image, 10**6).picture


def jpeg(i: int) -> bytes:
    """Picture number `i`, of one of four widths."""
    return picture(i, size=(32 + 16 * (i % 4), 32))


def captioned(count: int, start: int = 0, captions: int = 1) -> list[tuple[bytes, list[str]]]:
    """`count` pictures of several widths with their captions."""
    return [(jpeg(i), [f"caption {i} {'abc'[c]}" for c in range(captions)]) for i in range(start, start + count)]
