"""One staged pass against the documentation's loop, on the CPU: pairs per second of one thread.

    python -m bench.model --size base --pairs 8 --repeats 3

Random weights: the work is the same, and no checkpoint is needed. The baseline is what transformers'
documentation of BridgeTower shows: a pair at a time through BridgeTowerForContrastiveLearning for the
embeddings and through BridgeTowerForImageAndTextRetrieval for the matching score.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
import tyro
from transformers import (
    BridgeTowerConfig,
    BridgeTowerForContrastiveLearning,
    BridgeTowerForImageAndTextRetrieval,
)

from bench.hardware import hardware
from model.bridgetower import BridgeTower

SIZES: dict[str, dict[str, Any]] = {
    "base": {},
    "small": {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4},
}
NARROW = {"hidden_size": 256, "num_hidden_layers": 4}
TOKENS = 20


@dataclass(frozen=True)
class Options:
    """What the benchmark takes."""

    size: str = "base"
    """base, or small for a quick look."""
    pairs: int = 8
    """Pairs in one batch."""
    repeats: int = 3
    """Timed repeats; medians are reported."""
    json: bool = False
    """Print one machine-readable object."""


def config(size: str) -> BridgeTowerConfig:
    """BridgeTower of a size, with the heads' sizes that the class leaves open."""
    towers = {} if size == "base" else NARROW
    return BridgeTowerConfig(
        **SIZES[size],
        contrastive_hidden_size=512,
        logit_scale_init_value=2.6592,
        text_config={**towers, **({} if size == "base" else {"num_attention_heads": 4, "intermediate_size": 1024})},
        vision_config=towers,
    )


class Pass:
    """The same pairs through the staged pass and through the stock classes."""

    def __init__(self, options: Options) -> None:
        torch.manual_seed(0)
        self.pairs = options.pairs
        shape = config(options.size)
        self.tower = BridgeTower(shape).eval()
        state = self.tower.state_dict()
        self.stock = [
            kind(shape).eval() for kind in (BridgeTowerForContrastiveLearning, BridgeTowerForImageAndTextRetrieval)
        ]
        for one in self.stock:
            one.load_state_dict(state, strict=False)
        side = shape.vision_config.image_size
        rng = np.random.default_rng(0)
        self.pixels = torch.from_numpy(rng.integers(0, 256, (self.pairs, 3, side, side), dtype=np.uint8))
        self.ids = torch.from_numpy(rng.integers(5, shape.text_config.vocab_size, (self.pairs, TOKENS)))
        self.mask = torch.ones_like(self.ids)

    def documentation(self) -> None:
        """A pair at a time, through both classes."""
        for i in range(self.pairs):
            index = self.pixels[i : i + 1].long()
            pixel_values = torch.stack([self.tower.levels[c][index[:, c]] for c in range(3)], dim=1)
            for one in self.stock:
                one(input_ids=self.ids[i : i + 1], attention_mask=self.mask[i : i + 1], pixel_values=pixel_values)

    def staged(self) -> None:
        """All pairs at once, every head from one pass."""
        text, images = self.tower.encode_text(self.ids, self.mask), self.tower.encode_images(self.pixels)
        pairs = torch.arange(self.pairs)
        fused = self.tower.fuse(text, images, pairs, pairs)
        self.tower.cross_embedding(fused)
        self.tower.itm_logits(fused)


def seconds(call: Callable[[], None], repeats: int) -> list[float]:
    """Wall seconds of each repeat, after one that is not counted."""
    call()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found


def main(options: Options) -> None:
    """Measure both in turn, print medians and the ratio."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with torch.inference_mode():
        both = Pass(options)
        loop, staged = (seconds(call, options.repeats) for call in (both.documentation, both.staged))
    rates = {name: options.pairs / statistics.median(times) for name, times in (("loop", loop), ("staged", staged))}
    ratio = rates["staged"] / rates["loop"]
    print(f"{hardware()}; {options.size}, {options.pairs} pairs of {TOKENS} tokens, float32, one thread")
    print(f"documentation's loop  {rates['loop']:.2f} pairs/s   (seconds {', '.join(f'{t:.2f}' for t in loop)})")
    print(f"staged pass           {rates['staged']:.2f} pairs/s   (seconds {', '.join(f'{t:.2f}' for t in staged)})")
    print(f"ratio                 {ratio:.2f}")
    if options.json:
        print(json.dumps({"hardware": hardware(), "rates": rates, "ratio": ratio, "loop": loop, "staged": staged}))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
