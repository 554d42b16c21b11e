"""What the demo model learns from: ITC, ITM with hard negatives, MLM, and the cross-modal head."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from demo.data import Batch
from model.bridgetower import BridgeTower, Fused, ImageStates, TextStates

MLM_WEIGHT = 1.0

ScaffoldLoss = Callable[[TextStates, ImageStates], Tensor]


@dataclass(frozen=True)
class Losses:
    """One step's losses; `total` is what is minimised."""

    itc: Tensor
    itm: Tensor
    mlm: Tensor
    cross: Tensor
    scaffold: Tensor

    @property
    def total(self) -> Tensor:
        """The weighted sum."""
        return self.itc + self.itm + MLM_WEIGHT * self.mlm + self.cross + self.scaffold


def _others(true: Tensor) -> Tensor:
    """Pairs that are true without being the pair itself: neither a positive nor a negative."""
    others = true.clone()
    others.fill_diagonal_(False)
    return others


def contrastive(logits: Tensor, true: Tensor) -> Tensor:
    """InfoNCE both ways between 2N texts and N pictures, of which text i belongs to picture i.

    The altered texts (the second N) are further negatives of every picture. What is true by
    accident is left out of the sums.
    """
    n = logits.shape[1]
    target = torch.arange(n, device=logits.device)
    kept = logits.float().masked_fill(_others(true), float("-inf"))
    return (cross_entropy(kept[:n], target) + cross_entropy(kept.T, target)) / 2


def hard_images(logits: Tensor, true: Tensor) -> Tensor:
    """For each of N texts a picture that it is false of, drawn as likely as ITC mistakes it."""
    n = logits.shape[1]
    chances = logits[:n].detach().float().masked_fill(true[:n], float("-inf")).softmax(dim=1)
    return torch.multinomial(chances, 1).squeeze(1)


def tower_losses(model: BridgeTower, batch: Batch, scaffold: ScaffoldLoss) -> Losses:
    """The towers alone, at a third of a whole step's cost: ITC and the scaffold."""
    n = 2 * len(batch.pixels)
    text = model.encode_text(batch.ids[:n], batch.attention[:n])
    images = model.encode_images(batch.pixels)
    scores = itc_logits(model, text, images)
    none = scores.new_zeros(())
    return Losses(contrastive(scores, batch.true), none, none, none, scaffold(text, images))


def losses(model: BridgeTower, batch: Batch, scaffold: ScaffoldLoss) -> Losses:
    """One pass: each tower once, the fusion on positives, hard pictures, altered texts and masked texts."""
    n = len(batch.pixels)
    text = model.encode_text(batch.ids, batch.attention)
    images = model.encode_images(batch.pixels)
    logits = itc_logits(model, text, images)[: 2 * n]
    itc = contrastive(logits, batch.true)

    own = torch.arange(n, device=logits.device)
    hard = hard_images(logits, batch.true)
    fused = model.fuse(text, images, torch.cat([own, own, own + n]), torch.cat([own, hard, own]))
    match = torch.zeros(3 * n, dtype=torch.long, device=logits.device)
    match[:n] = 1
    itm = cross_entropy(model.itm_logits(fused).float(), match)

    hidden = model.fuse(text, images, own + 2 * n, own, every_token=True)
    mlm = cross_entropy(model.mlm_logits(hidden).float().flatten(0, 1), batch.targets.flatten())
    cross = cross_loss(model, replace(fused, pooled=fused.pooled[:n]), (text, images), batch.true[:n])
    return Losses(itc, itm, mlm, cross, scaffold(text, images))


def itc_logits(model: BridgeTower, text: TextStates, images: ImageStates) -> Tensor:
    """Scaled cosines (texts, pictures)."""
    if text.embedding is None or images.embedding is None:
        raise ValueError("the demo model has an ITC head")
    return model.logit_scale.exp() * text.embedding @ images.embedding.T


def cross_loss(model: BridgeTower, fused: Fused, towers: tuple[TextStates, ImageStates], true: Tensor) -> Tensor:
    """The cross-modal head between both sides, as stock transformers trains it.

    It only reads what the others have learnt: all its inputs are detached.
    """
    cross = model.cross_embedding(replace(fused, pooled=fused.pooled.detach()))
    scale = model.logit_scale.detach().exp()
    sides = [tower.embedding[: len(true)].detach() for tower in towers if tower.embedding is not None]
    # What is true by accident is left out.
    others = _others(true) | _others(true).T
    target = torch.arange(len(true), device=true.device)
    logits = [(scale * side @ cross.T).float().masked_fill(others, float("-inf")) for side in sides]
    return torch.stack([cross_entropy(one, target) for one in logits]).mean()
