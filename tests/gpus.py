"""An encoder whose GPU is a fake: what it is handed goes to a function, and what comes of it can be nothing."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from model.bridgetower import BridgeTower
from model.embedding import Embeddings
from model.encoder import Encoder
from tests.checkpoints import config


def encoder_of(queue: Callable[..., Any]) -> Encoder:
    """An encoder that hands its calls to this, as to `Embedding.queue`."""
    made = Encoder(BridgeTower(config()), SimpleNamespace(size=64))  # type: ignore[arg-type]
    made._embedding = SimpleNamespace(queue=queue)  # type: ignore[assignment]
    return made


def nothing(pairs: int) -> Embeddings:
    """Of so many pairs; only their number is to be looked at."""
    return Embeddings(*[np.empty((pairs, 1))] * 3, *[np.empty(pairs)] * 2)
