"""The peer: Ray Data as its documentation does it, with the stock classes, into a Lance table; in a process of its own.

python -m bench.stock_ray --shards DIR --model DIR --table DIR.lance --marks DIR

It is given what Ray Data can read: clean tars of JPEGs with one caption each. `Dataset.write_lance` of this Ray fails
with a TypeError, so the rows are written by lance-ray.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance_ray
import numpy as np
import pyarrow as pa
import ray
import torch
import tyro
from transformers import (
    BridgeTowerForContrastiveLearning,
    BridgeTowerForImageAndTextRetrieval,
    BridgeTowerProcessor,
)

from bench.marks import leave


@dataclass(frozen=True)
class Options:
    """What is run."""

    shards: Path
    model: Path
    table: Path
    marks: Path
    batch_size: int = 64
    actors: int = 1
    """Each reserves a CPU, as Ray has it; several share one, so that one is left to read."""


class Embed:
    """The callable class: both stock classes and their processor, a batch at a time."""

    def __init__(self, checkpoint: str, marks: Path) -> None:
        self._processor = BridgeTowerProcessor.from_pretrained(checkpoint)
        self._itc = BridgeTowerForContrastiveLearning.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self._itm = BridgeTowerForImageAndTextRetrieval.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self._marks = marks

    @torch.inference_mode()
    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """A batch of pictures and captions -> rows as a table of ours has them."""
        began = time.perf_counter()
        pictures, captions = list(batch["jpg"]), [str(text) for text in batch["txt"]]
        inputs = self._processor(pictures, captions, padding=True, truncation=True, return_tensors="pt")
        itc, itm = self._itc(**inputs), self._itm(**inputs)
        columns = {"key": pa.array(list(batch["__key__"])), "caption": pa.array(captions)}
        for name in ("image", "text", "cross"):
            vectors = getattr(itc, f"{name}_embeds").numpy().astype(np.float16)
            flat = pa.array(vectors.reshape(-1))
            columns[f"{name}_embedding"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        columns["itc_score"] = pa.array((itc.image_embeds * itc.text_embeds).sum(-1).numpy())
        columns["itm_score"] = pa.array(itm.logits.softmax(-1)[:, 1].numpy())
        leave(self._marks, time.perf_counter() - began, len(captions))
        return pa.table(columns)


def main(options: Options) -> None:
    """Read, embed, write."""
    options.marks.mkdir(parents=True)
    ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    embedded = ray.data.read_webdataset(str(options.shards)).map_batches(
        Embed,
        fn_constructor_args=(str(options.model), options.marks),
        batch_size=options.batch_size,
        compute=ray.data.ActorPoolStrategy(size=options.actors),
        num_cpus=1 / options.actors,
    )
    lance_ray.write_lance(embedded, str(options.table))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
