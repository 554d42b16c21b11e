"""Hands the model to the data plane, which knows it only as the protocols of `pipeline.embed`."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import model
from model import Blank, Extras, ModelSpec, errors
from model.heads import require_mlm
from model.prepare import Preparer
from pipeline.calls import Inputs
from pipeline.config import Contract, Tagging
from pipeline.embed import DeviceLostError, Embeddings, Footprint, Model, Pixels
from pipeline.errors import ClusterError, ConfigError
from pipeline.evaluate import EvaluationModel
from pipeline.query import QueryModel

if TYPE_CHECKING:
    from model.encoder import Encoder

_DEVICES = {"cpu": "cpu", "gpu": "cuda"}


def torch_device(device: str) -> str:
    """What torch calls a device of ours.

    Raises:
        ConfigError: it is neither cpu nor gpu.
    """
    if device not in _DEVICES:
        raise ConfigError(f"--device {device!r} is not valid: allowed is cpu or gpu")
    return _DEVICES[device]


def contract(spec: ModelSpec) -> Contract:
    """What the table remembers of the model."""
    return Contract(spec.weights, spec.source, spec.revision, spec.preprocessing, spec.dimension)


def as_model(spec: ModelSpec, tags: Tagging | None = None, compile: str = "auto") -> Model:
    """The model as the data plane wants it: made inside the workers, nothing heavy travels.

    `compile` is as of EmbedConfig.

    Raises:
        ModelError: it cannot tell the tags that are asked for.
    """
    blank, prompt = Blank(tags.prompt, tags.count) if tags else None, 0
    if blank:
        prompt = len(blank.tokens(preparer(spec))[0])
        require_mlm(spec)
    make = partial(preparer, spec), partial(encoder, spec, extras=Extras(blank, compile))
    return Model(contract(spec), *make, spec.size, partial(spec.operations, prompt=prompt))


def as_query_model(spec: ModelSpec, device: str) -> QueryModel:
    """The model as a query wants it: in this process, in float32, loaded when it is first needed."""
    return QueryModel(contract(spec), partial(preparer, spec), partial(asker, spec, device))


def as_evaluation_model(spec: ModelSpec, device: str) -> EvaluationModel:
    """The model as an evaluation wants it: as a query does."""
    return EvaluationModel(contract(spec), partial(preparer, spec), partial(asker, spec, device))


@lru_cache(maxsize=2)
def asker(spec: ModelSpec, device: str) -> "Encoder":
    """The loaded checkpoint for queries, once a process; an ITM head is asked for only by a rerank."""
    return model.load(spec, device, "float32", ("itc",))


@lru_cache(maxsize=2)
def preparer(spec: ModelSpec) -> Preparer:
    """The checkpoint's preprocessing, once a process."""
    return spec.preparer()


@lru_cache(maxsize=2)
def encoder(
    spec: ModelSpec, device: str, dtype: str, batch_size: int, gpu_share: float = 1.0, extras: Extras | None = None
) -> "Embedder":
    """The loaded checkpoint, once a process.

    Raises:
        ClusterError: told to compute on a GPU, and torch sees none here.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ClusterError(
            "an actor was given a GPU but torch sees no CUDA there: install the CUDA build of torch on the "
            "GPU nodes, or use --device cpu"
        )
    return Embedder(model.load_for_batches(spec, device, dtype, batch_size, gpu_share, extras))


@dataclass(frozen=True, slots=True)
class Embedder:
    """The encoder as the data plane knows it: a lost GPU is the data plane's own error."""

    encoder: "Encoder"

    @property
    def dtype(self) -> str:
        """As the tower's backbone computes."""
        return self.encoder.dtype

    def footprint(self) -> Footprint:
        """As the device tells it."""
        from model.hardware import memory_held
        from model.packed import weight_bytes

        held = memory_held(str(self.encoder.device))
        return Footprint(weight_bytes(self.encoder.tower), held, self.encoder.micro_batch, self.encoder.compiled)

    def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> Embeddings:
        """As `Encoder.embed`."""
        with _as_pipeline_errors():
            return self.encoder.embed(pixels, token_ids, image_of)

    def embed_each(self, calls: Iterable[Inputs]) -> Iterator[tuple[Embeddings, float]]:
        """As `Encoder.embed_each`."""
        with _as_pipeline_errors():
            yield from self.encoder.embed_each(calls)

    def embed_exactly(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> Embeddings:
        """As `Encoder.embed_exactly`."""
        with _as_pipeline_errors():
            return self.encoder.embed_exactly(pixels, token_ids, image_of)


@contextmanager
def _as_pipeline_errors() -> Iterator[None]:
    try:
        yield
    except errors.DeviceLostError as error:
        raise DeviceLostError(str(error)) from error
