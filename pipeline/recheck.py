"""Changed shards are read once more, without decoding: many were only copied or touched, and need no model."""

from collections.abc import Sequence

import ray

from pipeline.config import ReadConfig
from pipeline.errors import ShardError
from pipeline.read import Fingerprint, read_slice
from pipeline.shards import Slice


def _fingerprint(slice_: Slice, config: ReadConfig) -> str | None:
    fingerprint = Fingerprint()
    try:
        for _ in read_slice(slice_, config, fingerprint):
            pass
    except ShardError:
        return None  # the run will read it again and say why
    return str(fingerprint)


def fingerprints(slices: Sequence[Slice], config: ReadConfig) -> dict[str, str]:
    """Slice name -> fingerprint of what it holds now, of those that can be read to their end."""
    task = ray.remote(num_cpus=1, max_retries=3)(_fingerprint)
    found = ray.get([task.remote(slice_, config) for slice_ in slices])
    return {s.name: f for s, f in zip(slices, found, strict=True) if f is not None}
