"""Hands the model to the data plane, which knows it only as the protocols of `pipeline.embed`."""

from functools import lru_cache, partial
from typing import TYPE_CHECKING

import model
from model import ModelSpec
from model.prepare import Preparer
from pipeline.config import Contract
from pipeline.embed import Model
from pipeline.errors import ClusterError
from pipeline.query import QueryModel

if TYPE_CHECKING:
    from model.encoder import Encoder


def contract(spec: ModelSpec) -> Contract:
    """What the table remembers of the model."""
    return Contract(spec.weights, spec.source, spec.revision, spec.preprocessing, spec.dimension)


def as_model(spec: ModelSpec) -> Model:
    """The model as the data plane wants it: made inside the workers, nothing heavy travels."""
    return Model(contract(spec), partial(preparer, spec), partial(encoder, spec))


def as_query_model(spec: ModelSpec, device: str) -> QueryModel:
    """The model as a query wants it: in this process, in float32, loaded when it is first needed."""
    return QueryModel(contract(spec), partial(preparer, spec), partial(asker, spec, device))


@lru_cache(maxsize=2)
def asker(spec: ModelSpec, device: str) -> "Encoder":
    """The loaded checkpoint for queries, once a process; an ITM head is asked for only by a rerank."""
    return model.load(spec, device, "float32", ("itc",))


@lru_cache(maxsize=2)
def preparer(spec: ModelSpec) -> Preparer:
    """The checkpoint's preprocessing, once a process."""
    return spec.preparer()


@lru_cache(maxsize=2)
def encoder(spec: ModelSpec, device: str, dtype: str, batch_size: int) -> "Encoder":
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
    loaded = model.load(spec, device, dtype)
    loaded.micro_batch = batch_size
    return loaded
