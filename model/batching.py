"""Cutting a batch of pairs into calls that the device can hold, and padding them to few shapes."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, NamedTuple, NoReturn, ParamSpec, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.errors import DeviceLostError, ModelError

# As CUDA, cuBLAS, cuDNN, the driver and Triton begin them. After any but the first kind nothing works in this process.
_FULL = re.compile(r"CUDA (driver )?error: (out of memory|CUBLAS_STATUS_ALLOC_FAILED)|CUDNN_STATUS_ALLOC_FAILED")
_LOST = re.compile(r"CUDA (driver )?error|cuDNN error|Triton Error \[CUDA\]")


class Bounded(Protocol):
    """What computes in calls of at most `micro_batch` pictures, and pairs."""

    micro_batch: int


B = TypeVar("B", bound=Bounded)
P = ParamSpec("P")
T = TypeVar("T")
Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Padded:
    """Captions of one call: ids and attention mask, both (B, L) int64."""

    input_ids: Tensor
    attention_mask: Tensor


@dataclass(frozen=True, slots=True)
class Shapes:
    """To what calls are padded: rows and tokens to multiples. A GPU's kernels like 8; a CPU gains nothing."""

    rows: int = 1
    tokens: int = 1

    def count(self, rows: int) -> int:
        """Rows of a call that holds so many."""
        return -(-rows // self.rows) * self.rows

    def length(self, tokens: int, most: int) -> int:
        """Tokens of a caption's bucket, `most` at most."""
        return max(tokens, min(-(-tokens // self.tokens) * self.tokens, most))


class Call(NamedTuple):
    """What is computed at once."""

    pictures: Indexes  # into the batch's
    pairs: Indexes  # into the batch's
    image_of: Indexes  # for each pair, which of `pictures`


def ordered(image_of: Sequence[int], captions: int, pictures: int) -> Indexes:
    """The picture of each caption, as `cut` wants them."""
    of = np.asarray(image_of, dtype=np.int64)
    if len(of) != captions or (np.diff(of, prepend=0) < 0).any() or (of >= pictures).any():
        raise ValueError(f"image_of must give each of {captions} captions one of {pictures} pictures, in order")
    return of


def cut(image_of: Indexes, lengths: Indexes, size: int) -> list[Call]:
    """Calls of at most `size` pictures; those with captions of like length together, so that little is padded.

    Args:
        image_of: (P,) the picture of each pair, never decreasing.
        lengths: (P,) tokens of each caption.
        size: pictures in a call, at most. A picture without a caption is in none.
    """
    pictures, first, counts = np.unique(image_of, return_index=True, return_counts=True)
    if not len(pictures):
        return []
    longest = np.maximum.reduceat(lengths, first)
    order = np.argsort(longest, kind="stable")
    calls = []
    for part in chunks(len(order), size):
        chosen = np.sort(order[part])
        pairs = np.concatenate([np.arange(first[k], first[k] + counts[k]) for k in chosen])
        calls.append(Call(pictures[chosen], pairs, np.repeat(np.arange(len(chosen)), counts[chosen])))
    return calls


def pad(token_ids: Sequence[Sequence[int]], pad_id: int, shapes: Shapes, most: int) -> Padded:
    """Pad captions to the bucket of the longest of them, and their number by repeating the first."""
    rows = [*token_ids, *[token_ids[0]] * (shapes.count(len(token_ids)) - len(token_ids))]
    length = shapes.length(max(len(ids) for ids in rows), most)
    input_ids = np.full((len(rows), length), pad_id, dtype=np.int64)
    mask = np.zeros_like(input_ids)
    for row, ids in enumerate(rows):
        input_ids[row, : len(ids)] = ids
        mask[row, : len(ids)] = 1
    return Padded(torch.from_numpy(input_ids), torch.from_numpy(mask))


def chunks(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `count`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def within_memory(compute: Callable[Concatenate[B, P], T]) -> Callable[Concatenate[B, P], T]:
    """A method that halves its `micro_batch`, for good, as often as the GPU's memory does not suffice.

    Raises:
        DeviceLostError: any other error of CUDA.
        ModelError: out of memory in a call of one.
    """

    @wraps(compute)
    def halving(self: B, /, *args: P.args, **kwargs: P.kwargs) -> T:
        while True:
            try:
                return compute(self, *args, **kwargs)
            except RuntimeError as error:
                if not _is_full(error):
                    _raise_lost_or_same(error)
                if self.micro_batch == 1:
                    raise ModelError(
                        f"the GPU cannot hold a call of one picture and one caption: {_first_line(error)}: let each "
                        "actor have more of the GPU (--num-gpus), end what else computes there, or use --dtype bfloat16"
                    ) from error
                told = _first_line(error)
            # Only here: the error's frames hold on to the tensors that filled the memory.
            torch.cuda.empty_cache()
            print(f"note: {self.micro_batch} pictures in a call are too many, halved: {told}", file=sys.stderr)
            self.micro_batch //= 2

    return halving


def waited_for(wait: Callable[[], T]) -> T:
    """What comes of work that the GPU has in hand; nothing can be done again then.

    Raises:
        DeviceLostError: any error of CUDA.
    """
    try:
        return wait()
    except RuntimeError as error:
        _raise_lost_or_same(error)


def _raise_lost_or_same(error: RuntimeError) -> NoReturn:
    if isinstance(error, torch.AcceleratorError) or _LOST.search(str(error)):
        raise DeviceLostError(_first_line(error)) from error
    raise error


def _is_full(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or bool(_FULL.search(str(error)))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:400]
