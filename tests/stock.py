"""What transformers' own three classes say about a checkpoint: the values that `model` must equal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import (
    BridgeTowerForContrastiveLearning,
    BridgeTowerForImageAndTextRetrieval,
    BridgeTowerForMaskedLM,
)

import model
from model.encoder import Embeddings, Encoder
from tests.checkpoints import processor

Values = npt.NDArray[np.float32]
CLASSES = {
    "itc": BridgeTowerForContrastiveLearning,
    "itm": BridgeTowerForImageAndTextRetrieval,
    "mlm": BridgeTowerForMaskedLM,
}


class StockOutput(NamedTuple):
    """One batch of pairs through the classes of the heads that were asked for; else None."""

    image: Values | None = None
    text: Values | None = None
    cross: Values | None = None
    itm: Values | None = None  # logits (P, 2)
    mlm: Values | None = None  # logits (P, L, vocabulary)


class Stock:
    """The stock classes, each loaded by its own `from_pretrained`, and the stock processor."""

    def __init__(self, folder: Path, heads: Sequence[str] = ("itc", "itm", "mlm")) -> None:
        self.processor = processor(folder)
        self.models: dict[str, Any] = {
            head: CLASSES[head].from_pretrained(folder, dtype=torch.float32).eval() for head in heads
        }

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image], texts: Sequence[str]) -> StockOutput:
        """Picture i with caption i, padded to one batch."""
        inputs = self.processor(list(images), list(texts), padding=True, truncation=True, return_tensors="pt")
        values: dict[str, Values] = {}
        if "itc" in self.models:
            out = self.models["itc"](**inputs)
            values |= {name: getattr(out, f"{name}_embeds").numpy() for name in ("image", "text", "cross")}
        for head in ("itm", "mlm"):
            if head in self.models:
                values[head] = self.models[head](**inputs).logits.numpy()
        return StockOutput(**values)


def load(folder: Path, *heads: str, dtype: str = "float32") -> Encoder:
    """What `model` makes of a checkpoint folder; with ITC and ITM unless heads are named."""
    return model.load(model.resolve(str(folder)), dtype=dtype, heads=heads or ("itc", "itm"))


def squares(encoder: Encoder, images: list[Image.Image]) -> npt.NDArray[np.uint8]:
    return np.stack([encoder.preparer.picture(image) for image in images])


def ids(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    return [tokens for tokens, _ in encoder.preparer.captions(texts)]


def embedded(encoder: Encoder, images: list[Image.Image], texts: list[str]) -> Embeddings:
    return encoder.embed(squares(encoder, images), ids(encoder, texts), range(len(texts)))


@torch.inference_mode()
def logits(encoder: Encoder, images: list[Image.Image], texts: list[str]) -> StockOutput:
    text = encoder._encode_text(ids(encoder, texts))
    pairs = torch.arange(len(texts))
    states = encoder._encode_images(squares(encoder, images))
    fused = encoder.tower.fuse(text, states, pairs, pairs, every_token=True)
    return StockOutput(itm=encoder.tower.itm_logits(fused).numpy(), mlm=encoder.tower.mlm_logits(fused).numpy())


def assert_embeddings_equal(ours: Embeddings, theirs: StockOutput) -> None:
    for name in ("image", "text", "cross"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-5, err_msg=name)


def assert_parity(encoder: Encoder, stock: Stock, images: list[Image.Image], texts: list[str]) -> None:
    """Picture i with caption i: embeddings within 1e-5 of the stock classes', logits within 1e-4."""
    theirs, ours = stock(images, texts), logits(encoder, images, texts)
    np.testing.assert_allclose(ours.itm, theirs.itm, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.mlm, theirs.mlm, rtol=0, atol=1e-4)
    scores = np.diag(encoder.match(squares(encoder, images), texts))
    np.testing.assert_allclose(scores, torch.tensor(theirs.itm).softmax(-1)[:, 1], rtol=0, atol=1e-5)
    if "itc" in stock.models:
        found = embedded(encoder, images, texts)
        assert_embeddings_equal(found, theirs)
        np.testing.assert_allclose(found.itc_score, (theirs.image * theirs.text).sum(-1), rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.itm_score, scores, rtol=0, atol=1e-6)
