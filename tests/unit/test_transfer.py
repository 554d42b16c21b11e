"""Pictures on their way to the GPU; its streams and events are fakes that write down what happens."""

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from model import transfer
from model.hardware import best_dtype, lacks_float8
from model.transfer import Copy, InPlace, Part, Pinned, ahead, copier


def parts(count: int) -> Iterator[Part]:
    for i in range(count):
        yield np.full((2, 4, 4, 3), i, dtype=np.uint8), np.arange(2)


class Noting:
    """Notes each start and each wait."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def start(self, part: Part) -> Copy:
        self.log.append(f"start {part[0].flat[0]}")
        return Copy(torch.from_numpy(part[0]), None)

    def wait(self, copy: Copy) -> torch.Tensor:
        self.log.append(f"wait {int(copy.there[0, 0, 0, 0])}")
        return copy.there

    back = InPlace.back


def test_two_parts_are_copied_ahead_of_the_one_that_is_computed() -> None:
    noting = Noting()
    for there in ahead(parts(4), noting):
        noting.log.append(f"compute {int(there[0, 0, 0, 0])}")
    assert noting.log == [
        "start 0", "start 1", "start 2", "wait 0", "compute 0", "start 3", "wait 1", "compute 1",
        "wait 2", "compute 2", "wait 3", "compute 3",
    ]  # fmt: skip


def test_parts_for_the_cpu_are_not_copied() -> None:
    given = list(parts(3))
    for (pixels, _), there in zip(given, ahead(given, copier(torch.device("cpu"))), strict=True):
        assert there.data_ptr() == pixels.ctypes.data


def test_of_some_pictures_those_are_taken_that_were_chosen() -> None:
    pixels = np.arange(4, dtype=np.uint8).repeat(3).reshape(4, 1, 1, 3)
    chosen = [np.array([2, 0]), np.array([3, 3])]
    found = ahead([(pixels, some) for some in chosen], copier(torch.device("cpu")))
    assert [there[:, 0, 0, 0].tolist() for there in found] == [[2, 0], [3, 3]]


class FakeEvent:
    log: list[str] = []  # noqa: RUF012  # of one test, which clears it
    made = 0

    def __init__(self, *, enable_timing: bool = False) -> None:
        self.name = FakeEvent.made = FakeEvent.made + 1

    def synchronize(self) -> None:
        self.log.append(f"host waits for {self.name}")

    def record(self, stream: "FakeStream") -> None:
        self.log.append(f"{stream.name} records {self.name}")

    def elapsed_time(self, other: "FakeEvent") -> float:
        assert other.name == self.name + 1
        assert self.log[-1] == f"host waits for {other.name}"
        return 250.0


class FakeStream:
    def __init__(self, name: str) -> None:
        self.name = name

    def wait_event(self, event: FakeEvent) -> None:
        event.log.append(f"{self.name} waits for {event.name}")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU that writes down what is asked of it."""
    FakeEvent.log, FakeEvent.made = [], 0
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream("copying"))
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream("computing"))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    empty = torch.empty
    monkeypatch.setattr(transfer.torch, "empty", lambda size, dtype, pin_memory: empty(size, dtype=dtype))

    def to(self: torch.Tensor, device: torch.device | str, non_blocking: bool) -> torch.Tensor:
        FakeEvent.log.append("copy back" if device == "cpu" else "copy there")
        return self.clone()

    monkeypatch.setattr(torch.Tensor, "to", to)
    return FakeEvent.log


def test_pinned_buffer_is_filled_again_only_after_its_copy(cuda: list[str]) -> None:
    found = [int(there[0, 0, 0, 0]) for there in ahead(parts(5), Pinned(torch.device("cpu")))]
    assert found == list(range(5))
    first, second, third = ([f"host waits for {n}", "copy there", f"copying records {n}"] for n in (2, 3, 1))
    assert cuda == [
        *first, *second, *third, "computing waits for 2", *first, "computing waits for 3", *second,
        "computing waits for 1", "computing waits for 2", "computing waits for 3",
    ]  # fmt: skip


def test_results_of_a_gpu_are_waited_for_only_when_they_are_asked_for(cuda: list[str]) -> None:
    pinned = Pinned(torch.device("cpu"))
    results = []
    for n in (1, 2):
        send = pinned.back()
        cuda.append("compute")
        results.append(send([torch.full((2,), n)]))
    assert cuda == [
        "computing records 4", "compute", "copy back", "computing records 5",
        "computing records 6", "compute", "copy back", "computing records 7",
    ]  # fmt: skip
    (here,), seconds = results[0]()
    assert (here.tolist(), seconds, cuda[8:]) == ([1, 1], 0.25, ["host waits for 5"])
    assert results[1]()[0][0].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("amx", "avx512", "dtype"), [(False, False, "float32"), (True, False, "bfloat16"), (False, True, "bfloat16")]
)
def test_bfloat16_is_for_a_cpu_that_multiplies_it(amx: bool, avx512: bool, dtype: str) -> None:
    assert best_dtype("cpu", amx=amx, avx512=avx512) == dtype


@pytest.mark.parametrize(
    ("device", "capability", "found"),
    [
        ("cpu", None, "a CPU"),
        ("cuda", (8, 0), "a GPU of compute capability 8.0"),  # A100
        ("cuda", (8, 9), ""),  # L40S
        ("cuda", (9, 0), ""),  # H200
        ("cuda", (12, 0), ""),
    ],
)
def test_float8_is_for_gpus_that_multiply_it(device: str, capability: tuple[int, int] | None, found: str) -> None:
    assert lacks_float8(device, capability) == found
