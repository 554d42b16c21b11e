"""A text query: the text tower alone beside the stock forward pass, and a loaded model's whole answer."""

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import BridgeTowerConfig, BridgeTowerForContrastiveLearning

from bridgelake import Lake
from demo import run as demo
from demo.scenes import COLOURS, SHAPES
from model.bridgetower import BridgeTower

TOKENS = 20


def seconds(calls: list[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Wall seconds of each call, in turn, after a round that is not counted."""
    found: list[list[float]] = [[] for _ in calls]
    for number in range(repeats + 1):
        for call, took in zip(calls, found, strict=True):
            began = time.perf_counter()
            call()
            if number:
                took.append(time.perf_counter() - began)
    return found


@torch.inference_mode()
def text_tower(repeats: int) -> dict[str, Any]:
    """One caption of 20 tokens, base size, random weights, float32, one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = BridgeTowerConfig(contrastive_hidden_size=512, logit_scale_init_value=2.6592)
    tower, stock = BridgeTower(shape).eval(), BridgeTowerForContrastiveLearning(shape).eval()
    stock.load_state_dict(tower.state_dict(), strict=False)
    side = shape.vision_config.image_size
    ids = torch.from_numpy(np.random.default_rng(0).integers(5, shape.text_config.vocab_size, (1, TOKENS)))
    mask, pixels = torch.ones_like(ids), torch.zeros(1, 3, side, side)

    def alone() -> torch.Tensor:
        return normalize(tower.text_embedding(ids, mask), dim=-1)

    def whole() -> torch.Tensor:
        vector: torch.Tensor = stock(input_ids=ids, attention_mask=mask, pixel_values=pixels).text_embeds
        return vector

    apart = float((alone() - whole()).abs().max())
    full, text = seconds([whole, alone], repeats)
    return {
        "stock_seconds": full,
        "text_seconds": text,
        "ratio": round(median(full) / median(text), 1),
        "ratio_of_least": round(min(full) / min(text), 1),
        "apart": apart,
    }


def answers(count: int) -> dict[str, Any]:
    """The demo's model and table: words -> vector, search, rows; milliseconds of each of `count` questions."""
    os.chdir(demo.ROOT)
    demo.pack_once()
    if demo.embed():
        raise SystemExit("the demo's table could not be made")
    lake = Lake(str(demo.LAKE))
    asked = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES][:count]
    lake.search(asked[0])  # loads the model
    took = []
    for words in asked:
        began = time.perf_counter()
        hits = lake.search(words)
        hits.to_list()
        took.append((time.perf_counter() - began) * 1e3)
    p50, p95 = np.percentile(took, [50, 95])
    times = {"p50_ms": float(p50), "least_ms": min(took), "p95_ms": float(p95)}
    return {"questions": len(took), **{what: round(time_, 1) for what, time_ in times.items()}}
