"""Cutting and padding calls; and calls that the GPU's memory cannot hold, or a GPU that is lost, by a fake."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.batching import Shapes, cut, pad, within_memory
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


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40))), st.integers(1, 4))
def test_cut_calls_hold_every_pair_once_with_its_own_picture(pairs: list[tuple[int, int]], size: int) -> None:
    pairs.sort(key=lambda pair: pair[0])
    image_of, lengths = (np.array([pair[i] for pair in pairs], dtype=np.int64) for i in (0, 1))
    calls = cut(image_of, lengths, size)
    assert sorted(i for call in calls for i in call.pairs) == list(range(len(pairs)))
    for call in calls:
        assert 0 < len(call.pictures) <= size
        np.testing.assert_array_equal(call.pictures[call.image_of], image_of[call.pairs])
    assert sum(len(call.pictures) for call in calls) == len(set(image_of.tolist()))


def test_cut_puts_captions_of_like_length_into_one_call() -> None:
    calls = cut(np.arange(6), np.array([30, 3, 31, 4, 5, 29]), 3)
    assert [call.pairs.tolist() for call in calls] == [[1, 3, 4], [0, 2, 5]]


def test_pad_fills_to_the_bucket_and_repeats_the_first_caption() -> None:
    padded = pad([[7, 8, 9], [7]], 1, Shapes(rows=4, tokens=8), 512)
    assert padded.input_ids.tolist() == [[7, 8, 9, *[1] * 5], [7, *[1] * 7], *[[7, 8, 9, *[1] * 5]] * 2]
    assert padded.attention_mask.sum(1).tolist() == [3, 1, 3, 3]


@pytest.mark.parametrize(("tokens", "most", "length"), [(8, 512, 8), (9, 512, 16), (509, 512, 512), (39, 40, 40)])
def test_bucket_is_a_multiple_unless_the_model_takes_fewer(tokens: int, most: int, length: int) -> None:
    assert Shapes(tokens=8).length(tokens, most) == length


def test_nothing_is_padded_on_a_cpu() -> None:
    assert pad([[7, 8, 9], [7]], 1, Shapes(), 512).input_ids.tolist() == [[7, 8, 9], [7, 1, 1]]
