"""The micro-batch that the first batches find, alone and beside another process on one GPU; GPU and clock are fakes."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from model.encoder import Encoder
from model.errors import ModelError
from model.hardware import cap_memory
from model.search import Search
from tests.gpus import encoder_of, nothing

GIB = 2**30
PICTURE = GIB // 2  # what one picture of a call fills


class Gpu:
    """80 GiB. As with torch, a process keeps what it once had; over its limit it is told that memory is out."""

    total = 80 * GIB

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.limits: dict[str, float] = {}

    def allocate(self, process: str, size: int) -> None:
        others = sum(held for name, held in self.held.items() if name != process)
        if size > self.limits.get(process, 1.0) * self.total or size + others > self.total:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        self.held[process] = max(self.held.get(process, 0), size)


class Machine:
    """Encoders that take no time but the clock's: 10 ms a call and 1 ms a picture, more when a call is too large."""

    def __init__(self, slow_from: int = 1024) -> None:
        self.gpu, self.now, self.slow_from = Gpu(), 0.0, slow_from

    def process(self, name: str) -> Encoder:
        def queue(pixels: Any, ids: Any, of: Any, size: int) -> Any:
            began = self.now
            size = min(size, len(pixels))
            self.gpu.allocate(name, size * PICTURE)
            calls = -(-len(pixels) // size)
            self.now += 0.01 * calls + 0.001 * len(pixels) * (2 if size >= self.slow_from else 1)
            found, seconds = nothing(len(of)), self.now - began
            return SimpleNamespace(wait=lambda: (found, seconds))

        made = encoder_of(queue)
        made.find_micro_batch()
        return made


def batch(encoder: Encoder, pictures: int = 256) -> int:
    encoder.embed(np.zeros((pictures, 64, 64, 3), dtype=np.uint8), [[1]] * pictures, range(pictures))
    return encoder.micro_batch


def test_search_doubles_while_batches_get_faster_and_then_keeps_the_best() -> None:
    encoder = Machine(slow_from=128).process("one")
    assert [batch(encoder) for _ in range(17)] == [8] * 2 + [16] * 3 + [32] * 3 + [64] * 3 + [128] * 3 + [64] * 3


def test_search_ends_at_the_most_that_a_batch_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gpu, "total", 1000 * GIB)
    encoder = Machine().process("one")
    assert {batch(encoder) for _ in range(30)} == {8, 16, 32, 64, 128, 256}
    assert batch(encoder) == 256


def test_search_ends_where_memory_is_out_and_does_not_try_again() -> None:
    encoder = Machine().process("one")  # 160 pictures fit
    sizes = [batch(encoder) for _ in range(30)]
    assert sizes[-10:] == [128] * 10
    assert encoder._search is not None
    assert encoder._search.settled


def test_search_learns_nothing_from_a_batch_that_does_not_fill_a_call() -> None:
    search = Search()
    assert [search.after(8, 5, 5, 0.001) for _ in range(5)] == [8] * 5
    assert search.rates == {}


def test_search_learns_of_calls_that_a_reject_leaves_not_quite_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gpu, "total", 1000 * GIB)
    encoder = Machine(slow_from=255).process("one")
    assert [batch(encoder, 255) for _ in range(30)][-10:] == [128] * 10


def test_two_processes_that_probe_on_one_gpu_do_not_kill_each_other() -> None:
    machine = Machine()
    one, other = machine.process("one"), machine.process("other")
    for name in ("one", "other"):
        cap_memory(0.5, Gpu.total, lambda fraction, name=name: machine.gpu.limits.update({name: fraction}))
    for _ in range(30):
        batch(one)
    for _ in range(30):
        batch(other)
        batch(one)
    assert (one.micro_batch, other.micro_batch) == (64, 64)  # 78 fit into half of the GPU, less what CUDA takes
    assert sum(machine.gpu.held.values()) <= Gpu.total


def test_two_processes_without_a_cap_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gpu, "total", 64 * GIB)
    machine = Machine()
    one, other = machine.process("one"), machine.process("other")
    for _ in range(30):
        batch(one)
    with pytest.raises(ModelError, match="the GPU cannot hold a call of one picture"):
        batch(other)


@pytest.mark.parametrize(("share", "fraction"), [(1.0, 1 - 1 / 80), (0.5, 0.5 - 1 / 80), (0.01, 0.05)])
def test_cap_is_the_share_less_what_cuda_takes_itself(share: float, fraction: float) -> None:
    said: list[float] = []
    assert cap_memory(share, Gpu.total, said.append) == pytest.approx(fraction)
    assert said == [pytest.approx(fraction)]
