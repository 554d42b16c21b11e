"""A batch of prepared samples -> model calls: the same picture once, and pixels copied once, when they are embedded."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import Kind

Pixels = npt.NDArray[np.uint8]
Images = npt.NDArray[np.int64]  # for each pair, which picture
Inputs = tuple[Pixels, list[list[int]], list[int]]  # of a call, as `pipeline.embed.Embedder.embed` has them


@dataclass(frozen=True, slots=True)
class Call:
    """Of one model call: its samples, the pairs in them, and where its pictures are."""

    samples: pa.Table
    captions: pa.ChunkedArray  # of each pair
    sample_of: pa.ChunkedArray  # of each pair
    image_of: Images
    pixels: list[pa.Scalar]  # of each picture

    @classmethod
    def of(cls, samples: pa.Table, pixels: pa.ChunkedArray) -> "Call":
        """Of samples whose pictures are in these rows of `pixels`."""
        pictures = _pictures(samples)
        rows = samples["row"].to_numpy()[np.unique(pictures, return_index=True)[1]]
        sample_of = pc.list_parent_indices(samples["captions"])
        captions, image_of = pc.list_flatten(samples["captions"]), pictures[sample_of.to_numpy()]
        return cls(samples, captions, sample_of, image_of, [pixels[int(row)] for row in rows])

    def inputs(self) -> Inputs:
        """As the model takes them."""
        return np.stack([_square(value) for value in self.pixels]), _token_ids(self.captions), self.image_of.tolist()

    def alone(self, pair: int) -> Inputs:
        """Of one pair."""
        return _square(self.pixels[self.image_of[pair]])[None].copy(), _token_ids(self.captions.slice(pair, 1)), [0]


def calls_of(batch: pa.Table, most: int) -> tuple[list[Call], pa.Table]:
    """Model calls of at most so many samples, and the rows that are none."""
    is_sample = pc.equal(batch["kind"], Kind.SAMPLE)
    pixels = batch["pixels"]  # looked up where they are: of half a gigabyte each copy counts
    batch = batch.drop_columns("pixels").append_column("row", pa.array(np.arange(len(batch))))
    samples = _together(batch.filter(is_sample).combine_chunks())
    count = -(-samples.num_rows // most)
    calls = []
    for i in range(count):  # of equal size: a full one and a tiny one would waste the second
        start, stop = (samples.num_rows * k // count for k in (i, i + 1))
        calls.append(Call.of(samples.slice(start, stop - start), pixels))
    return calls, batch.filter(pc.invert(is_sample))


def _together(samples: pa.Table) -> pa.Table:
    """Samples of the same picture side by side, so that it is encoded once: tables have one caption a row."""
    pictures = _pictures(samples)
    return samples.take(np.argsort(pictures, kind="stable")) if len(set(pictures)) < len(samples) else samples


def _pictures(samples: pa.Table) -> Images:
    """The number of each sample's picture, counted as they come; the same bytes are the same picture."""
    numbers: dict[object, int] = {}
    shas = samples["sha256"].to_pylist()
    return np.array([numbers.setdefault(sha or row, len(numbers)) for row, sha in enumerate(shas)], dtype=np.int64)


def _token_ids(captions: pa.ChunkedArray) -> list[list[int]]:
    ids: list[list[int]] = pc.struct_field(captions, "token_ids").to_pylist()
    return ids


def _square(value: pa.Scalar) -> Pixels:
    flat = np.frombuffer(value.as_buffer(), dtype=np.uint8)
    side = math.isqrt(len(flat) // 3)
    return flat.reshape(side, side, 3)
