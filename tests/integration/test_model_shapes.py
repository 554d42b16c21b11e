"""Parity with the stock classes on every shape that transformers can run, and on the demo checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import model
from model.encoder import Embeddings
from tests.checkpoints import ALL, CAPTIONS, SHAPES, config, pictures, weights, write, write_surroundings
from tests.stock import Stock, assert_parity, embedded, squares

DEMO = Path(__file__).parents[2] / "demo" / "checkpoint"
SCENES = ["a small red ring above a large blue star", "an orange heart", "there is a black cross", "blue below red", ""]


@pytest.mark.parametrize("name", SHAPES)
def test_parity_values_equal_the_stock_classes_for_shape(name: str, tmp_path: Path) -> None:
    shape, heads = SHAPES[name]
    folder = write(tmp_path, shape(), heads)
    encoder = model.load(model.resolve(str(folder)), heads=heads)
    assert_parity(encoder, Stock(folder, heads), pictures(len(CAPTIONS)), CAPTIONS)


@pytest.mark.parametrize("side", [288, 294])
def test_parity_values_equal_the_stock_classes_at_published_sizes(side: int, tmp_path: Path) -> None:
    """The published geometry (294: a black border) and depth ratio, at a quarter of the width."""
    from safetensors.torch import save_file

    shape = config(
        hidden_size=192, num_hidden_layers=3, num_attention_heads=12,
        text={"num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 768},
        vision={"num_hidden_layers": 6, "image_size": side, "patch_size": 16 if side == 288 else 14},
    )  # fmt: skip
    write_surroundings(tmp_path, shape, size_divisor=32)
    save_file(weights(shape), tmp_path / "model.safetensors", metadata={"format": "pt"})
    encoder = model.load(model.resolve(str(tmp_path)), heads=ALL)
    assert_parity(encoder, Stock(tmp_path), pictures(len(CAPTIONS)), CAPTIONS)


def scenes() -> list[Image.Image]:
    rng = np.random.default_rng(5)
    return [Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)).resize((240, 256)) for _ in SCENES]


def test_parity_values_equal_the_stock_classes_on_the_demo_checkpoint() -> None:
    encoder = model.load(model.resolve(str(DEMO)), heads=ALL)
    assert_parity(encoder, Stock(DEMO), scenes(), SCENES)


def test_bfloat16_embeddings_of_the_demo_checkpoint_are_near_float32() -> None:
    spec = model.resolve(str(DEMO))
    exact, rough = (embedded(model.load(spec, dtype=kind), scenes(), SCENES) for kind in ("float32", "bfloat16"))
    assert cosines(exact, rough).min() >= 0.999
    assert not np.array_equal(exact.cross, rough.cross)


def cosines(one: Embeddings, other: Embeddings) -> np.ndarray:
    return np.stack([(getattr(one, n) * getattr(other, n)).sum(-1) for n in ("image", "text", "cross")])


def test_demo_checkpoint_is_as_published_ones_are() -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 8_000_000
    encoder = model.load(model.resolve(str(DEMO)), heads=ALL)
    assert {p.dtype for p in encoder.tower.parameters()} == {torch.float32}
    masks = encoder.fill_mask(squares(encoder, scenes()[:1]), ["a <mask> ring"])
    assert [len(words) for words in masks[0]] == [5]
