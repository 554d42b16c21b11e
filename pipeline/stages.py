"""The stages as Ray Data runs them: slices -> prepared samples (CPU tasks) -> embedded blocks (actors)."""

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from pipeline.cluster import Placement
from pipeline.config import EmbedConfig, ReadConfig
from pipeline.embed import Embedder, Model, Stored, embed_batch
from pipeline.prepare import prepare_slice
from pipeline.shards import Slice

_MOST_BLOCKS = 3000  # input blocks of a dataset; more cost the driver seconds
_CALLS = 4  # model calls' worth of pictures for an actor at once: Ray leaves a rest each time, which then weighs little
_BLOCK_BYTES = 16 * 2**20


class EmbedActor:
    """Ray Data's embedding stage: one model, kept for all batches."""

    def __init__(self, model: Model, placement: Placement, stored: Stored, batch_size: int) -> None:
        self._embedder: Embedder = model.make_embedder(placement.device, placement.dtype, batch_size)
        self._stored = stored
        self._batch_size = batch_size

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A few model calls; what they embed may be of any slices."""
        return embed_batch(batch, self._embedder, self._stored, self._batch_size)


def read_stage(block: pa.Table, config: ReadConfig, model: Model) -> Iterator[pa.Table]:
    """Ray Data's reading stage: slices in, prepared samples out, as a stream."""
    preparer = model.make_preparer()
    for row in block.to_pylist():
        slice_ = pickle.loads(row["slice"])  # noqa: S301  # pickled by this run's own driver
        yield from prepare_slice(slice_, row["attempt"], config, preparer)


def prepared(
    slices: Mapping[str, Slice], stored: Stored, config: ReadConfig, model: Model, placement: Placement
) -> Dataset:
    """Prepared samples of all slices, by attempt, as a stream."""
    items = [{"attempt": attempt, "slice": pickle.dumps(slice_)} for attempt, slice_ in slices.items()]
    with _settings():
        blocks = ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_BLOCKS))
    return blocks.map_batches(
        read_stage,
        fn_kwargs={"config": replace(config, keep=stored.keep), "model": model},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=placement.reader_cpus,
    )


@contextmanager
def _settings() -> Iterator[None]:
    """Ray Data's settings for the datasets made inside; they keep them, and nobody else gets them."""
    context = DataContext.get_current()
    kept = context.enable_progress_bars, context.target_max_block_size
    context.enable_progress_bars = False
    context.target_max_block_size = _BLOCK_BYTES  # else a block waits for 128 MB of pictures
    try:
        yield
    finally:
        context.enable_progress_bars, context.target_max_block_size = kept


def embedded(samples: Dataset, config: EmbedConfig, model: Model, placement: Placement, stored: Stored) -> Dataset:
    """Embedded pairs, rejects and end records, as a stream."""
    return samples.map_batches(
        EmbedActor,
        fn_constructor_kwargs={
            "model": model,
            "placement": placement,
            "stored": stored,
            "batch_size": config.batch_size,
        },
        batch_size=config.batch_size * _CALLS,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1, max_size=placement.actors, initial_size=placement.actors),
        num_cpus=placement.num_cpus,
        num_gpus=placement.num_gpus or None,
    )
