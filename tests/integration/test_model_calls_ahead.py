"""A GPU is handed the next call before the last one's results are used; GPU and results are fakes."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from model.embedding import Embeddings
from model.encoder import Encoder
from model.errors import DeviceLostError
from tests.gpus import encoder_of, nothing

FOUND = nothing(4)


class Gpu:
    """Notes what is asked of it; at a call of more than `most` pictures its memory is out."""

    def __init__(self, most: int = 64) -> None:
        self.log: list[str] = []
        self.most = most
        self.lost: RuntimeError | None = None

    def queue(self, pixels: Any, ids: Any, of: Any, size: int) -> Any:
        number = int(pixels[0, 0, 0, 0])
        if number and size > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        self.log.append(f"queue {number} by {size}")

        def wait() -> tuple[Embeddings, float]:
            if self.lost:
                raise self.lost
            self.log.append(f"wait {number}")
            return FOUND, 0.5

        return SimpleNamespace(wait=wait)

    def calls(self, count: int) -> Iterator[tuple[Any, list[list[int]], range]]:
        for number in range(count):
            self.log.append(f"make {number}")
            yield np.full((4, 64, 64, 3), number, dtype=np.uint8), [[1]] * 4, range(4)


def encoder(gpu: Gpu, device: str, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.setattr(Encoder, "device", torch.device(device))
    return encoder_of(gpu.queue)


def run(gpu: Gpu, encoder: Encoder, count: int) -> list[str]:
    for found, seconds in encoder.embed_each(gpu.calls(count)):
        assert (found, seconds) == (FOUND, 0.5)
        gpu.log.append("use")
    return gpu.log


def test_gpu_has_its_next_call_while_results_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    assert run(gpu, encoder(gpu, "cuda", monkeypatch), 3) == [
        "make 0", "queue 0 by 64", "make 1", "queue 1 by 64", "wait 0", "use",
        "make 2", "queue 2 by 64", "wait 1", "use", "wait 2", "use",
    ]  # fmt: skip


def test_cpu_is_done_with_a_call_before_the_next_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    wanted = ["make 0", "queue 0 by 64", "wait 0", "use", "make 1", "queue 1 by 64", "wait 1", "use"]
    assert run(gpu, encoder(gpu, "cpu", monkeypatch), 2) == wanted


def test_calls_are_not_handed_over_ahead_while_the_best_size_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    searching = encoder(gpu, "cuda", monkeypatch)
    searching.find_micro_batch()
    assert run(gpu, searching, 2)[:4] == ["make 0", "queue 0 by 8", "wait 0", "use"]


def test_memory_that_is_out_for_a_call_does_not_cost_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(most=16)
    log = run(gpu, encoder(gpu, "cuda", monkeypatch), 2)
    assert log == ["make 0", "queue 0 by 64", "make 1", "queue 1 by 16", "wait 0", "use", "wait 1", "use"]


@pytest.mark.parametrize("why", ["an illegal memory access was encountered", "out of memory"])
def test_gpu_that_is_lost_while_its_results_are_waited_for_is_told_as_such(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu()
    gpu.lost = RuntimeError(f"CUDA error: {why}")
    lost = encoder(gpu, "cuda", monkeypatch)
    with pytest.raises(DeviceLostError, match=why):
        run(gpu, lost, 2)
    assert lost.micro_batch == 64


def test_nothing_to_embed_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    assert run(gpu, encoder(gpu, "cuda", monkeypatch), 0) == []
