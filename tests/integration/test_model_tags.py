"""Words for pictures by the MLM head, against transformers' own class with the same weights."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import model
from bridgelake.wiring import as_model
from model import Blank, Extras, ModelError
from model.blank import whole_words
from model.compiled import Compiled
from model.encoder import Encoder
from model.heads import require_mlm
from pipeline.config import Tagging
from tests.checkpoints import SHAPES, as_bin, config, pictures, write
from tests.stock import Stock, ids, load, squares

PROMPT = "a photo of the <mask> near a couch"
HEADS = ("itc", "itm", "mlm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def made(name: str) -> Path:
        return write(tmp_path_factory.mktemp(name), SHAPES[name][0]())

    return made


def tagging(encoder: Encoder, words: int = 4, micro_batch: int = 64) -> Encoder:
    return Encoder(encoder.tower, encoder.preparer, micro_batch, Blank(PROMPT, words))


def by_hand(stock: Stock, count: int) -> list[dict[str, float]]:
    """Each picture's whole words with their probabilities, by the stock class and its tokenizer."""
    tokenizer = stock.processor.tokenizer
    place = tokenizer(PROMPT)["input_ids"].index(tokenizer.mask_token_id)
    found: list[dict[str, float]] = []
    for logits in torch.tensor(stock(pictures(count), [PROMPT] * count).mlm)[:, place].double():
        words: dict[str, float] = {}
        for token, probability in enumerate(logits.softmax(-1).tolist()):
            text = tokenizer.convert_ids_to_tokens(token)
            if text.startswith("Ġ") and text[1:].isascii() and text[1:].isalpha() and len(text) > 2:
                words[text[1:].lower()] = words.get(text[1:].lower(), 0) + probability
        found.append(words)
    return found


@pytest.mark.parametrize("name", ["plain", "one_fusion_layer", "fusion_shallower_than_towers", "mlm_decoder_tied"])
def test_tags_equal_the_stock_class(name: str, folder: Callable[[str], Path]) -> None:
    encoder = tagging(load(folder(name), *HEADS))
    pixels = squares(encoder, pictures(3))
    found = encoder.embed(pixels, ids(encoder, ["a", "two cats", "x"]), [0, 1, 2]).tags
    assert found is not None
    for words, probabilities, wanted in zip(*found, by_hand(Stock(folder(name), ("mlm",)), 3), strict=True):
        best = sorted(wanted, key=lambda word: -wanted[word])[:4]
        assert words == best
        np.testing.assert_allclose(probabilities, [wanted[word] for word in best], rtol=0, atol=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 2, 64])
def test_tags_are_told_once_a_picture_and_change_nothing_else(
    micro_batch: int, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load(folder("plain"), *HEADS)
    encoder = tagging(plain, micro_batch=micro_batch)
    pixels, image_of = squares(encoder, pictures(4)), [0, 0, 0, 2, 3, 3, 3]  # picture 1 has no caption
    texts = ids(encoder, ["a long one of several words", "two", "x", "a b c", "d", "two cats on a couch", "e"])
    asked: list[int] = []
    fuse = encoder.tower.fuse
    monkeypatch.setattr(
        encoder.tower,
        "fuse",
        lambda *args, every_token=False: (asked.extend([len(args[3])] * every_token), fuse(*args, every_token))[1],
    )
    whole = encoder.embed(pixels, texts, image_of)
    assert (sum(asked), max(asked)) == (3, min(3, micro_batch))
    for one, other in zip(whole[:5], plain.embed(pixels, texts, image_of)[:5], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    alone = tagging(plain).embed(pixels[[0, 2, 3]], texts[:3], [0, 1, 2]).tags
    assert whole.tags is not None
    assert alone is not None
    assert whole.tags.words == [alone.words[i] for i in (0, 0, 0, 1, 2, 2, 2)]
    np.testing.assert_allclose(whole.tags.probabilities, alone.probabilities[[0, 0, 0, 1, 2, 2, 2]], rtol=0, atol=1e-6)


def test_tags_in_bfloat16_are_near_and_those_of_a_pair_told_exactly_are_float32s(folder: Callable[[str], Path]) -> None:
    spec, blank = model.resolve(str(folder("plain"))), Blank(PROMPT, 3)
    exact = tagging(load(folder("plain"), *HEADS), 3)
    rough = model.load_for_batches(spec, "cpu", "bfloat16", 8, 1.0, Extras(blank))
    pair = squares(exact, pictures(1)), ids(exact, ["two cats"]), [0]
    wanted, near, again = exact.embed(*pair).tags, rough.embed(*pair).tags, rough.embed_exactly(*pair).tags
    assert wanted is not None
    assert near is not None
    assert again is not None
    assert near.probabilities.dtype == np.float32
    np.testing.assert_allclose(near.probabilities, wanted.probabilities, rtol=0.1)
    assert again.words == wanted.words
    np.testing.assert_allclose(again.probabilities, wanted.probabilities, rtol=1e-2)


def test_tags_by_compiled_stages_are_the_same(folder: Callable[[str], Path]) -> None:
    encoder = tagging(load(folder("plain"), *HEADS))
    batch = squares(encoder, pictures(5)), ids(encoder, ["two cats"] * 5), list(range(5))
    before = encoder.embed(*batch).tags
    encoder._embedding.compile(Compiled(encoder.tower, backend="eager"))
    after = encoder.embed(*batch).tags
    assert before is not None
    assert after is not None
    assert after.words == before.words
    np.testing.assert_allclose(after.probabilities, before.probabilities, rtol=0, atol=1e-6)


def test_no_more_words_than_there_are_and_none_for_no_pictures(folder: Callable[[str], Path]) -> None:
    plain = load(folder("plain"), *HEADS)
    there = whole_words(plain.preparer)
    tags = tagging(plain, 10_000).embed(squares(plain, pictures(1)), ids(plain, ["x"]), [0]).tags
    none = tagging(plain).embed(squares(plain, pictures(1))[:0], [], []).tags
    assert tags is not None
    assert none is not None
    assert sorted(tags.words[0]) == sorted(there)
    assert (none.words, none.probabilities.shape) == ([], (0, 4))


def test_whole_words_are_letters_after_a_blank_and_one_word_whatever_its_case() -> None:
    texts = [" cat", " Cat", "cat", " CAT", " a", " it's", " 2nd", " ", "", " naïve", "!", " two words", " dog"]
    preparer = SimpleNamespace(tokens=range(len(texts)), text=lambda ids: texts[ids[0]])
    assert whole_words(preparer) == {"cat": [0, 1, 3], "naïve": [9], "dog": [12]}  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="no whole words"):
        whole_words(SimpleNamespace(tokens=range(1), text=lambda ids: "x"))  # type: ignore[arg-type]


def test_without_tags_no_mlm_head_is_kept(folder: Callable[[str], Path]) -> None:
    spec = model.resolve(str(folder("plain")))
    assert model.load_for_batches(spec, "cpu", "float32", 8, 1.0).tower.mlm_score is None
    assert model.load_for_batches(spec, "cpu", "float32", 8, 1.0, Extras(Blank(PROMPT, 1))).tower.mlm_score is not None


def sharded(folder: Path) -> None:
    """As two files, the MLM head in the second."""
    state = load_file(folder / "model.safetensors")
    for number, head in ((1, False), (2, True)):
        part = {name: value for name, value in state.items() if name.startswith("mlm_score") == head}
        save_file(part, folder / f"model-0000{number}-of-00002.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()


def legacy(folder: Path) -> None:
    """As torch before 1.6 wrote it."""
    state: dict[str, Tensor] = load_file(folder / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("kind", [lambda folder: None, as_bin, legacy, sharded], ids=["safe", "bin", "legacy", "two"])
def test_mlm_head_is_told_by_the_names_of_the_weights(kind: Callable[[Path], None], tmp_path: Path) -> None:
    for name, heads in (("with", HEADS), ("without", HEADS[:2])):
        folder = write(tmp_path / name, config(), heads)
        kind(folder)
        spec = model.resolve(str(folder))
        if name == "with":
            require_mlm(spec)
        else:
            with pytest.raises(ModelError, match=r"without cannot fill masks \(it has no MLM head\): use a checkpoint"):
                require_mlm(spec)


def test_run_is_refused_before_anything_is_loaded_when_tags_cannot_be_told(copied: Path, tmp_path: Path) -> None:
    spec = model.resolve(str(write(tmp_path / "no_head", config(), ("itc", "itm"))))
    as_model(spec)
    with pytest.raises(ModelError, match="cannot fill masks"):
        as_model(spec, Tagging(5))
    whole = model.resolve(str(copied))
    with pytest.raises(
        ModelError, match=r"the prompt .* is cut to 40 tokens, which must be whole and have <mask> once"
    ):
        as_model(whole, Tagging(5, "very " * 40 + "<mask>"))
    as_model(whole, Tagging(5))
    (copied / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0no header at all")
    with pytest.raises(ModelError, match="the names of its weights cannot be read"):
        as_model(whole, Tagging(5))
