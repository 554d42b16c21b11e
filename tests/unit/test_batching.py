"""Calls that the GPU's memory cannot hold, and a GPU that is lost; the errors are raised by a fake."""

import pytest
import torch

from model.batching import within_memory
from model.errors import DeviceLostError, ModelError

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB\nand more"


class Bounded:
    """Holds `room` at once; remembers the sizes of its calls."""

    def __init__(self, micro_batch: int, room: int, error: Exception | None = None) -> None:
        self.micro_batch = micro_batch
        self.room = room
        self.error = error or torch.OutOfMemoryError(FULL)
        self.calls: list[int] = []

    @within_memory
    def embed(self, count: int, *, add: int = 0) -> int:
        for start in range(0, count, self.micro_batch):
            size = min(self.micro_batch, count - start)
            self.calls.append(size)
            if size > self.room:
                raise self.error
        return count + add


def test_memory_that_does_not_suffice_halves_the_calls_until_it_does() -> None:
    bounded = Bounded(64, room=20)
    assert bounded.embed(50, add=1) == 51
    assert bounded.calls == [50, 32, 16, 16, 16, 2]


def test_memory_that_did_not_suffice_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    bounded = Bounded(64, room=20)
    bounded.embed(64)
    bounded.calls.clear()
    bounded.embed(64)
    assert bounded.calls == [16] * 4
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[2].partition(":")[0] for line in told] == [
        " 64 pictures in a call are too many, halved",
        " 32 pictures in a call are too many, halved",
    ]


def test_memory_for_not_even_one_is_an_error_that_names_the_sizes() -> None:
    with pytest.raises(
        ModelError, match=r"cannot hold a call of one picture .*allocate 2\.00 GiB.*7\.79 GiB: let each"
    ):
        Bounded(64, room=0).embed(64)


@pytest.mark.parametrize(
    "full",
    [
        "CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_memory_is_also_what_the_libraries_below_torch_run_out_of(full: str) -> None:
    assert Bounded(4, 2, RuntimeError(full)).embed(4) == 4


@pytest.mark.parametrize(
    "lost",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
        RuntimeError("CUDA driver error: unspecified launch failure"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    ],
)
def test_gpu_is_lost_by_any_other_error_of_cuda(lost: Exception) -> None:
    bounded = Bounded(4, 2, lost)
    with pytest.raises(DeviceLostError) as told:
        bounded.embed(4)
    assert str(told.value) == str(lost).splitlines()[0]
    assert bounded.calls == [4]


@pytest.mark.parametrize("other", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("image_of")])
def test_gpu_is_not_lost_by_an_error_of_our_own(other: Exception) -> None:
    with pytest.raises(type(other), match=str(other)):
        Bounded(4, 2, other).embed(4)
