"""The stages as Ray Data runs them: slices -> prepared samples (CPU tasks) -> embedded blocks (actors)."""

import pickle
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from PIL import Image
from ray.data import ActorPoolStrategy, DataContext, Dataset

from pipeline.barred import Barred
from pipeline.cluster import Placement
from pipeline.config import EmbedConfig, ReadConfig
from pipeline.embed import DeviceLostError, Embedder, Model, Preparer, embed_batch, require_sane
from pipeline.errors import ClusterError
from pipeline.prepare import prepare_slice
from pipeline.shards import Slice
from pipeline.stored import Stored
from pipeline.watch.pulse import EMBEDDING, READING, Line, Teller, here

_MOST_BLOCKS = 3000  # input blocks of a dataset; more cost the driver seconds
_CALLS = 8  # model calls' worth of rows for an actor at once: Ray leaves a rest each time, which then weighs little
_MOST_ROWS = 2048  # for an actor at once: half a gigabyte of squares of 294 pixels
_BLOCK_BYTES = 16 * 2**20
_NODE = "ray.io/node-id"  # Ray's label


class EmbedActor:
    """Ray Data's embedding stage: one model, kept for all batches."""

    def __init__(self, model: Model, placement: Placement, stored: Stored, config: EmbedConfig, line: Line) -> None:
        self._line = line
        self._teller = Teller(line, EMBEDDING)
        self._stored = stored
        self._pictures = config.pictures
        try:
            size = 0 if config.batch_size == "auto" else config.batch_size
            share = min(1.0, placement.num_gpus)
            self._embedder = model.make_embedder(placement.device, placement.dtype, size, share)
            _try_out(self._embedder, model.make_preparer())
            compiled = self._embedder.footprint().compiled
        except DeviceLostError as error:
            line.gone(error)
        except Exception as error:  # whatever a checkpoint or a device raises: the node is named
            raise ClusterError(f"the model cannot be used on node {here()}: {error}") from error
        line.started(compiled)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A few model calls; what they embed may be of any slices."""
        first = batch.select(["slice", "attempt", "position"]).slice(0, 1)
        slice_, *where = next(zip(*first.to_pydict().values(), strict=True), ("", ""))
        try:
            with self._teller.at(" ".join(map(str, where)), slice_):
                return embed_batch(batch, self._embedder, self._stored, self._pictures, self._teller.further)
        except DeviceLostError as error:
            self._line.gone(error)


def _try_out(embedder: Embedder, preparer: Preparer) -> None:
    """Embed a grey picture, before any of the user's."""
    pixels = preparer.picture(Image.new("RGB", (64, 64), "grey"))
    ((token_ids, _),) = preparer.captions(["a grey square"])
    require_sane(embedder.embed(pixels[None], [token_ids], [0]))


def read_stage(block: pa.Table, config: ReadConfig, model: Model, line: Line, barred: Barred) -> Iterator[pa.Table]:
    """Ray Data's reading stage: slices in, prepared samples out, as a stream."""
    preparer, teller = model.make_preparer(), Teller(line, READING)
    try:
        for row in block.to_pylist():
            slice_: Slice = pickle.loads(row["slice"])  # noqa: S301  # pickled by this run's own driver
            done = 0
            with teller.at(row["attempt"], slice_.name):
                for table in prepare_slice(slice_, row["attempt"], config, preparer, barred):
                    yield table
                    done += len(table)
                    teller.further(done)
    finally:
        teller.close()


@dataclass(frozen=True, slots=True)
class Crew:
    """Who does the work: how it is laid out, the line to the pulse, and what readers and actors are."""

    placement: Placement
    line: Line
    reader: Callable[..., Iterator[pa.Table]] = read_stage
    actor: type[EmbedActor] = EmbedActor
    homes: Callable[[], Collection[str]] = frozenset  # ids of the nodes with actors, as far as they are known


def prepared(slices: Mapping[str, Slice], config: ReadConfig, model: Model, crew: Crew, barred: Barred) -> Dataset:
    """Prepared samples of all slices, by attempt, as a stream; but not what was taken down."""
    items = [{"attempt": attempt, "slice": pickle.dumps(slice_)} for attempt, slice_ in slices.items()]
    with _settings():
        blocks = ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_BLOCKS))
    return blocks.map_batches(
        crew.reader,
        fn_kwargs={"config": config, "model": model, "line": crew.line, "barred": barred},  # Ray stores them once
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=crew.placement.reader_cpus,
        ray_remote_args_fn=_near(crew.homes) if crew.placement.near else None,
        # No limit, as without it; but Ray runs two stages with equal options as one, in the actors.
        max_calls=0,
    )


def _near(homes: Callable[[], Collection[str]]) -> Callable[[], dict[str, Any]]:
    """Ray's options for the next reader: on a node with actors if it has a CPU to spare, else on any.

    What is decoded there does not cross the network: Ray Data hands a block to an actor on its node first.
    """

    def options() -> dict[str, Any]:
        if not (nodes := ",".join(sorted(homes()))):
            return {}
        return {"label_selector": {_NODE: f"in({nodes})"}, "fallback_strategy": [{"label_selector": {}}]}

    return options


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


def pictures_at_once(config: EmbedConfig, size: int) -> int:
    """About how many pictures of so many bytes an actor is given at once."""
    return max(_rows(config.pictures), _BLOCK_BYTES // size)


def _rows(pictures: int) -> int:
    """At least so many, where so many go into a call."""
    return max(pictures, min(pictures * _CALLS, _MOST_ROWS // pictures * pictures))


def embedded(samples: Dataset, config: EmbedConfig, model: Model, crew: Crew, stored: Stored) -> Dataset:
    """Embedded pairs, rejects and end records, as a stream."""
    placement = crew.placement
    stream = samples.map_batches(
        crew.actor,
        fn_constructor_kwargs={
            "model": model,
            "placement": placement,
            "stored": stored,
            "config": config,
            "line": crew.line,
        },
        batch_size=_rows(config.pictures),
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1, max_size=placement.most_actors, initial_size=placement.actors),
        num_cpus=placement.num_cpus,
        num_gpus=placement.num_gpus or None,
    )
    stream.set_name("bridgelake")  # in Ray's dashboard, and in the tags of its own metrics
    return stream
