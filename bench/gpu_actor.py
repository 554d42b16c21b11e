"""The model as an actor has it, with random weights: `bench.gpu` feeds it, and runs two of it on one GPU."""

from collections.abc import Iterable, Iterator

import numpy as np

from bench.gpu_feed import preparer_of
from bench.waterfall import Model
from model.checkpoint import on_device
from model.encoder import Encoder
from model.geometry import Geometry
from model.prepare import Pixels

_TOKENS = 20  # of each picture's one caption


class Actor:
    """An encoder in bfloat16, where the device is quick in it, and pictures with a caption each."""

    def __init__(self, size: str, device: str, pictures: int, compiled: bool) -> None:
        model = Model(size, device)
        side = model.shape.vision_config.image_size
        self.geometry = Geometry(shortest=side, crop=side)
        tower = on_device(model.tower, device, "auto", packs=not compiled)
        self.encoder = Encoder(tower, preparer_of(self.geometry), pictures)
        rng, known = np.random.default_rng(0), model.shape.text_config.vocab_size
        self.noise: Pixels = rng.integers(0, 256, (pictures, side, side, 3), dtype=np.uint8)
        self._token_ids = rng.integers(5, known, (pictures, _TOKENS)).tolist()
        self.seconds = self.encoder.compile() if compiled else 0.0  # to compile

    def embed(self, batches: Iterable[Pixels]) -> Iterator[object]:
        """Batches one after another, as a run hands them over; each is done when it is given back."""
        return self.encoder.embed_each((squares, self._token_ids, range(len(squares))) for squares in batches)
