"""A scaffold for the start of training: both towers are asked for the facts, by heads that are not kept.

Contrastive learning alone finds colours soon, but shapes and above all relations late: whichever object
is mentioned first, the text must come out by who is left or above, an XOR of two words far apart. The
drawer knows the facts, so each tower's first token has to tell them through one linear layer. Its weight
falls to nothing long before the end, and what is left has to serve ITC, ITM and MLM alone.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from demo.data import UNSAID, Batch
from demo.scenes import CANONICAL, COLOURS, SHAPES, SIZES
from model.bridgetower import BridgeTower, ImageStates, TextStates

THING = (len(COLOURS), len(SHAPES), len(SIZES))
CLASSES = (*THING * 3, *(len(CANONICAL),) * 3)  # up to three objects, the left or upper ones first, and the axes
FADES = (0.6, 0.85)  # of the training: from its full weight to none
WEIGHT = 3.0


def weight(progress: float) -> float:
    """Of the scaffold's loss."""
    start, end = FADES
    return WEIGHT * min(1.0, max(0.0, (end - progress) / (end - start)))


class Scaffold(nn.Module):
    """One linear layer beside each tower."""

    def __init__(self, model: BridgeTower) -> None:
        super().__init__()
        self.text = nn.Linear(model.config.hidden_size, sum(CLASSES))
        self.image = nn.Linear(model.config.hidden_size, sum(CLASSES))

    def loss(self, text: TextStates, images: ImageStates, batch: Batch) -> Tensor:
        """Cross-entropy of each kind of fact that is said or shown, averaged."""
        said = _facts_loss(self.text(text.layers[-1][: len(batch.said), 0]), batch.said)
        shown = _facts_loss(self.image(images.layers[-1][:, 0]), batch.shown)
        return (said + shown) / 2


def _facts_loss(logits: Tensor, facts: Tensor) -> Tensor:
    parts = zip(torch.split(logits.float(), list(CLASSES), dim=1), facts.unbind(1), strict=True)
    known = [(part, fact) for part, fact in parts if (fact != UNSAID).any()]
    return torch.stack([cross_entropy(part, fact, ignore_index=UNSAID) for part, fact in known]).mean()
