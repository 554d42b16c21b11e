"""Cutting a batch of pairs into calls of the model, and padding the captions of a call."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
