"""The staged pass against transformers' documentation, on the CPU: pairs per CPU-second of one thread, as a waterfall.

    python -m bench.model --size base --repeats 3

Each round computes every bar once, so that a busy machine disturbs all of them alike; gains are medians over the
rounds. The baseline is what the documentation shows: a pair at a time through BridgeTowerForContrastiveLearning for
the embeddings and through BridgeTowerForImageAndTextRetrieval for the matching score.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import torch
import transformers
import tyro

from bench.hardware import hardware
from bench.waterfall import Batch, Case, Model, first, one_backbone, sdpa, shift, staged
from model.embedding import Embeddings
from model.hardware import best_dtype
from model.packed import can_pack, pack

TOKENS = 20
LOOP = "documentation's loop"
ROUGH = "+ bfloat16"


@dataclass(frozen=True)
class Options:
    """What the benchmark takes."""

    size: str = "base"
    """base, large, or tiny for a quick look."""
    pictures: int = 4
    """In one call with one caption each; fewer with more, for as many pairs."""
    captions: tuple[int, ...] = (1, 5)
    """An image; one waterfall for each."""
    repeats: int = 3
    """Timed rounds; medians are reported."""
    json: bool = False
    """Print one machine-readable object."""


class Bar(NamedTuple):
    """One technique more than the bar before."""

    name: str
    run: Callable[[], Embeddings]
    pairs: int


def bars(model: Model, case: Case, pictures: int) -> list[Bar]:
    """The waterfall of a case; bfloat16 only where the CPU multiplies it."""
    batch = Batch.random(model.shape, case, pictures, "cpu")
    loop, tower = batch.head(1), model.tower
    pixels, alone = batch.normal(tower), loop.normal(tower)

    def with_sdpa() -> Embeddings:
        with sdpa(tower):
            return one_backbone(tower, batch, pixels)

    found = [
        Bar(LOOP, lambda: model.loop(loop, alone), len(loop)),
        Bar("a batch at a time", lambda: model.both(batch, pixels), len(batch)),
        Bar("one backbone", lambda: one_backbone(tower, batch, pixels), len(batch)),
        Bar("+ SDPA", with_sdpa, len(batch)),
        Bar("+ shared, first tokens, no states kept", lambda: staged(tower, tower, batch), len(batch)),
    ]
    for name, dtype in (("+ weights packed for the CPU", torch.float32), (ROUGH, torch.bfloat16)):
        if can_pack(dtype) and (dtype == torch.float32 or best_dtype("cpu") == "bfloat16"):
            mine = deepcopy(tower)
            pack(mine.bridgetower, dtype)
            mine.cast(dtype)
            found.append(Bar(name, lambda mine=mine: staged(mine, mine, batch), len(batch)))
    return found


def waterfall(found: list[Bar], repeats: int) -> dict[str, list[float]]:
    """CPU seconds a pair of each bar in each round, after one that is checked and not counted."""
    wanted = found[0].run()
    for bar in found[1:]:
        off = shift(first(bar.run(), len(wanted.text)), wanted)
        if off["error"] > 1e-5 and not (bar.name == ROUGH and off["cosine"] > 0.999):
            raise SystemExit(f"{bar.name}: not what the documentation's loop computes: {off}")
    times: dict[str, list[float]] = {bar.name: [] for bar in found}
    for _ in range(repeats):
        for bar in found:
            began = time.process_time()
            bar.run()
            times[bar.name].append((time.process_time() - began) / bar.pairs)
    return times


def gain(times: dict[str, list[float]], slow: str, fast: str) -> float:
    """How many times as fast, the median over the rounds."""
    return statistics.median(s / f for s, f in zip(times[slow], times[fast], strict=True))


def main(options: Options) -> None:
    """Measure one caption an image and five; print the waterfalls."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    out = sys.stderr if options.json else sys.stdout
    print(f"{hardware()}; {options.size}, {TOKENS} tokens, one thread", file=out, flush=True)
    model, whole = Model(options.size, "cpu"), {}
    for captions in options.captions:
        with torch.inference_mode():
            pictures = -(-options.pictures // captions)
            times = waterfall(bars(model, Case(TOKENS, captions), pictures), options.repeats)
        print(f"{captions} captions an image{'':20} pairs/CPU-s    gain   of the loop", file=out)
        before = LOOP
        for name, seconds in times.items():
            rate = 1 / statistics.median(seconds)
            shown = f"x{gain(times, before, name):6.2f}   x{gain(times, LOOP, name):6.2f}"
            print(f"  {name:<40} {rate:9.3f}   {shown}", file=out, flush=True)
            before = name
        if ROUGH not in times:
            print(f"  {ROUGH:<40} not measured: this CPU has neither AVX512-BF16 nor AMX", file=out)
        whole[str(captions)] = times
    if options.json:
        print(json.dumps({"hardware": hardware(), "size": options.size, "cpu_seconds_a_pair": whole}))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
