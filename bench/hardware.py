"""What a benchmark ran on, in one line."""

import os
import platform
from pathlib import Path

import torch


def hardware() -> str:
    """Processor, cores that this process may use, and the versions that matter."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    cores = len(os.sched_getaffinity(0))
    return f"{name}, {cores} cores, Python {platform.python_version()}, torch {torch.__version__}"
