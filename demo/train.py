"""Train the demo checkpoint: ITC, ITM with hard negatives and MLM on drawn scenes.

    python demo/train.py --out FIRST
    python demo/train.py --start-from FIRST --pool 14000 --pool-three 18000 --out demo/checkpoint

From nothing on scenes of two objects, then on from there with scenes of three among them. Seeded. The
log has one line per progress report; the checkpoint so far is written beside each.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import asdict
from math import cos, pi
from pathlib import Path
from typing import TextIO

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait lose on a busy machine
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python demo/train.py` puts demo/ there

import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import BridgeTowerConfig

from demo.architecture import write_preprocessing
from demo.data import Batch, Batcher, Pool
from demo.losses import Losses, ScaffoldLoss, losses, tower_losses
from demo.measure import measure
from demo.place import random_scene
from demo.scaffold import Scaffold, weight
from model.bridgetower import BridgeTower
from model.prepare import Preparer

POOL_SEED, BATCH_SEED, PROGRESS_SEED = 1_000_003, 1_000_033, 1_000_037  # evaluation and shards use others
WARMUP = 150
TOWERS = 0.6  # of the steps are the towers' alone: they cost a third of a whole one
HIGHEST_SCALE = 4.6  # e^4.6 is about 100, CLIP's limit

Step = Callable[[BridgeTower, Batch, ScaffoldLoss], Losses]


def learning_rate(step: int, progress: float, peak: float) -> float:
    """A short linear warm-up, the peak while the towers learn alone, then a cosine to 2% of it."""
    whole = min(max((progress - TOWERS) / (1 - TOWERS), 0.0), 1.0)
    return peak * min(1.0, (step + 1) / WARMUP) * (0.02 + 0.98 * (1 + cos(pi * whole)) / 2)


def percent_canonical(progress: float) -> int:
    """How many captions of a hundred name the left or upper object first.

    Relation word times order of mention is an XOR, which a model does not find when both vary freely
    from the start: it begins with one order, and meets the other little by little.
    """
    return round(90 - 40 * min(max((progress - 0.1) / 0.3, 0.0), 1.0))


def save(model: BridgeTower, folder: Path) -> None:
    """The weights in float16, readable by all (safetensors writes them readable by the owner alone)."""
    deepcopy(model).to(torch.float16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def start_from(model: BridgeTower, folder: Path) -> None:
    """Take over the weights of an earlier checkpoint; words that it did not know keep their fresh ones."""
    fresh = model.state_dict()
    for name, known in load_file(folder / "model.safetensors").items():
        if known.ndim:
            fresh[name][: len(known)] = known
        else:
            fresh[name].copy_(known)


class Training:
    """One run: the model, its optimiser, the batches, and how far it is."""

    def __init__(self, args: argparse.Namespace, prepare: Preparer, pool: Pool) -> None:
        self.args, self.prepare = args, prepare
        torch.manual_seed(args.seed)
        self.model = BridgeTower(BridgeTowerConfig.from_pretrained(args.out)).to(args.device)
        if args.start_from:
            start_from(self.model, args.start_from)
        self.scaffold = Scaffold(self.model).to(args.device)
        learnt = [*self.model.parameters(), *self.scaffold.parameters()]
        decayed = [p for p in learnt if p.ndim >= 2]
        others = [p for p in learnt if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=True)
        self.batcher = Batcher(pool, prepare, args.batch, BATCH_SEED + args.seed)
        self.started = time.monotonic()

    def progress(self, step: int) -> float:
        """From 0 to 1, by steps or, if that is further, by the minutes allowed."""
        minutes = (time.monotonic() - self.started) / 60
        return float(max(step / self.args.steps, minutes / self.args.minutes))

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(torch.device(self.args.device).type, dtype=torch.bfloat16)

    def step(self, step: int) -> Losses:
        """One batch, one update."""
        progress = self.progress(step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, progress, self.args.lr)
        kind: Step = tower_losses if progress < TOWERS else losses
        canonical = percent_canonical(1 if self.args.start_from else progress)
        batch = self.batcher.batch(canonical).to(self.args.device)
        # PyTorch's fused attention for CPUs spends half of the step in its backward pass in bfloat16.
        with self._autocast(), sdpa_kernel(SDPBackend.MATH):
            found = kind(
                self.model, batch, lambda text, images: weight(progress) * self.scaffold.loss(text, images, batch)
            )
        self.optimizer.zero_grad()
        found.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=HIGHEST_SCALE)
        return found

    def report(self, step: int, found: Losses, log: TextIO) -> None:
        """One line of the log: losses of this step, and figures on 400 unseen scenes of each kind."""
        self.model.eval()
        kinds = {2: "figures", 3: "figures_three"} if self.args.pool_three else {2: "figures"}
        figures = {name: self.figures(objects) for objects, name in kinds.items()}
        self.model.train()
        line = {
            "step": step,
            "seconds": round(time.monotonic() - self.started),
            "learning_rate": round(self.optimizer.param_groups[0]["lr"], 6),
            "losses": {name: round(value.item(), 4) for name, value in vars(found).items()},
        } | figures
        print(json.dumps(line), file=log, flush=True)
        print(json.dumps(line), flush=True)
        save(self.model, self.args.out)

    def figures(self, objects: int) -> dict[str, float]:
        """What the model understands of unseen scenes of so many objects, without the rerank."""
        scenes = [random_scene(PROGRESS_SEED, index, objects) for index in range(400)]
        figures = asdict(measure(self.model, self.prepare, PROGRESS_SEED, scenes, rerank=0))
        return {name: round(value, 4) for name, value in figures.items() if name != "reranked_r1"}

    def run(self, log: TextIO) -> None:
        """Train to the end."""
        self.model.train()
        reported, step = 0.0, 0
        found = self.step(step)
        while self.progress(step) < 1:
            step += 1
            found = self.step(step)
            if self.progress(step) - reported >= 1 / self.args.reports:
                reported = self.progress(step)
                self.report(step, found, log)
        self.report(step, found, log)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the demo checkpoint.")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--log", type=Path, default=Path("training_log.jsonl"), help="where the log goes")
    parser.add_argument("--start-from", type=Path, help="folder of an earlier checkpoint (default: from nothing)")
    parser.add_argument("--steps", type=int, default=6000, help="of the whole training")
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="end earlier, schedule and all")
    parser.add_argument("--batch", type=int, default=64, help="pictures a step")
    parser.add_argument("--pool", type=int, default=20_000, help="pairs of scenes of two objects to draw")
    parser.add_argument("--pool-three", type=int, default=0, help="and of three objects")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reports", type=int, default=12, help="lines of the log")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    """Draw the scenes, train, save."""
    args = arguments()
    prepare = write_preprocessing(args.out)
    began = time.monotonic()
    pairs = {2: args.pool, 3: args.pool_three}
    pool = Pool.drawn(args.out, pairs, POOL_SEED + args.seed, os.cpu_count() or 1)
    print(f"drew {len(pool.scenes)} scenes in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    with args.log.open("w", encoding="utf-8") as log:
        Training(args, prepare, pool).run(log)


if __name__ == "__main__":
    main()
