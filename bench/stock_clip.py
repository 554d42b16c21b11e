"""The peer for image and text vectors alone: clip-retrieval's inference; in an environment of its own.

.venv-clip-retrieval/bin/python -m bench.stock_clip --shards DIR --model DIR --output DIR --marks DIR

What `clip-retrieval inference` runs, with its own settings but for the batch, which is as large as ours. Its worker
finds a ClipMapper that leaves a mark of each of its calls; nothing else is touched. The model is loaded by `hf_clip:`
from a folder, without a hub.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from bench.marks import leave

_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
try:
    import torchvision  # noqa: F401
except RuntimeError:
    # PyPI's is compiled for CUDA. Beside a torch for CPUs it ends at two operators for boxes, which nobody needs here;
    # once they are declared it goes on without what it has compiled.
    for name in ("nms", "qnms"):
        _OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from clip_retrieval.clip_inference import main, mapper, worker  # noqa: E402


def marking(folder: Path) -> type[mapper.ClipMapper]:
    """clip-retrieval's mapper, with marks."""

    class Marking(mapper.ClipMapper):
        def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
            began = time.perf_counter()
            found: dict[str, Any] = super().__call__(item)
            leave(folder, time.perf_counter() - began, len(item["text"]))
            return found

    return Marking


def infer(options: argparse.Namespace) -> None:
    """Read tars, embed, write."""
    options.marks.mkdir(parents=True)
    worker.ClipMapper = marking(options.marks)
    tars = sorted(options.shards.iterdir())
    main.main(
        input_dataset=f"{options.shards}/{{{tars[0].stem}..{tars[-1].stem}}}.tar",
        input_format="webdataset",
        output_folder=str(options.output),
        clip_model=f"hf_clip:{options.model}",
        batch_size=options.batch_size,
        wds_number_file_per_input_file=options.batch_size,
        enable_wandb=False,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("shards", "model", "output", "marks"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--batch_size", type=int, default=64)
    infer(parser.parse_args())
