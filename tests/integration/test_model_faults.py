"""The encoder where the GPU's memory does not suffice (a fake says so), and where bfloat16 does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import model
from bridgelake.wiring import Embedder
from model import errors
from model.bridgetower import BridgeTower, Fused
from model.encoder import Encoder
from pipeline.embed import DeviceLostError
from tests.checkpoints import CAPTIONS, pictures
from tests.stock import embedded, ids, squares


def loaded(checkpoint: Path, dtype: str) -> Encoder:
    return model.load(model.resolve(str(checkpoint)), dtype=dtype)


def test_encoder_gives_the_same_in_calls_that_fit_the_memory(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, images = loaded(checkpoint, "float32"), pictures(len(CAPTIONS))
    whole = embedded(encoder, images, CAPTIONS)
    encode, seen = encoder.tower.encode_images, []

    def small(pixels: Tensor) -> object:
        seen.append(len(pixels))
        if len(pixels) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return encode(pixels)

    monkeypatch.setattr(encoder.tower, "encode_images", small)
    encoder.micro_batch = 8
    for one, other in zip(embedded(encoder, images, CAPTIONS)[:5], whole[:5], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert seen == [5, 4, 2, 2, 1]
    embedded(encoder, images, CAPTIONS)
    assert seen[5:] == [2, 2, 1]


def test_encoder_embeds_a_pair_exactly_beside_a_tower_in_bfloat16(checkpoint: Path) -> None:
    rough, fine = loaded(checkpoint, "bfloat16"), loaded(checkpoint, "float32")
    pixels, tokens = squares(rough, pictures(1)), ids(rough, CAPTIONS[:1])
    before = rough.embed(pixels, tokens, [0])
    exact = rough.embed_exactly(pixels, tokens, [0])
    for name in ("image", "text", "cross", "itc_score", "itm_score"):
        array = getattr(exact, name)
        assert np.isfinite(array).all()
        np.testing.assert_allclose(array, getattr(fine.embed(pixels, tokens, [0]), name), atol=0.03)
    assert abs(np.linalg.norm(exact.cross) - 1) < 1e-5
    assert not np.array_equal(exact.cross, before.cross)
    assert rough.tower.compute_dtype == torch.bfloat16
    assert np.array_equal(rough.embed(pixels, tokens, [0]).cross, before.cross)
    copy = rough._exact
    rough.embed_exactly(pixels, tokens, [0])
    assert rough._exact is copy


def test_encoder_rescues_a_pair_that_overflows_only_in_the_small_dtype(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = loaded(checkpoint, "bfloat16")
    fuse = BridgeTower.fuse

    def overflowing(tower: BridgeTower, *args: Any) -> Fused:
        fused = fuse(tower, *args)
        exact = tower.compute_dtype == torch.float32
        return fused if exact else Fused(fused.pooled * torch.nan, fused.text_features)

    monkeypatch.setattr(BridgeTower, "fuse", overflowing)
    pixels, tokens = squares(encoder, pictures(1)), ids(encoder, CAPTIONS[:1])
    assert np.isnan(encoder.embed(pixels, tokens, [0]).cross).all()
    assert abs(np.linalg.norm(encoder.embed_exactly(pixels, tokens, [0]).cross) - 1) < 1e-5


def test_encoder_in_float32_needs_no_copy_to_embed_exactly(checkpoint: Path) -> None:
    encoder = loaded(checkpoint, "float32")
    pixels, tokens = squares(encoder, pictures(1)), ids(encoder, CAPTIONS[:1])
    assert np.array_equal(encoder.embed_exactly(pixels, tokens, [0]).cross, encoder.embed(pixels, tokens, [0]).cross)
    assert encoder._exact is encoder


def test_lost_gpu_reaches_the_data_plane_as_its_own_error(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = loaded(checkpoint, "float32")
    pixels, tokens = squares(encoder, pictures(1)), ids(encoder, CAPTIONS[:1])

    def dead(*args: object) -> None:
        raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered\nSearch for")

    monkeypatch.setattr(encoder.tower, "encode_images", dead)
    with pytest.raises(errors.DeviceLostError):
        encoder.embed(pixels, tokens, [0])
    for embed in (Embedder(encoder).embed, Embedder(encoder).embed_exactly):
        with pytest.raises(DeviceLostError, match=r"^CUDA error: uncorrectable ECC error encountered$"):
            embed(pixels, tokens, [0])
