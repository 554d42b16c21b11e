"""The staged pass against transformers' own classes with the same weights, in float32."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import model
from model import fusion
from model.encoder import Encoder
from tests.checkpoints import CAPTIONS, SHAPES, pictures, write
from tests.stock import Stock, assert_embeddings_equal, assert_parity, embedded, ids, squares

ALL = ("itc", "itm", "mlm")
# The other shapes are in tests/integration/test_model_shapes.py.
QUICK = ("plain", "transforms_not_shared")


class Case(NamedTuple):
    encoder: Encoder
    stock: Stock
    heads: tuple[str, ...]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    @cache
    def made(name: str) -> Case:
        shape, heads = SHAPES[name]
        folder = write(tmp_path_factory.mktemp(name), shape(), heads)
        return Case(model.load(model.resolve(str(folder)), heads=heads), Stock(folder, heads), heads)

    return made


@pytest.mark.parametrize("name", QUICK)
def test_parity_values_equal_the_stock_classes_for_every_shape(name: str, case: Callable[[str], Case]) -> None:
    encoder, stock, heads = case(name)
    assert_parity(encoder, stock, pictures(len(CAPTIONS)), CAPTIONS)
    assert stock.models.keys() == set(heads)


def test_parity_can_fail_when_attention_is_left_causal(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, stock = model.load(model.resolve(str(checkpoint))), Stock(checkpoint, ("itc",))
    image, text = pictures(1), CAPTIONS[:1]  # alone, so nothing is padded
    theirs = stock(image, text)
    assert_embeddings_equal(embedded(encoder, image, text), theirs)

    monkeypatch.setattr(fusion, "attend", lambda module, q, k, v, mask: _causal(q, k, v, module.scaling))
    assert np.abs(embedded(encoder, image, text).cross - theirs.cross).max() > 1e-3


def _causal(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    read = scaled_dot_product_attention(query, key, value, is_causal=query.shape[2] > 1, scale=scale)
    return read.transpose(1, 2).flatten(2)


def test_attention_is_sdpa_and_causal_nowhere(case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def told(*args: Tensor, is_causal: bool = False, **kwargs: float) -> Tensor:
        seen.append(is_causal)
        return scaled_dot_product_attention(*args, is_causal=is_causal, **kwargs)

    monkeypatch.setattr(fusion, "scaled_dot_product_attention", told)
    embedded(case("plain").encoder, pictures(1), CAPTIONS[:1])
    # Two layers a tower; self and cross attention of two fusion layers on two sides.
    assert seen == [False] * (2 * 2 + 2 * 2 * 2)


@pytest.mark.parametrize("name", ["plain", "one_fusion_layer", "fusion_shallower_than_towers"])
def test_last_layer_of_first_tokens_alone_equals_that_of_every_token(name: str, case: Callable[[str], Case]) -> None:
    encoder = case(name).encoder
    pairs = torch.arange(len(CAPTIONS))
    with torch.inference_mode():
        text = encoder._encode_text(ids(encoder, CAPTIONS))
        images = encoder._encode_images(squares(encoder, pictures(len(CAPTIONS))))
        few, all_ = (encoder.tower.fuse(text, images, pairs, pairs, every_token=every) for every in (False, True))
    torch.testing.assert_close(few.pooled, all_.pooled, rtol=0, atol=1e-6)
    assert all_.text_features.shape[1] == text.mask.shape[-1]
    torch.testing.assert_close(few.text_features[:, 0], all_.text_features[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("captions", [1, 5])
def test_parity_values_equal_the_stock_classes_with_captions_an_image(
    captions: int, case: Callable[[str], Case]
) -> None:
    encoder, stock, _ = case("plain")
    images, image_of = pictures(3), [i for i in range(3) for _ in range(captions)]
    texts = [f"{CAPTIONS[k % 5]} {k}" for k in range(len(image_of))]
    found = encoder.embed(squares(encoder, images), ids(encoder, texts), image_of)
    theirs = stock([images[i] for i in image_of], texts)
    assert_embeddings_equal(found, theirs)
    scores = torch.tensor(theirs.itm).softmax(-1)[:, 1].numpy()
    np.testing.assert_allclose(found.itm_score, scores, rtol=0, atol=1e-5)


def test_embed_batch_of_one_equals_batch_of_many(case: Callable[[str], Case]) -> None:
    encoder, images = case("plain").encoder, pictures(len(CAPTIONS))
    many = embedded(encoder, images, CAPTIONS)  # padded to the longest caption
    for i, (image, text) in enumerate(zip(images, CAPTIONS, strict=True)):
        for one, row in zip(embedded(encoder, [image], [text])[:5], many[:5], strict=True):
            np.testing.assert_allclose(one[0], row[i], rtol=0, atol=1e-5)


def test_embed_texts_equal_those_embedded_with_a_picture(case: Callable[[str], Case]) -> None:
    encoder, images = case("plain").encoder, pictures(len(CAPTIONS))
    pairs = embedded(encoder, images, CAPTIONS)
    np.testing.assert_allclose(encoder.embed_texts(CAPTIONS), pairs.text, rtol=0, atol=1e-6)
    np.testing.assert_allclose(encoder.embed_images(squares(encoder, images)), pairs.image, rtol=0, atol=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 64])
def test_embed_captions_of_one_picture_share_its_vision_pass(
    micro_batch: int, case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = case("plain").encoder
    encoder = Encoder(loaded.tower, loaded.preparer, micro_batch)
    images, image_of = pictures(4), [0, 0, 0, 2, 3, 3, 3]  # picture 1 has no caption
    texts = [f"{CAPTIONS[i % 5]} {i}" for i in range(len(image_of))]
    seen: list[int] = []
    whole = encoder.tower.encode_images
    monkeypatch.setattr(encoder.tower, "encode_images", lambda pixels: (seen.append(len(pixels)), whole(pixels))[1])
    shared = encoder.embed(squares(encoder, images), ids(encoder, texts), image_of)
    assert sum(seen) <= 4 < len(texts)
    assert max(seen) <= micro_batch

    apart = embedded(encoder, [images[i] for i in image_of], texts)
    for one, other in zip(shared[:5], apart[:5], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_match_scores_every_text_with_every_picture_whatever_the_micro_batch(case: Callable[[str], Case]) -> None:
    encoder, stock, _ = case("plain")
    images = pictures(3)
    expected = [torch.tensor(stock(images, [text] * 3).itm).softmax(-1)[:, 1].numpy() for text in CAPTIONS]
    for size in (2, 64):
        found = Encoder(encoder.tower, encoder.preparer, size).match(squares(encoder, images), CAPTIONS)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_embed_vectors_have_unit_length_and_float32_even_in_bfloat16(checkpoint: Path) -> None:
    encoder = model.load(model.resolve(str(checkpoint)), dtype="bfloat16")
    assert encoder.tower.compute_dtype == torch.bfloat16
    found = embedded(encoder, pictures(5), CAPTIONS)
    for vectors in found[:3]:
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=0, atol=1e-5)


def test_heads_and_poolers_stay_float32_in_bfloat16(checkpoint: Path) -> None:
    tower = model.load(model.resolve(str(checkpoint)), dtype="bfloat16", heads=ALL).tower
    wide = {name.split(".")[0] if "pooler" not in name else "pooler"
            for name, p in tower.named_parameters() if p.dtype == torch.float32}  # fmt: skip
    assert wide == {"itc_text_head", "itc_image_head", "itc_cross_modal_head", "itm_score", "mlm_score", "pooler"}
    assert tower.levels.dtype == torch.float32


@pytest.mark.parametrize("text", ["a <mask> ring", "<mask> cats on a <mask>", "no mask at all"])
def test_fill_mask_words_equal_the_stock_class_as_in_its_docs(text: str, case: Callable[[str], Case]) -> None:
    encoder, stock, _ = case("plain")
    image = pictures(1)
    tokens = stock.processor(image, text, return_tensors="pt")["input_ids"][0]
    expected = []
    for place in (tokens == stock.processor.tokenizer.mask_token_id).nonzero()[:, 0]:
        best = torch.tensor(stock(image, [text]).mlm)[0, place].softmax(-1).topk(3)
        words = [stock.processor.tokenizer.decode([int(i)]).strip() for i in best.indices]
        expected.append((words, best.values.numpy()))

    [found] = encoder.fill_mask(squares(encoder, image), [text], top_k=3)
    assert [[word.text for word in mask] for mask in found] == [words for words, _ in expected]
    for mask, (_, probabilities) in zip(found, expected, strict=True):
        np.testing.assert_allclose([word.probability for word in mask], probabilities, rtol=0, atol=1e-5)
