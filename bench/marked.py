"""A model of which each call leaves a mark, as `bench.ends` hands it to a run."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.marks import leave
from pipeline.calls import Inputs
from pipeline.embed import Embedder, Embeddings, Footprint, MakeEmbedder, Model, Pixels


class Marked:
    """An embedder that leaves a mark of each call, but for those in which an actor tries it out."""

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self._embedder, self._folder = embedder, folder

    @property
    def dtype(self) -> str:
        """As `pipeline.embed.Embedder`, like the others."""
        return self._embedder.dtype

    def footprint(self) -> Footprint:
        """As the embedder's."""
        return self._embedder.footprint()

    def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> Embeddings:
        """As the embedder's."""
        return self._embedder.embed(pixels, token_ids, image_of)

    def embed_each(self, calls: Iterable[Inputs]) -> Iterator[tuple[Embeddings, float]]:
        """As the embedder's, with a mark of each."""
        for found, seconds in self._embedder.embed_each(calls):
            leave(self._folder, seconds, len(found.itc_score))
            yield found, seconds

    def embed_exactly(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> Embeddings:
        """As the embedder's."""
        return self._embedder.embed_exactly(pixels, token_ids, image_of)


def marked(model: Model, folder: Path) -> Model:
    """The same model, whose embedders leave marks in a folder."""
    folder.mkdir(parents=True)
    return replace(model, make_embedder=partial(_marking, model.make_embedder, folder))


def _marking(
    make: MakeEmbedder, folder: Path, device: str, dtype: str, batch_size: int, gpu_share: float = 1.0
) -> Marked:
    return Marked(make(device, dtype, batch_size, gpu_share), folder)
