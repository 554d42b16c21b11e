"""A model whose answers a person can compute by hand; picklable, so that Ray's workers can have it.

A picture is its first value b, and its image embedding the unit vector number b mod 4. A caption is its words; a
word's token is its length, the text embedding the unit vector number (words mod 4). The cross embedding is half-way
between the two. itc_score is 1 where they agree and 0 where not, itm_score 0.75 and 0.25. The tags are the words
number b mod 4 and the next one, with 0.5 and 0.25. More than eight words are cut, and a caption with the word NaN
breaks the model.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.config import Contract
from pipeline.embed import Embedder, Footprint, Model, Pixels, Vectors
from pipeline.watch.progress import Counts

DIMENSION = 4
SIDE = 2
MOST_WORDS = 8
NAN_TOKEN = 0
WORDS = ("cat", "dog", "owl", "it's")
CONTRACT = Contract("w" * 8, "fake", "main", "2x2", DIMENSION)


@dataclass(frozen=True)
class FakeTags:
    words: list[list[str]]
    probabilities: Vectors


@dataclass(frozen=True)
class FakeEmbeddings:
    image: Vectors
    text: Vectors
    cross: Vectors
    itc_score: Vectors
    itm_score: Vectors
    tags: FakeTags | None = None


class FakePreparer:
    """Pictures -> their first value, captions -> the lengths of their words."""

    def fits(self, height: int, width: int) -> bool:
        return max(height, width) <= 15 * min(height, width)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        return SIDE, SIDE

    def picture(self, picture: Image.Image, extent: tuple[float, float] | None = None) -> Pixels:
        return np.full((SIDE, SIDE, 3), np.asarray(picture)[0, 0, 0], dtype=np.uint8)

    def captions(self, texts: list[str]) -> list[tuple[list[int], bool]]:
        words = [[NAN_TOKEN if w == "NaN" else len(w) for w in text.split()] for text in texts]
        return [(w[:MOST_WORDS], len(w) > MOST_WORDS) for w in words]


class FakeEmbedder(Embedder):
    """Remembers how many pictures each call had."""

    dtype = "float32"

    def __init__(
        self, device: str = "cpu", dtype: str = "float32", batch_size: int = 64, gpu_share: float = 1.0
    ) -> None:
        self.calls: list[int] = []

    def footprint(self) -> Footprint:
        return Footprint(weights=1000, memory=5000, micro_batch=64)

    def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
        self.calls.append(len(pixels))
        units = np.eye(DIMENSION, dtype=np.float32)
        image = units[pixels[image_of, 0, 0, 0] % DIMENSION]
        text = units[[len(ids) % DIMENSION for ids in token_ids]]
        text[[NAN_TOKEN in ids for ids in token_ids]] = np.nan
        between = image + text
        cross = between / np.linalg.norm(between, axis=1, keepdims=True)
        itc = (image * text).sum(axis=1)
        words = [[WORDS[(int(pixels[i, 0, 0, 0]) + n) % 4] for n in range(2)] for i in image_of]
        tags = FakeTags(words, np.tile(np.float32([0.5, 0.25]), (len(words), 1)))
        return FakeEmbeddings(image, text, cross, itc, 0.25 + itc / 2, tags)

    def embed_exactly(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
        return FakeEmbedder().embed(pixels, token_ids, image_of)  # is not remembered as a call


def fake_model(contract: Contract = CONTRACT) -> Model:
    return Model(contract, FakePreparer, FakeEmbedder)


class Quiet:
    """An observer that remembers the lines and the last counts."""

    counts: Counts

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def update(self, counts: Counts) -> None:
        assert 0 <= counts.shards <= counts.of_shards
        self.counts = counts

    def close(self) -> None:
        pass
