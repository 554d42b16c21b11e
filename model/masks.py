"""The words that may stand for the masks of texts which were fused with their pictures."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from model.bridgetower import BridgeTower, Fused
from model.prepare import Preparer


class Word(NamedTuple):
    """A word that may stand for a `<mask>`, with its probability."""

    text: str
    probability: float


def fill(
    tower: BridgeTower, preparer: Preparer, fused: Fused, token_ids: Sequence[Sequence[int]], mask: int, top_k: int
) -> list[list[list[Word]]]:
    """For each text, for each of its masks, `top_k` words, the likeliest first.

    Args:
        tower: with an MLM head.
        preparer: knows the words.
        fused: the texts with their pictures, every token of them.
        token_ids: of each text.
        mask: the id of `<mask>`.
        top_k: words for each mask.
    """
    # Only where a mask is: a whole vocabulary for every token would be gigabytes.
    at = [(row, i) for row, tokens in enumerate(token_ids) for i, token in enumerate(tokens) if token == mask]
    rows, columns = torch.tensor(at, dtype=torch.int64).reshape(-1, 2).to(fused.pooled.device).unbind(1)
    best = tower.mlm_logits(Fused(fused.pooled, fused.text_features[rows, columns])).softmax(-1).topk(top_k)
    masks: list[list[list[Word]]] = [[] for _ in token_ids]
    for (row, _), probabilities, tokens in zip(at, best.values.tolist(), best.indices.tolist(), strict=True):
        texts = (preparer.text([token]).strip() for token in tokens)
        masks[row].append([Word(text, p) for text, p in zip(texts, probabilities, strict=True)])
    return masks
