"""What the demo checkpoint understands of unseen scenes, from the checkpoint alone.

`python demo/evaluate.py` loads it as it would load any checkpoint of the hub, draws two series of 1,000
scenes that training never drew, and prints each figure beside its limit. Exit code 1: a limit was missed.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait lose on a busy machine
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python demo/evaluate.py` puts demo/ there

import model
from demo.measure import Figures, measure

SEEDS = (101, 102)
LIMITS = Figures(
    itc_r1=0.95,
    itc_r10=0.99,
    reranked_r1=0.97,
    auc_colours=0.98,
    auc_shapes=0.98,
    auc_relation=0.98,
    masked_colour=0.99,
    masked_shape=0.88,
)
MEANINGS = {
    "itc_r1": "text to image, R@1 by ITC",
    "itc_r10": "text to image, R@10 by ITC",
    "reranked_r1": "R@1 after an ITM rerank of the top 20",
    "auc_colours": "ITM AUC, colours swapped",
    "auc_shapes": "ITM AUC, shapes swapped",
    "auc_relation": "ITM AUC, relation inverted",
    "masked_colour": "masked colour words right",
    "masked_shape": "masked shape words right",
}


def missed(figures: Figures) -> list[str]:
    """Names of the figures below their limits."""
    return [name for name, limit in asdict(LIMITS).items() if getattr(figures, name) < limit]


def table(found: dict[int, Figures], scenes: int) -> str:
    """The figures of all series side by side."""
    lines = [f"{f'{scenes} unseen scenes':<40}{'limit':>7}" + "".join(f"{f'seed {seed}':>10}" for seed in found)]
    for name, limit in asdict(LIMITS).items():
        values = "".join(f"{getattr(figures, name):10.4f}" for figures in found.values())
        lines.append(f"{MEANINGS[name]:<40}{limit:>7}{values}")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure a checkpoint on unseen scenes.")
    parser.add_argument("--model", default=str(Path(__file__).with_name("checkpoint")), help="folder, URL or hub id")
    parser.add_argument("--scenes", type=int, default=1000, help="scenes in a series (default 1000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="series of scenes (default 101 102)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser.parse_args()


def main() -> int:
    """Measure, print, and say by the exit code whether the limits are kept."""
    args = arguments()
    encoder = model.load(model.resolve(args.model), args.device, heads=("itc", "itm", "mlm"))
    found = {seed: measure(encoder.tower, encoder.preparer, seed, args.scenes) for seed in args.seeds}
    below = {seed: missed(figures) for seed, figures in found.items()}
    if args.json:
        series = {str(seed): asdict(figures) for seed, figures in found.items()}
        print(json.dumps({"scenes": args.scenes, "limits": asdict(LIMITS), "figures": series, "missed": below}))
    else:
        print(table(found, args.scenes))
    for seed, names in below.items():
        for name in names:
            value, limit = getattr(found[seed], name), getattr(LIMITS, name)
            print(f"seed {seed}: {MEANINGS[name]} is {value:.4f}, below the limit {limit}", file=sys.stderr)
    return 1 if any(below.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
