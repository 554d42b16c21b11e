"""What a model gave for some pairs, as arrays by name, and which of them cannot be stored."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import TAG_COLUMNS
from pipeline.errors import ContractError
from pipeline.schema import EMBEDDING_COLUMNS

UNIT_TOLERANCE = 1e-5  # of a vector's length, in float32; a NaN fails the comparison too
_WORDS, _PROBABILITIES = TAG_COLUMNS

Arrays = dict[str, npt.NDArray[Any]]  # by name; the first axis is the pairs
Problems = list[str | None]  # of each pair


def arrays_of(embeddings: Any, *, tagged: bool) -> Arrays:
    """Vectors, scores and, if they are stored, tags of a `pipeline.embed.Embeddings`."""
    arrays = {name: getattr(embeddings, name) for name in (*EMBEDDING_COLUMNS, "itc_score", "itm_score")}
    if not tagged:
        return arrays
    if embeddings.tags is None:
        raise ContractError("the model gave no tags: it was not made to tell any")
    return arrays | {_WORDS: np.fromiter(embeddings.tags.words, object), _PROBABILITIES: embeddings.tags.probabilities}


def require_shapes(arrays: Arrays, pairs: int, dimension: int) -> None:
    """Refuse a model that is not the one of the contract, before anything of it is kept."""
    for name, column in EMBEDDING_COLUMNS.items():
        if (shape := arrays[name].shape) != (pairs, dimension):
            raise ContractError(
                f"the model gave {column} of shape {shape} for {pairs} pairs of dimension "
                f"{dimension}: it is not the one that the table's contract names"
            )


def problems_of(arrays: Arrays) -> Problems:
    """What is wrong with each pair, if anything: we store what is finite, and vectors of unit length."""
    found: Problems = [None] * len(arrays["itc_score"])
    for name, array in reversed(arrays.items()):  # the first named is told
        if name == _WORDS:
            continue
        if name in EMBEDDING_COLUMNS:
            norms = np.linalg.norm(array, axis=1)
            wrong = [None if abs(n - 1) <= UNIT_TOLERANCE else f"{name}_embedding has length {n}, not 1" for n in norms]
        else:
            wrong = [None if np.isfinite(value).all() else f"{name} is {value}" for value in array]
        found = [mine or before for mine, before in zip(wrong, found, strict=True)]
    return found
