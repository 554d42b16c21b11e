"""What `--tags` costs: the same pictures embedded with and without, on the CPU, beside the counted operations.

    python -m bench.tags --repeats 3

The demo's checkpoint, and `base` with random weights and a vocabulary of as many words; one thread, in the type that
this CPU computes fastest in. Both are computed in turn, so that a busy machine disturbs them alike.
"""

import statistics
import time
from dataclasses import dataclass

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

import model
from bench.hardware import hardware
from bench.waterfall import Batch, Case, Model, flops_a_pair
from bridgelake import DEFAULT_MODEL
from model import Blank
from model.bridgetower import BridgeTower
from model.checkpoint import on_device
from model.embedding import Embedding
from model.hardware import best_dtype
from model.tags import Tagger

TOKENS = 20
BLANK = Blank("a photo of a <mask>", 5)


@dataclass(frozen=True)
class Options:
    """What the benchmark takes."""

    sizes: tuple[str, ...] = ("demo", "base")
    """demo, base, large, or tiny for a quick look."""
    captions: tuple[int, ...] = (1, 5)
    """An image."""
    pairs: int = 8
    """Of base in one call; of the demo 32 times as many."""
    repeats: int = 3
    """Timed rounds; medians are reported."""


class Vocabulary:
    """Stands in for a preparer: every token is a word, and the prompt has as many tokens as Roberta's."""

    def __init__(self, size: int) -> None:
        self.tokens = range(size)

    def text(self, ids: list[int]) -> str:
        """Another word for each token."""
        return " x" + "".join(chr(ord("a") + int(digit)) for digit in str(ids[0]))

    def token(self, text: str) -> int:
        """Of the mask."""
        return 4

    def captions(self, texts: list[str]) -> list[tuple[list[int], bool]]:
        """Both ends, four words and the mask."""
        return [([0, 10, 11, 12, 13, 4, 2], False) for _ in texts]


def operations(size: str) -> tuple[float, float]:
    """GFLOP of a pair without tags, and more of them for a picture's, counted without computing."""
    shape = Model(size, "meta").shape
    with torch.device("meta"):
        tower, side = BridgeTower(shape).eval(), shape.vision_config.image_size
        tagger = Tagger(tower.to("meta"), Vocabulary(shape.text_config.vocab_size), BLANK)
        with torch.inference_mode():
            images = tower.encode_images(torch.zeros(1, 3, side, side, dtype=torch.uint8))
            with FlopCounterMode(display=False) as counter:
                tagger(tower, images)
    return flops_a_pair(size, Case(TOKENS, 1)) / 1e9, counter.get_total_flops() / 1e9


def rates(size: str, captions: int, options: Options) -> tuple[float, float, float]:
    """Pairs per CPU-second without and with tags, and the share of time that they add: medians of the rounds."""
    if size == "demo":
        whole = model.load(model.resolve(DEFAULT_MODEL), "cpu", "auto", ("itc", "itm", "mlm"))
        tower, preparer, pairs = whole.tower, whole.preparer, 32 * options.pairs
    else:
        tower, pairs = on_device(Model(size, "cpu").tower, "cpu", "auto"), options.pairs
        preparer = Vocabulary(tower.config.text_config.vocab_size)
    pictures = max(1, pairs // captions)
    batch = Batch.random(tower.config, Case(TOKENS, captions), pictures, "cpu")
    given = batch.squares, batch.token_ids.tolist(), batch.image_of, 64
    both, times = (Embedding(tower), Embedding(tower, Tagger(tower, preparer, BLANK))), ([], [])
    for number in range(options.repeats + 1):
        for embedding, took in zip(both, times, strict=True):
            began = time.process_time()
            embedding(*given)
            if number:
                took.append(time.process_time() - began)
    plain, tagged = (len(batch) / statistics.median(took) for took in times)
    return plain, tagged, statistics.median(b / a for a, b in zip(*times, strict=True)) - 1


def main(options: Options) -> None:
    """Measure each size with each number of captions."""
    torch.set_num_threads(1)
    print(f"{hardware()}; {TOKENS} tokens, one thread, {best_dtype('cpu')}; {BLANK.words} tags", flush=True)
    for size in options.sizes:
        if size != "demo":
            pair, more = operations(size)
            print(f"{size}: {pair:.1f} GFLOP a pair of one caption, tags of a picture {more:.1f} more", flush=True)
        for captions in options.captions:
            plain, tagged, more = rates(size, captions, options)
            said = f"{plain:8.2f} pairs/CPU-s, with tags {tagged:8.2f}: {more:+.0%} time"
            print(f"{size}, {captions} captions an image: {said}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
