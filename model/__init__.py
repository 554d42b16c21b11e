"""BridgeTower: which checkpoint, its preprocessing, its staged forward pass. No Ray, no Lance here.

Importing this package, `model.spec` or `model.prepare` does not import torch; `load` does.
"""

from typing import TYPE_CHECKING

from model.blank import Blank
from model.errors import ModelError
from model.extras import Extras
from model.spec import ModelSpec, resolve

if TYPE_CHECKING:
    from model.bridgetower import BridgeTower
    from model.encoder import Encoder
    from model.prepare import Preparer

__all__ = ["Blank", "Extras", "ModelError", "ModelSpec", "load", "load_for_batches", "resolve"]


def load(
    spec: ModelSpec, device: str = "cpu", dtype: str = "float32", heads: tuple[str, ...] = ("itc", "itm")
) -> "Encoder":
    """Load a checkpoint strictly and ready for use.

    Args:
        spec: what `resolve` gave; fetched once per node, its weights' hash checked.
        device: a torch device, such as "cpu" or "cuda".
        dtype: "float32" or "bfloat16" for the backbone, "fp8" for its linear layers in float8 and the rest in
            bfloat16, "auto" for what of the first two the device computes fastest in; poolers and heads are
            always float32.
        heads: which of "itc", "itm" and "mlm" the checkpoint must have; it may have the others too.

    Raises:
        ModelError: no such checkpoint or device, a head missing, weights that do not fit, other weights
            or preprocessing than `resolve` found.
    """
    from model.encoder import Encoder

    return Encoder(*_loaded(spec, device, dtype, heads))


def _loaded(
    spec: ModelSpec, device: str, dtype: str, heads: tuple[str, ...], extras: Extras | None = None
) -> "tuple[BridgeTower, Preparer]":
    from model.checkpoint import check_dtype, load_tower, on_device
    from model.prepare import Preparer

    check_dtype(dtype)
    folder = spec.fetch()
    preparer = spec.check(Preparer.from_folder(folder))
    tower = load_tower(folder, preparer, heads)
    if extras and not extras.blank:
        tower.mlm_score = None  # of `large` 52 million weights, in each actor
    packs = not (extras and extras.compiles(device))  # torch.compile cannot lower packed layers
    return on_device(tower, device, dtype, packs=packs), preparer


def load_for_batches(
    spec: ModelSpec, device: str, dtype: str, batch_size: int, gpu_share: float, extras: Extras | None = None
) -> "Encoder":
    """Load a checkpoint to embed millions of pairs: within its share of a GPU, and compiled for it.

    Args:
        spec: what `resolve` gave.
        device: "cpu" or "cuda".
        dtype: as for `load`.
        batch_size: pictures, and pairs, in a call; 0 lets the first batches find the best.
        gpu_share: of the GPU's memory that this process may fill.
        extras: what is asked of it beside the vectors; nothing unless given.

    Raises:
        ModelError: as `load`.
    """
    import os
    import sys

    import torch
    from platformdirs import user_cache_path

    from model.encoder import Encoder
    from model.hardware import cap_memory

    extras = extras or Extras()
    if extras.compiles(device):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(user_cache_path("bridgelake") / "compiled"))
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        cap_memory(gpu_share, total, torch.cuda.set_per_process_memory_fraction)
    heads = ("itc", "itm", "mlm") if extras.blank else ("itc", "itm")
    encoder = Encoder(*_loaded(spec, device, dtype, heads, extras), batch_size, extras.blank)
    if batch_size == 0:
        encoder.find_micro_batch()
    if extras.compiles(device) and (seconds := encoder.compile()):
        print(f"note: compiled in {seconds:.0f} s; it is kept for the next start", file=sys.stderr)
    return encoder
