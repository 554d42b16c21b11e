"""What the data plane asks of a model, and a batch of prepared samples -> vectors and scores, or rejects."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from pipeline.calls import Call, Inputs, calls_of
from pipeline.config import Contract
from pipeline.errors import ClusterError
from pipeline.given import Arrays, Problems, arrays_of, problems_of, require_shapes
from pipeline.schema import Kind
from pipeline.stored import Stored, conform, rows_of
from pipeline.watch.busy import work

Pixels = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]


class Preparer(Protocol):
    """Pictures and captions -> a model's inputs; runs in CPU tasks, without torch."""

    def fits(self, height: int, width: int) -> bool:
        """Whether a picture of this size can be resized without a side vanishing."""
        ...

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a picture of this size after the resize, before the cut."""
        ...

    def picture(self, picture: Image.Image, extent: tuple[float, float] | None = None) -> Pixels:
        """An RGB picture -> the model's square (size, size, 3) uint8; `extent` as of DecodedImage."""
        ...

    def captions(self, texts: list[str]) -> list[tuple[list[int], bool]]:
        """Token ids of each caption, and whether it was cut to the model's limit."""
        ...


class Tags(Protocol):
    """The likeliest words for each of P pairs' pictures, the first the likeliest; probabilities (P, k) float32."""

    @property
    def words(self) -> Sequence[Sequence[str]]: ...
    @property
    def probabilities(self) -> Vectors: ...


class Embeddings(Protocol):
    """What one pass gives for P pairs; vectors are (P, dimension) float32 of unit length."""

    @property
    def image(self) -> Vectors: ...
    @property
    def text(self) -> Vectors: ...
    @property
    def cross(self) -> Vectors: ...
    @property
    def itc_score(self) -> Vectors: ...
    @property
    def itm_score(self) -> Vectors: ...
    @property
    def tags(self) -> Tags | None: ...  # None: the model was not made to tell any


class DeviceLostError(ClusterError):
    """The GPU does not answer this process any more; another process may find it well."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model takes of its device, after it has computed: bytes, and pictures in one call."""

    weights: int
    memory: int  # at most so far: of a GPU's memory, else of the process's
    micro_batch: int
    compiled: float | None = None  # the seconds that it took; 0 where it was tried and cannot be done


class Embedder(Protocol):
    """The model in an actor. A GPU that does not answer any more is a DeviceLostError."""

    @property
    def dtype(self) -> str:
        """What it computes in; where "auto" was asked for, that is known here alone."""
        ...

    def footprint(self) -> Footprint:
        """What it takes, as far as it has computed by now."""
        ...

    def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> Embeddings:
        """Embed P pairs of N pictures.

        Args:
            pixels: (N, size, size, 3) uint8.
            token_ids: P captions, unpadded.
            image_of: for each of the P captions, which of the N pictures it belongs to.
        """
        ...

    def embed_each(self, calls: Iterable[Inputs]) -> Iterator[tuple[Embeddings, float]]:
        """Embed one call's pairs after another, with the seconds that the device took for each.

        An embedder may take the next call before it gives the last one's results, so that its device has always work.
        """
        for call in calls:
            began = time.perf_counter()
            found = self.embed(*call)
            yield found, time.perf_counter() - began

    def embed_exactly(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> Embeddings:
        """The same in float32, for a pair that could not be embedded otherwise."""
        ...


class MakeEmbedder(Protocol):
    """Called inside the actor; a batch size of 0 lets the model find its own."""

    def __call__(self, device: str, dtype: str, batch_size: int, gpu_share: float = 1.0) -> Embedder: ...


@dataclass(frozen=True, slots=True)
class Model:
    """What the data plane knows of a model: its contract, and how a worker makes its two halves."""

    contract: Contract
    make_preparer: Callable[[], Preparer]
    make_embedder: MakeEmbedder
    weights_on_disk: Callable[[], int | None] = lambda: None  # bytes, where they are known
    # Of a pair: by the tokens of a caption and the captions of a picture, where they are known.
    operations: Callable[[float, float], float | None] = lambda tokens, captions: None


def embed_batch(
    batch: pa.Table,
    embedder: Embedder,
    stored: Stored,
    batch_size: int,
    further: Callable[[int], None] = lambda calls: None,
) -> pa.Table:
    """Embed the samples of a batch; its rejects and end records pass through.

    Args:
        batch: rows in `schema.prepared_schema`; samples of any slices, mixed.
        embedder: the model.
        stored: the layout of the rows to make.
        batch_size: samples in one model call, at most.
        further: told after each model call how many there have been.

    Returns:
        Rows in `stored.schema`: a pair or a reject for each caption, what passed through, and for
        each model call one record of its pairs and seconds.
    """
    calls, others = calls_of(batch, batch_size)
    parts, flawed = [conform(others, stored.schema)], []
    found = embedder.embed_each(call.inputs() for call in calls)
    for i, (call, (embeddings, seconds)) in enumerate(zip(calls, found, strict=True)):
        made = _Made.of(call, embeddings, seconds, stored)
        if any(made.problems):
            flawed.append(made)
        else:
            parts += made.tables(embedder.dtype, stored)
        further(i + 1)
    for made in flawed:  # only here: with the next call under way, its seconds would be counted twice
        made.mend(embedder, tagged=stored.tags is not None)
        parts += made.tables(embedder.dtype, stored)
    return pa.concat_tables(parts)


def require_sane(embeddings: Embeddings) -> None:
    """Refuse a model that cannot embed a plain pair.

    Raises:
        ClusterError: a vector or score cannot be stored.
    """
    if problem := problems_of(arrays_of(embeddings, tagged=False))[0]:
        raise ClusterError(f"of a plain grey picture, {problem}: look at the GPU, or at the checkpoint")


@dataclass(slots=True)
class _Made:
    """What came of a model call, and what is wrong with each of its pairs, if anything."""

    call: Call
    arrays: Arrays
    problems: Problems
    seconds: float  # of the device
    ended: float

    @classmethod
    def of(cls, call: Call, embeddings: Embeddings, seconds: float, stored: Stored) -> "_Made":
        ended, arrays = time.time(), arrays_of(embeddings, tagged=stored.tags is not None)
        require_shapes(arrays, len(call.image_of), stored.dimension)
        return cls(call, arrays, problems_of(arrays), seconds, ended)

    def mend(self, embedder: Embedder, *, tagged: bool) -> None:
        """Embed alone, in float32, what cannot be stored."""
        began = time.perf_counter()
        for i in [i for i, problem in enumerate(self.problems) if problem]:
            alone = arrays_of(embedder.embed_exactly(*self.call.alone(i)), tagged=tagged)
            (problem,) = problems_of(alone)
            self.problems[i] = problem and f"{self.problems[i]}; alone in float32, {problem}"
            if problem is None:
                self.arrays = {n: np.concatenate([a[:i], alone[n], a[i + 1 :]]) for n, a in self.arrays.items()}
        self.seconds += time.perf_counter() - began
        self.ended = time.time()

    def tables(self, dtype: str, stored: Stored) -> list[pa.Table]:
        """A row for each pair, or its reject; and the record of the call."""
        samples = self.call.samples
        columns = [name for name in samples.column_names if name in stored.schema.names]
        samples = samples.select(columns).take(self.call.sample_of)
        told = {"kind": str(Kind.CALL), "pairs": len(self.problems), "seconds": self.seconds, "detail": dtype}
        told["at_work"] = work(self.ended - self.seconds, self.seconds)
        record = pa.table({name: [value] for name, value in told.items()})
        return [
            rows_of(samples, self.call.captions, self.arrays, self.problems, stored),
            conform(record, stored.schema),
        ]
