"""What a device reaches alone: how fast it multiplies large matrices, and copies. A part of `bench.gpu`."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import ScalingType, scaled_mm

from model.hardware import lacks_float8


def ceiling(device: str, side: int) -> dict[str, float]:
    """What this device reaches alone: bfloat16 TFLOP/s, and GB/s of copies to it and within it."""
    one = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    product = _best(lambda: one @ one, device)
    there = torch.empty(side * side * 2, dtype=torch.uint8, device=device)
    here = torch.empty_like(there, device="cpu")
    here = here.pin_memory() if device == "cuda" else here
    to = _best(lambda: there.copy_(here, non_blocking=True), device)
    within = _best(there.clone, device)
    found = {
        "bf16_tflops": 2 * side**3 / product / 1e12,
        "to_device_gb_s": len(there) / to / 1e9,
        "within_device_gb_s": 2 * len(there) / within / 1e9,
    }
    if not lacks_float8(device):
        small, scale, by_row = one.to(torch.float8_e4m3fn), torch.ones(side, 1, device=device), ScalingType.RowWise
        product = _best(
            lambda: scaled_mm(small, small.t(), scale, by_row, scale.t(), by_row, use_fast_accum=True), device
        )
        found["fp8_tflops"] = 2 * side**3 / product / 1e12
    return found


def _best(call: Callable[[], Any], device: str, repeats: int = 20) -> float:
    call()
    return min(seconds(call, device) for _ in range(repeats))


def seconds(call: Callable[[], Any], device: str) -> float:
    """That a call takes, to the end of what it starts on the device."""
    _wait(device)
    began = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
