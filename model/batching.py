"""Cutting a batch of pairs into calls that the GPU can hold, and padding the captions of a call."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

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


@dataclass(frozen=True, slots=True)
class Padded:
    """Captions of one call: ids and attention mask, both (B, L) int64."""

    input_ids: Tensor
    attention_mask: Tensor


def pad(token_ids: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> Padded:
    """Pad captions to the longest of them."""
    longest = max(len(ids) for ids in token_ids)
    input_ids = torch.full((len(token_ids), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(token_ids):
        input_ids[row, : len(ids)] = torch.as_tensor(ids)
        mask[row, : len(ids)] = 1
    return Padded(input_ids.to(device), mask.to(device))


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
                    if isinstance(error, torch.AcceleratorError) or _LOST.search(str(error)):
                        raise DeviceLostError(_first_line(error)) from error
                    raise
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


def _is_full(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or bool(_FULL.search(str(error)))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:400]
