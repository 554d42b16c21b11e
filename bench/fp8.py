"""What bfloat16 and float8 cost in accuracy, beside float32: vectors, matching scores and retrieval of drawn scenes.

    python -m bench.fp8

On a CPU, where torch multiplies the same rounded numbers and sums them in float32. What float8 gains in speed, and
what a GPU's own sums change, only `bench.gpu` on a GPU tells.
"""

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from bench.drawn import checkpoint
from bench.hardware import hardware
from bridgelake import DEFAULT_MODEL
from demo.draw import draw
from demo.evaluate import MEANINGS
from demo.measure import measure
from demo.pack import sample
from demo.place import random_scene
from model.checkpoint import DTYPES, load_tower
from model.embedding import Embeddings
from model.encoder import Encoder
from model.fp8 import quantise
from model.prepare import Preparer

SEED = 101  # of scenes that the demo's training never drew


@dataclass(frozen=True)
class Options:
    """What the benchmark takes."""

    scenes: int = 1000
    """Of the demo checkpoint; and so many of two objects and of three for its retrieval."""
    size: str = "base"
    """With random weights: base, large, or tiny for a quick look."""
    random: int = 32
    """Scenes for those."""
    json: bool = False
    """Print one machine-readable object."""


def encoder(folder: Path, dtype: str) -> Encoder:
    """As a GPU computes in a type: `model.load` lays weights out for this CPU, and refuses float8 on it."""
    preparer = Preparer.from_folder(folder)
    tower = load_tower(folder, preparer, ("itc", "itm")).cast(DTYPES[dtype])
    if dtype == "fp8":
        quantise(tower.bridgetower)
    return Encoder(tower, preparer)


def embedded(by: Encoder, scenes: int) -> Embeddings:
    """Each picture with its own caption and with that of the next, which is most often false of it."""
    drawn = [sample(SEED, index, "") for index in range(scenes)]
    pixels = np.stack([by.preparer.picture(draw(one.scene)) for one in drawn])
    own = [ids for ids, _ in by.preparer.captions([one.captions[0] for one in drawn])]
    ids = [one for pair in zip(own, own[1:] + own[:1], strict=True) for one in pair]
    return by.embed(pixels, ids, np.arange(scenes).repeat(2).tolist())


def apart(found: Embeddings, exact: Embeddings) -> dict[str, float]:
    """Cosines of each kind of vector, mean and least; shifts of the matching score, mean, one in 100, and largest."""
    told = {}
    for name in ("image", "text", "cross"):
        cosine = (getattr(found, name).astype(np.float64) * getattr(exact, name)).sum(-1)
        told |= {f"{name} mean": float(cosine.mean()), f"{name} least": float(cosine.min())}
    shift = np.abs(found.itm_score - exact.itm_score)
    return told | {
        "itm mean": float(shift.mean()),
        "itm p99": float(np.quantile(shift, 0.99)),
        "itm": float(shift.max()),
    }


def compare(folder: Path, scenes: int, out: Any) -> dict[str, dict[str, float]]:
    """How far bfloat16 and float8 are from float32, with one checkpoint; printed as it is found."""
    exact, found = embedded(encoder(folder, "float32"), scenes), {}
    for dtype in ("bfloat16", "fp8"):
        off = found[dtype] = apart(embedded(encoder(folder, dtype), scenes), exact)
        vectors = "  ".join(f"{v} {off[f'{v} mean']:.6f} {off[f'{v} least']:.6f}" for v in ("image", "text", "cross"))
        score = f"itm_score {off['itm mean']:.5f} {off['itm p99']:.5f} {off['itm']:.5f}"
        print(f"  {dtype:<9} {vectors}  {score}", file=out, flush=True)
    return found


def retrieval(folder: Path, scenes: int, out: Any) -> dict[str, dict[str, dict[str, float]]]:
    """What the demo checkpoint understands of unseen scenes in each type: objects -> type -> figures."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for objects in (2, 3):
        seen = [random_scene(SEED, index, objects) for index in range(scenes)]
        each = found[str(objects)] = {}
        for dtype in DTYPES:
            by = encoder(folder, dtype)
            each[dtype] = asdict(measure(by.tower, by.preparer, SEED, seen))
        print(f"{f'{scenes} unseen scenes of {objects} objects':<40}" + "".join(f"{t:>10}" for t in each), file=out)
        for name, meaning in MEANINGS.items():
            print(
                f"{meaning:<40}" + "".join(f"{figures[name]:10.4f}" for figures in each.values()), file=out, flush=True
            )
    return found


def main(options: Options) -> None:
    """Measure and print."""
    out = sys.stderr if options.json else sys.stdout
    print(f"{hardware()}; cosines to float32, mean and least; shifts of itm_score, mean, p99, largest", file=out)
    whole: dict[str, Any] = {"hardware": hardware(), **asdict(options)}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        print(f"{options.size}, random weights, {2 * options.random} pairs", file=out, flush=True)
        whole[options.size] = compare(checkpoint(Path(folder), options.size), options.random, out)
        print(f"demo, {2 * options.scenes} pairs", file=out, flush=True)
        whole["demo"] = compare(Path(DEFAULT_MODEL), options.scenes, out)
        whole["retrieval"] = retrieval(Path(DEFAULT_MODEL), options.scenes, out)
    if options.json:
        print(json.dumps(whole))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
