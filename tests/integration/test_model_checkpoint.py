"""Loading strictly: what is refused and in which words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import model
from model import ModelError
from tests.checkpoints import (
    ALL,
    CAPTIONS,
    Weights,
    as_bin,
    config,
    edit,
    pictures,
    rewrite,
    weights,
    without,
    write,
)
from tests.stock import load, squares


def test_load_says_nothing_for_a_whole_safetensors_checkpoint(
    checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load(checkpoint, *ALL)
    assert capfd.readouterr() == ("", "")


def test_load_leaves_nothing_to_train_and_no_dropout(checkpoint: Path) -> None:
    tower = load(checkpoint).tower
    assert not tower.training
    assert not any(p.requires_grad for p in tower.parameters())


@pytest.mark.parametrize(("kept", "says"), [(("itm", "mlm"), "cannot embed pairs"), (("itc", "mlm"), "ITM head")])
def test_load_refuses_a_checkpoint_without_a_head_that_is_asked_for(
    kept: tuple[str, ...], says: str, copied: Path
) -> None:
    wanted = weights(config(), kept).keys()
    rewrite(copied, lambda state: {key: value for key, value in state.items() if key in wanted})
    with pytest.raises(ModelError, match=says):
        load(copied)
    load(copied, *kept)


def shrunk(name: str) -> Callable[[Weights], Weights]:
    return lambda state: {k: v[:-1].contiguous() if k == name else v for k, v in state.items()}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("resblocks.1.mlp.c_fc.bias"), r"backbone is incomplete, missing .*resblocks\.1\.mlp\.c_fc\.bias"),
        (without("text_link_tower"), "backbone is incomplete, missing .*cross_modal_text_link_tower"),
        (without("cross_modal_text_pooler"), "backbone is incomplete"),
        (without("itc_image_head.fc.bias"), r"ITC head is incomplete, missing itc_image_head\.fc\.bias"),
        (without("logit_scale"), "ITC head is incomplete, missing logit_scale"),
        (without("itm_score.fc.weight"), r"ITM head is incomplete, missing itm_score\.fc\.weight"),
        (without("mlm_score.decoder"), "MLM head is incomplete"),
        (shrunk("itm_score.fc.weight"), r"itm_score\.fc\.weight \(1, 128\), wanted \(2, 128\)"),
        (shrunk("bridgetower.text_model.embeddings.word_embeddings.weight"), "not of the sizes in its config.json"),
    ],
    ids=["layer", "links", "pooler", "itc", "scale", "itm", "mlm", "itm_size", "vocabulary_size"],
)  # fmt: skip
def test_load_refuses_weights_that_are_not_whole(change: Callable[[Weights], Weights], says: str, copied: Path) -> None:
    rewrite(copied, change)
    with pytest.raises(ModelError, match=says):
        load(copied)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, None], ids=["empty", "garbage", "cut"])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_load_refuses_a_weights_file_that_cannot_be_read(kind: str, content: bytes | None, copied: Path) -> None:
    if kind == "bin":
        as_bin(copied)
    path = copied / ("model.safetensors" if kind == "safetensors" else "pytorch_model.bin")
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ModelError, match="weights cannot be read, fetch them again"):
        load(copied)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "clip"}, "checkpoint of 'clip', not of a BridgeTower"),
        ({"text": {"num_hidden_layers": 3}}, "3 text and 2 vision layers"),
        ({"num_hidden_layers": 3}, "3 fusion layers over towers of 2"),
        ({"hidden_size": 128}, "text 64 and fusion 128 wide"),
        ({"share_link_tower_layers": True}, "share_link_tower_layers"),
        ({"vision": {"remove_last_layer": True}}, "remove_last_layer"),
        ({"vision": {"share_layernorm": False}, "init_layernorm_from_vision_encoder": True}, "init_layernorm"),
        ({"share_cross_modal_transformer_layers": False}, "missing"),
        ({"link_tower_type": "multiply"}, "multiply"),
        ({"hidden_size": "wide"}, "config.json is not valid"),
        ({"contrastive_hidden_size": None}, "sizes in its config.json|no contrastive_hidden_size"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_load_refuses_a_configuration_that_cannot_be_run(changes: dict[str, Any], says: str, copied: Path) -> None:
    edit(copied, **changes)
    with pytest.raises(ModelError, match=says):
        load(copied)


def test_load_refuses_to_embed_with_transforms_not_shared_but_matches(tmp_path: Path) -> None:
    folder = write(tmp_path, config(share_cross_modal_transformer_layers=False))
    with pytest.raises(ModelError, match=r"share_cross_modal_transformer_layers off.*cannot embed"):
        load(folder)
    encoder = load(folder, "itm")
    assert encoder.match(squares(encoder, pictures(len(CAPTIONS))), ["cats"]).shape == (1, len(CAPTIONS))
    with pytest.raises(ModelError, match="cannot embed"):
        encoder.embed_texts(["cats"])


def test_load_refuses_unknown_choices_and_names_the_allowed(checkpoint: Path) -> None:
    spec = model.resolve(str(checkpoint))
    with pytest.raises(ModelError, match="dtype 'float16' is not known: allowed are auto, float32, bfloat16"):
        model.load(spec, dtype="float16")
    with pytest.raises(ModelError, match="head 'vqa' is not known: allowed are itc, itm, mlm"):
        model.load(spec, heads=("vqa",))
    with pytest.raises(ModelError, match="device 'gpu' cannot be used"):
        model.load(spec, device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_load_on_cuda_is_refused_where_there_is_none(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="device 'cuda' cannot be used on this machine"):
        model.load(model.resolve(str(checkpoint)), device="cuda")


def test_load_refuses_weights_and_preprocessing_that_changed_since_resolve(copied: Path) -> None:
    spec = model.resolve(str(copied))
    tokens = json.loads((copied / "tokenizer.json").read_text())
    tokens["model"]["merges"].pop()
    (copied / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(ModelError, match="the run began with"):
        model.load(spec)
    spec = model.resolve(str(copied))
    rewrite(copied, lambda state: {key: value * 2 for key, value in state.items()})
    with pytest.raises(ModelError, match=r"has weights \w{12}, the run began with \w{12}: use the same checkpoint"):
        model.load(spec)


def test_encoder_refuses_wrong_arguments(checkpoint: Path) -> None:
    encoder = load(checkpoint, *ALL)
    pixels = squares(encoder, pictures(len(CAPTIONS)))
    tokens = [ids for ids, _ in encoder.preparer.captions(CAPTIONS)]
    for image_of in ([0, 1, 2, 3, 5], [1, 0, 2, 3, 4], [0, 1], [-1, 0, 1, 2, 3]):
        with pytest.raises(ValueError, match="image_of must give each of 5 captions one of 5 pictures"):
            encoder.embed(pixels, tokens, image_of)
    with pytest.raises(ModelError, match=r"wanted \(64, 64, 3\) uint8"):
        encoder.embed_images(pixels[:, :32])
    with pytest.raises(ModelError, match="float32: wanted"):
        encoder.embed_images(pixels.astype(np.float32))
    with pytest.raises(ValueError, match="5 pictures for 1 texts"):
        encoder.fill_mask(pixels, ["a <mask>"])


def test_encoder_of_nothing_gives_empty_arrays_of_the_right_width(checkpoint: Path) -> None:
    encoder = load(checkpoint, *ALL)
    none = squares(encoder, pictures(len(CAPTIONS)))[:0]
    found = encoder.embed(none, [], [])
    assert [column.shape for column in found[:5]] == [(0, 48)] * 3 + [(0,)] * 2
    assert encoder.embed_texts([]).shape == encoder.embed_images(none).shape == (0, 48)
    assert encoder.match(none, ["cats"]).shape == (1, 0)
    assert encoder.match(squares(encoder, pictures(len(CAPTIONS))), []).shape == (0, len(CAPTIONS))
    assert encoder.fill_mask(none, []) == []
