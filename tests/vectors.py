"""Tables of clustered vectors for indexes: several captions a picture, no pictures behind them."""

import hashlib
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

from pipeline.config import Contract
from pipeline.contract import Layout
from pipeline.database import Database
from pipeline.schema import rows_schema

WIDTH = 32
CLUSTERS = 40
CAPTIONS = 2  # a picture
CONTRACT = Contract("w" * 8, "fake", "main", "4x4", WIDTH)


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def drawn(pictures: int, seed: int) -> np.ndarray:
    """Vectors around the same centres, whatever the seed."""
    centres = np.random.default_rng(99).normal(size=(CLUSTERS, WIDTH))
    rng = np.random.default_rng(seed)
    return unit(centres[rng.integers(0, CLUSTERS, pictures)] + 0.4 * rng.normal(size=(pictures, WIDTH)))


class VectorLake:
    """A table, and all of its rows' vectors to compute answers by hand."""

    def __init__(self, folder: Path, vectors: tuple[str, ...] = ("image", "text")) -> None:
        self.database = Database(str(folder / "lake"), "laion")
        self.layout = Layout(rows_schema((), vectors, WIDTH, "float16"), CONTRACT)
        self.names: list[str] = []  # sha256 of each picture
        self.images = np.empty((0, WIDTH))

    def add(self, pictures: int, seed: int = 0) -> "VectorLake":
        """As a commit of one fragment, with two captions a picture."""
        images = drawn(pictures, seed).astype(np.float16)
        names = [hashlib.sha256(f"{seed} {i}".encode()).hexdigest() for i in range(pictures)]
        of = np.repeat(np.arange(pictures), CAPTIONS)
        words = unit(drawn(pictures, seed)[of] + 0.1 * np.random.default_rng(seed + 1).normal(size=(len(of), WIDTH)))
        count = len(of)
        known: dict[str, pa.Array] = {
            "id": pa.array([f"{names[p][:8]}-{i % CAPTIONS}" for i, p in enumerate(of)]),
            "sha256": pa.array([names[p] for p in of]),
            "caption_index": pa.array(np.tile(np.arange(CAPTIONS, dtype=np.int32), pictures)),
            "caption": pa.array([f"a thing number {i}" for i in range(count)]),
            "shard": pa.array([f"{seed}.tar"] * count),
            "dataset": pa.array(["laion"] * count),
            "image_embedding": _lists(images[of]),
            "text_embedding": _lists(words.astype(np.float16)),
            "itc_score": pa.array(np.full(count, 0.5, np.float32)),
            "itm_score": pa.array(np.linspace(0, 1, count, dtype=np.float32)),
        }
        schema = self.layout.with_metadata
        rows = pa.Table.from_arrays([known.get(f.name, pa.nulls(count, f.type)) for f in schema], schema=schema)
        self.database.create("", schema)
        lance.write_dataset(rows, self.database.path(), mode="append")
        self.names += names
        self.images = np.concatenate([self.images, images.astype(np.float64)])
        return self

    def dataset(self) -> lance.LanceDataset:
        dataset = self.database.open()
        assert dataset is not None
        return dataset

    def nearest(self, vector: np.ndarray, depth: int = 10) -> list[str]:
        """By brute force: the nearest pictures."""
        order = np.argsort(-(unit(self.images) @ vector), kind="stable")
        return [self.names[i] for i in order[:depth]]


def _lists(vectors: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), WIDTH)
