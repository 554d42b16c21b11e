"""One run of ours that leaves marks, or its model alone on ready tensors; each in a process of its own.

python -m bench.whole run --shards DIR --model DIR --db DIR --marks DIR
python -m bench.whole alone --shards DIR --model DIR --marks DIR --calls 2

Ready tensors are the squares and token ids of the first shard, as the run's readers prepare them.
"""

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tyro

import model
from bench.marked import marked
from bench.marks import leave
from bridgelake.wiring import as_model
from pipeline.config import VECTORS, EmbedConfig, ReadConfig, RunConfig, WriteConfig
from pipeline.embed import Pixels, Preparer
from pipeline.prepare import prepare_slice
from pipeline.run import Run
from pipeline.schema import Kind
from pipeline.watch.progress import observer
from tests.shards import whole

PICTURES = EmbedConfig().pictures  # in a call
_WARM = 8


@dataclass(frozen=True)
class Options:
    """What is run."""

    what: tyro.conf.Positional[Literal["run", "alone"]]
    shards: Path
    model: Path
    marks: Path
    db: Path = Path("lake")
    """Of the run."""
    dtype: Literal["auto", "float32"] = "auto"
    vectors: str = ",".join(VECTORS)
    """Of the run, with commas."""
    pictures: int = PICTURES
    """In a call of the run."""
    calls: int = 2
    """Of the model alone, after a small one that warms up."""


def run(options: Options) -> None:
    """As the main job with its usual settings but for these, without a report."""
    write = WriteConfig(str(options.db), vectors=tuple(options.vectors.split(",")))
    embed = EmbedConfig(options.pictures, device="cpu", dtype=options.dtype)
    config = RunConfig(ReadConfig((str(options.shards),)), write, embed)
    noted = marked(as_model(model.resolve(str(options.model))), options.marks)
    summary = Run(config, noted, observer(io.StringIO())).start()
    if summary.outcome != "done" or summary.rejects:
        raise SystemExit(f"{summary.outcome}, rejects {summary.rejects}")


def alone(options: Options) -> None:
    """What the run's actor computes, without the run: the same pictures and captions, prepared before."""
    made = as_model(model.resolve(str(options.model)))
    pixels, token_ids = ready(sorted(options.shards.iterdir())[0], made.make_preparer())
    embedder = made.make_embedder("cpu", options.dtype, PICTURES)
    options.marks.mkdir(parents=True)
    for count in (_WARM, *[len(pixels)] * options.calls):
        began = time.perf_counter()
        embedder.embed(pixels[:count], token_ids[:count], list(range(count)))
        leave(options.marks, time.perf_counter() - began, count)


def ready(shard: Path, preparer: Preparer) -> tuple[Pixels, list[list[int]]]:
    """The first call's pictures and token ids of a shard with one caption a picture."""
    rows = pa.concat_tables(prepare_slice(whole(shard), "a", ReadConfig((str(shard),)), preparer))
    samples = rows.filter(pc.equal(rows["kind"], Kind.SAMPLE)).slice(0, PICTURES).to_pylist()
    squares = [np.frombuffer(one["pixels"], np.uint8) for one in samples]
    side = round((len(squares[0]) / 3) ** 0.5)
    return np.stack(squares).reshape(-1, side, side, 3), [one["captions"][0]["token_ids"] for one in samples]


if __name__ == "__main__":
    given = tyro.cli(Options, description=__doc__)
    {"run": run, "alone": alone}[given.what](given)
