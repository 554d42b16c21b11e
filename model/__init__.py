"""BridgeTower: which checkpoint, its preprocessing, its staged forward pass. No Ray, no Lance here.

Importing this package, `model.spec` or `model.prepare` does not import torch; `load` does.
"""

from typing import TYPE_CHECKING

from model.errors import ModelError
from model.spec import ModelSpec, resolve

if TYPE_CHECKING:
    from model.encoder import Encoder

__all__ = ["ModelError", "ModelSpec", "load", "resolve"]


def load(
    spec: ModelSpec, device: str = "cpu", dtype: str = "float32", heads: tuple[str, ...] = ("itc", "itm")
) -> "Encoder":
    """Load a checkpoint strictly and ready for use.

    Args:
        spec: what `resolve` gave; fetched once per node, its weights' hash checked.
        device: a torch device, such as "cpu" or "cuda".
        dtype: "float32" or "bfloat16" for the backbone; poolers and heads are always float32.
        heads: which of "itc", "itm" and "mlm" the checkpoint must have; it may have the others too.

    Raises:
        ModelError: no such checkpoint or device, a head missing, weights that do not fit, other weights
            or preprocessing than `resolve` found.
    """
    from model.checkpoint import load_tower, on_device
    from model.encoder import Encoder
    from model.prepare import Preparer

    folder = spec.fetch()
    preparer = spec.check(Preparer.from_folder(folder))
    return Encoder(on_device(load_tower(folder, preparer, dtype, heads), device), preparer)
