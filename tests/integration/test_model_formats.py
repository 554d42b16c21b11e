"""Every form in which a checkpoint comes: file kinds, dtypes, what each stock class saves, old files."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BridgeTowerForContrastiveLearning, BridgeTowerModel

from model import ModelError
from model.prepare import Preparer
from tests.checkpoints import (
    ALL,
    CAPTIONS,
    as_bin,
    config,
    edit,
    pictures,
    rewrite,
    without,
    write,
    write_surroundings,
)
from tests.stock import CLASSES, Stock, load, squares


def test_load_of_bin_gives_the_same_weights_and_prints_a_note(
    checkpoint: Path, copied: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    as_bin(copied)
    found, wanted = load(copied, *ALL).tower.state_dict(), load(checkpoint, *ALL).tower.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert "holds a .bin file; read as weights only" in capfd.readouterr().err


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_load_of_bin_refuses_code_and_does_not_run_it(form: str, copied: Path) -> None:
    mark, path = copied / "ran", copied / "pytorch_model.bin"
    state = {**load_file(copied / "model.safetensors"), "bomb": Bomb(mark)}
    (copied / "model.safetensors").unlink()
    path.write_bytes(pickle.dumps(state, protocol=2)) if form == "pickle" else torch.save(state, path)
    with pytest.raises(ModelError, match="weights cannot be read"):
        load(copied)
    assert not mark.exists()
    torch.load(path, weights_only=False) if form == "torch" else pickle.loads(path.read_bytes())
    assert mark.exists()  # the bomb was live


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("saved", [torch.float16, torch.bfloat16])
def test_load_of_half_precision_file_computes_in_the_dtype_asked_for(
    saved: torch.dtype, kind: str, copied: Path
) -> None:
    rewrite(copied, lambda state: {key: value.to(saved) for key, value in state.items()})
    edit(copied, dtype=str(saved).removeprefix("torch."))
    expected = load_file(copied / "model.safetensors")
    if kind == "bin":
        as_bin(copied)
    tower = load(copied, *ALL).tower
    assert {p.dtype for p in tower.parameters()} == {torch.float32}
    assert all(torch.equal(value, expected[key].float()) for key, value in tower.state_dict().items())
    assert load(copied, dtype="bfloat16").tower.compute_dtype == torch.bfloat16


def test_load_does_not_round_to_the_dtype_that_a_configuration_names(checkpoint: Path, copied: Path) -> None:
    edit(copied, dtype="float16")  # while its file holds float32
    expected = load_file(checkpoint / "model.safetensors")
    tower = load(copied, *ALL).tower
    assert all(torch.equal(value, expected[key]) for key, value in tower.state_dict().items())


def test_load_of_a_checkpoint_with_one_head_says_nothing_of_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(write(tmp_path, config(), heads=("itc",)), "itc")
    assert caplog.text == ""


def test_load_of_a_tied_checkpoint_without_an_mlm_head_goes_without(tmp_path: Path) -> None:
    encoder = load(write(tmp_path, config(tie_word_embeddings=True), heads=("itc", "itm")))
    assert encoder.tower.mlm_score is None
    assert encoder.match(squares(encoder, pictures(len(CAPTIONS))), ["cats"]).shape == (1, len(CAPTIONS))


@pytest.mark.parametrize("head", ALL)
def test_load_of_what_each_stock_class_saved_does_what_that_class_does(
    head: str, checkpoint: Path, tmp_path: Path
) -> None:
    shape = config()
    if head != "itc":  # as `base-itm-mlm`, whose configuration has neither
        del shape.contrastive_hidden_size, shape.logit_scale_init_value
    write_surroundings(tmp_path, shape)
    CLASSES[head].from_pretrained(checkpoint, dtype=torch.float32, config=shape).save_pretrained(tmp_path)
    encoder, stock = load(tmp_path, head), Stock(tmp_path, (head,))
    theirs = stock(pictures(len(CAPTIONS)), CAPTIONS)
    if head == "itc":
        np.testing.assert_allclose(encoder.embed_texts(CAPTIONS), theirs.text, rtol=0, atol=1e-5)
        np.testing.assert_allclose(
            encoder.embed_images(squares(encoder, pictures(len(CAPTIONS)))), theirs.image, rtol=0, atol=1e-5
        )
    else:
        for embed in (
            lambda: encoder.embed_texts(CAPTIONS),
            lambda: encoder.embed_images(squares(encoder, pictures(len(CAPTIONS)))),
        ):
            with pytest.raises(ModelError, match="no ITC head"):
                embed()
    if head == "itm":
        scores = np.diag(encoder.match(squares(encoder, pictures(len(CAPTIONS))), CAPTIONS))
        np.testing.assert_allclose(scores, torch.tensor(theirs.itm).softmax(-1)[:, 1], rtol=0, atol=1e-5)
    else:
        with pytest.raises(ModelError, match="no ITM head"):
            encoder.match(squares(encoder, pictures(len(CAPTIONS))), CAPTIONS)
    if head == "mlm":
        [[[word]]] = encoder.fill_mask(squares(encoder, pictures(len(CAPTIONS)))[:1], ["a <mask> ring"], top_k=1)
        assert 0 < word.probability < 1
    else:
        with pytest.raises(ModelError, match="no MLM head"):
            encoder.fill_mask(squares(encoder, pictures(len(CAPTIONS)))[:1], ["a <mask> ring"])


def test_load_refuses_a_bare_backbone_with_the_reason(checkpoint: Path, tmp_path: Path) -> None:
    write_surroundings(tmp_path, config())
    BridgeTowerModel.from_pretrained(checkpoint, dtype=torch.float32).save_pretrained(tmp_path)
    assert not any(key.startswith("bridgetower.") for key in load_file(tmp_path / "model.safetensors"))
    for head in ALL:
        with pytest.raises(ModelError, match=f"it has no {head.upper()} head"):
            load(tmp_path, head)


def test_load_takes_old_files_with_buffers_without_a_word(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    buffers = {
        "bridgetower.text_model.embeddings.position_ids": torch.arange(42)[None],
        "bridgetower.text_model.embeddings.token_type_ids": torch.zeros(1, 42, dtype=torch.int64),
        "bridgetower.vision_model.visual.embeddings.position_ids": torch.arange(17)[None],
    }
    rewrite(copied, lambda state: state | buffers)
    load(copied, *ALL)
    assert capfd.readouterr().err == ""


def test_load_names_weights_that_nothing_takes(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rewrite(copied, lambda state: state | {"adapter.weight": torch.zeros(2)})
    load(copied)
    assert "no part of BridgeTower takes: adapter.weight" in capfd.readouterr().err


def test_load_does_without_the_parts_that_transformers_never_runs(copied: Path) -> None:
    rewrite(copied, lambda state: {k: v for k, v in state.items() if "text_model.pooler" not in k})
    load(copied, *ALL)


@pytest.mark.parametrize("tied", [True, False])
def test_load_ties_the_mlm_decoder_only_where_the_configuration_says_so(tied: bool, tmp_path: Path) -> None:
    tower = load(write(tmp_path, config(tie_word_embeddings=tied)), *ALL).tower
    words = tower.bridgetower.text_model.embeddings.word_embeddings.weight
    assert (tower.mlm_score.decoder.weight is words) is tied


def test_a_tower_saved_loads_into_every_stock_class(checkpoint: Path, tmp_path: Path) -> None:
    write_surroundings(tmp_path, config())
    load(checkpoint, *ALL).tower.save_pretrained(tmp_path)
    for kind in CLASSES.values():
        _, info = kind.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
        assert not info["missing_keys"]
    found, wanted = load_file(tmp_path / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_levels_of_a_loaded_tower_are_its_preprocessings_exactly(checkpoint: Path, copied: Path) -> None:
    content = json.loads((copied / "preprocessor_config.json").read_text())
    other = {**content, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (copied / "preprocessor_config.json").write_text(json.dumps(other))
    for folder in (checkpoint, copied):
        levels = load(folder).tower.levels.numpy()
        np.testing.assert_array_equal(levels, Preparer.from_folder(folder).levels)
    assert not np.array_equal(levels, load(checkpoint).tower.levels.numpy())


def test_stock_class_would_have_guessed_a_missing_head(copied: Path) -> None:
    """What the strict loading is for: transformers fills in random numbers and goes on."""
    rewrite(copied, without("itc_image_head"))
    _, info = BridgeTowerForContrastiveLearning.from_pretrained(copied, dtype=torch.float32, output_loading_info=True)
    assert info["missing_keys"]
