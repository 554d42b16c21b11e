"""What the device can do: the type that it computes fastest in, and how much of a GPU this process may fill."""

import resource
import sys
from collections.abc import Callable

import torch

_BEYOND = 2**30  # bytes that CUDA itself takes of a GPU for each process, outside of what torch counts
_FLOAT8 = (8, 9)  # the first compute capability that multiplies it: Ada, then Hopper and later


def best_dtype(device: str, *, amx: bool | None = None, avx512: bool | None = None) -> str:
    """bfloat16 where the hardware multiplies it, else float32.

    Args:
        device: a torch device.
        amx: whether this CPU has AMX tiles; looked up unless told.
        avx512: whether this CPU has AVX512-BF16; looked up unless told.
    """
    if torch.device(device).type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        amx = torch.cpu._is_amx_tile_supported() if amx is None else amx
        fast = amx or (torch.cpu._is_avx512_bf16_supported() if avx512 is None else avx512)
    return "bfloat16" if fast else "float32"


def lacks_float8(device: str, capability: tuple[int, int] | None = None) -> str:
    """What the device is, if it does not multiply float8; empty if it does.

    Args:
        device: a torch device.
        capability: of the GPU; looked up unless told.
    """
    if torch.device(device).type != "cuda":
        return "a CPU"
    major, minor = capability or torch.cuda.get_device_capability(device)
    return "" if (major, minor) >= _FLOAT8 else f"a GPU of compute capability {major}.{minor}"


def cap_memory(share: float, total: int, cap: Callable[[float], None]) -> float:
    """Keep torch within this process's share of a GPU, so that what another process computes there goes on.

    Out of memory then means that the share is full, whoever else is there.

    Args:
        share: of the GPU, as Ray gave it to the actor.
        total: the GPU's bytes.
        cap: what sets the limit, a fraction of them.

    Returns:
        The fraction.
    """
    fraction = max(0.05, min(1.0, share) - _BEYOND / total)
    cap(fraction)
    return fraction


def memory_held(device: str) -> int:
    """Bytes that this process has needed at most: of the GPU, with what CUDA itself takes, else of the machine."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_reserved() + _BEYOND
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # Linux counts in KiB
