"""The same pairs, one technique after another: from transformers' documentation to what `model` computes.

Random weights: the work is the same, and no checkpoint is needed. torch, transformers and numpy alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BridgeTowerConfig,
    BridgeTowerForContrastiveLearning,
    BridgeTowerForImageAndTextRetrieval,
)
from transformers.models.bridgetower import modeling_bridgetower as stock

from model.bridgetower import BridgeTower
from model.embedding import Embeddings

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24}
TINY = {"hidden_size": 64, "num_hidden_layers": 2}
# The published sizes: what each leaves out has transformers' default.
SIZES: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {
        "hidden_size": 1024, "num_attention_heads": 16,
        "text_config": {**LARGE, "num_attention_heads": 16, "intermediate_size": 4096},
        "vision_config": {**LARGE, "patch_size": 14, "image_size": 294},
    },
    "tiny": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "text_config": {**TINY, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 400},
        "vision_config": {**TINY, "patch_size": 16, "image_size": 64},
    },
}  # fmt: skip


class Case(NamedTuple):
    """What is computed."""

    tokens: int
    captions: int  # an image


class Batch:
    """Pictures, and the same number of captions for each."""

    def __init__(self, squares: np.ndarray, token_ids: np.ndarray, device: str) -> None:
        self.squares, self.token_ids, self._device = squares, token_ids, device
        self.image_of = np.repeat(np.arange(len(squares)), len(token_ids) // len(squares))
        self.pixels = torch.from_numpy(squares).to(device).permute(0, 3, 1, 2)
        self.ids = torch.from_numpy(token_ids).to(device)
        self.mask = torch.ones_like(self.ids)
        self.of = torch.from_numpy(self.image_of).to(device)

    @classmethod
    def random(cls, shape: BridgeTowerConfig, case: Case, pictures: int, device: str) -> "Batch":
        """Noise, and random tokens."""
        rng, side = np.random.default_rng(0), shape.vision_config.image_size
        squares = rng.integers(0, 256, (pictures, side, side, 3), dtype=np.uint8)
        tokens = rng.integers(5, shape.text_config.vocab_size, (pictures * case.captions, case.tokens))
        return cls(squares, tokens, device)

    def head(self, pictures: int) -> "Batch":
        """The first pictures with their captions."""
        captions = len(self) // len(self.squares)
        return Batch(self.squares[:pictures], self.token_ids[: pictures * captions], self._device)

    def __len__(self) -> int:
        return len(self.token_ids)

    def normal(self, tower: BridgeTower, dtype: torch.dtype = torch.float32) -> Tensor:
        """The pictures as the stock classes take them, one a pair."""
        index = self.pixels.index_select(0, self.of).int()
        return torch.stack([tower.levels[c].float()[index[:, c]] for c in range(3)], dim=1).to(dtype)


class Model:
    """One set of weights, as our tower and as the two stock classes."""

    def __init__(self, size: str, device: str) -> None:
        torch.manual_seed(0)
        self.shape = BridgeTowerConfig(**SIZES[size], contrastive_hidden_size=512, logit_scale_init_value=2.6592)
        with torch.device(device):
            self.tower = BridgeTower(self.shape).eval().requires_grad_(requires_grad=False).to(device)
        with torch.device("meta"):
            self.itc = BridgeTowerForContrastiveLearning(self.shape).eval()
            self.itm = BridgeTowerForImageAndTextRetrieval(self.shape).eval()
        self.itc.bridgetower = self.itm.bridgetower = self.tower.bridgetower
        self.itm.itm_score = self.tower.itm_score
        for head in ("itc_text_head", "itc_image_head", "itc_cross_modal_head", "logit_scale"):
            setattr(self.itc, head, getattr(self.tower, head))

    def both(self, batch: Batch, pixels: Tensor, rows: slice = slice(None)) -> Embeddings:
        """Some pairs through both stock classes."""
        inputs = {"input_ids": batch.ids[rows], "attention_mask": batch.mask[rows], "pixel_values": pixels[rows]}
        itc, itm = self.itc(**inputs), self.itm(**inputs)
        return _result(itc.image_embeds, itc.text_embeds, itc.cross_embeds, itm.logits)

    def loop(self, batch: Batch, pixels: Tensor) -> Embeddings:
        """As transformers' documentation shows it: a pair at a time, through both classes."""
        found = [self.both(batch, pixels, slice(i, i + 1)) for i in range(len(batch))]
        return Embeddings(*(np.concatenate(column) for column in zip(*(one[:5] for one in found), strict=True)))

    def rounded(self) -> "Model":
        """A copy of which the stock classes are wholly in bfloat16, as a user would convert them."""
        copy = deepcopy(self)
        copy.itc.to(torch.bfloat16)
        copy.itm.to(torch.bfloat16)
        return copy


def one_backbone(tower: BridgeTower, batch: Batch, pixels: Tensor) -> Embeddings:
    """The stock backbone once, all heads from it; it keeps every layer's states."""
    backbone = tower.bridgetower
    out = backbone(input_ids=batch.ids, attention_mask=batch.mask, pixel_values=pixels)
    words, seen, _ = out.hidden_states
    moved = backbone.cross_modal_image_transform(backbone.vision_model.visual.forward_post(seen[-1]))
    image = tower.itc_image_head((moved + backbone.token_type_embeddings.weight[1])[:, 0].float())
    text = tower.itc_text_head(words[-1][:, 0].float())
    # The poolers are float32 here, as everywhere in ours.
    pooled = backbone.get_cls_features(out.text_features.float(), out.image_features.float())
    cross = normalize(tower.itc_cross_modal_head(pooled), dim=-1)
    return _result(normalize(image, dim=-1), normalize(text, dim=-1), cross, tower.itm_score(pooled))


def staged(stages: Any, tower: BridgeTower, batch: Batch) -> Embeddings:
    """Our pass on tensors that are on the device already."""
    text, images = stages.encode_text(batch.ids, batch.mask), stages.encode_images(batch.pixels)
    fused = stages.fuse(text, images, torch.arange(len(batch), device=batch.of.device), batch.of)
    image = images.embedding.index_select(0, batch.of)
    return _result(image, text.embedding, tower.cross_embedding(fused), tower.itm_logits(fused))


@contextmanager
def sdpa(tower: BridgeTower) -> Iterator[None]:
    """The stock layers with SDPA, and not causal, as they would be wherever no token is padded."""
    touched = [
        m for m in tower.modules() if isinstance(m, stock.BridgeTowerSelfAttention | stock.BridgeTowerCrossAttention)
    ]
    before = [(m, m.is_causal, m.config._attn_implementation) for m in touched]
    for module in touched:
        module.is_causal, module.config._attn_implementation = False, "sdpa"
    try:
        yield
    finally:
        for module, causal, kind in before:
            module.is_causal, module.config._attn_implementation = causal, kind


def flops_a_pair(size: str, case: Case) -> float:
    """Multiplications and additions of our pass, counted without computing."""
    shape = Model(size, "meta").shape
    with torch.device("meta"):
        tower = BridgeTower(shape).eval().to("meta")
        ids = torch.zeros(case.captions, case.tokens, dtype=torch.int64)
        pairs, side = torch.zeros(case.captions, dtype=torch.int64), shape.vision_config.image_size
        pixels = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tower.fuse(tower.encode_text(ids, torch.ones_like(ids)), tower.encode_images(pixels), pairs, pairs)
    return float(counter.get_total_flops()) / case.captions


def shift(found: Embeddings, wanted: Embeddings) -> dict[str, float]:
    """How far a result is from the documentation's: largest error, lowest cosine, shift of the matching score."""
    vectors = ("image", "text", "cross")
    errors = [np.abs(getattr(found, name) - getattr(wanted, name)).max() for name in vectors]
    cosines = [(getattr(found, name) * getattr(wanted, name)).sum(-1).min() for name in vectors]
    itm = np.abs(found.itm_score - wanted.itm_score).max()
    return {"error": float(max(errors)), "cosine": float(min(cosines)), "itm": float(itm)}


def first(found: Embeddings, pairs: int) -> Embeddings:
    """The results of the first pairs."""
    return Embeddings(*(column[:pairs] for column in found[:5]))


def _result(image: Tensor, text: Tensor, cross: Tensor, logits: Tensor) -> Embeddings:
    itm = logits.float().softmax(-1)[:, 1]
    columns: Callable[[Tensor], Any] = lambda x: x.float().cpu().numpy()  # noqa: E731
    itc = (image.float() * text.float()).sum(-1)
    return Embeddings(columns(image), columns(text), columns(cross), columns(itc), columns(itm))
