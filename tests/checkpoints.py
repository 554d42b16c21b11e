"""Small random BridgeTower checkpoints of many shapes, made by transformers' own classes alone."""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BridgeTowerConfig,
    BridgeTowerForContrastiveLearning,
    BridgeTowerForImageAndTextRetrieval,
    BridgeTowerForMaskedLM,
    BridgeTowerProcessor,
    RobertaTokenizer,
)
from transformers.models.bridgetower.image_processing_pil_bridgetower import BridgeTowerImageProcessorPil

Weights = dict[str, torch.Tensor]
POSITIONS = 42  # Roberta's first is 2, so captions of up to 40 tokens
CORPUS = [
    "a small red ring above a large blue star", "two cats on a couch", "a photo of the old harbour at night",
    "an orange heart to the left of a green cross", "dogs running in the snow near a wooden house",
]  # fmt: skip
CAPTIONS = [
    "two cats on a couch",
    "a red ring",
    "",
    "an orange heart to the left of a green cross, near the old harbour",
    "🦊 naïve café",
]


@lru_cache
def tokenizer() -> str:
    """Roberta's kind of tokenizer, byte-level BPE, as the text of a `tokenizer.json`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS * 3, trainer)
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    return str(bpe.to_str())


def config(text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **top: Any) -> BridgeTowerConfig:
    """64 wide, two layers a tower and two of fusion, 64-pixel pictures, unless said otherwise."""
    hidden = top.get("hidden_size", 64)
    defaults = {
        "hidden_size": hidden, "num_hidden_layers": 2, "num_attention_heads": 4,
        "contrastive_hidden_size": 48, "logit_scale_init_value": 2.6592,
    }  # fmt: skip
    text_defaults = {
        "vocab_size": Tokenizer.from_str(tokenizer()).get_vocab_size(), "hidden_size": hidden, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 96, "max_position_embeddings": POSITIONS,
    }  # fmt: skip
    vision_defaults = {"hidden_size": hidden, "num_hidden_layers": 2, "image_size": 64, "patch_size": 16}
    return BridgeTowerConfig(
        **{**defaults, **top},
        text_config={**text_defaults, **(text or {})},
        vision_config={**vision_defaults, **(vision or {})},
    )


def weights(shape: BridgeTowerConfig, heads: tuple[str, ...] = ("itc", "itm", "mlm"), seed: int = 0) -> Weights:
    """One random backbone with the heads asked for, each made by the stock class that has it."""
    torch.manual_seed(seed)
    kinds = {
        "itm": BridgeTowerForImageAndTextRetrieval,
        "mlm": BridgeTowerForMaskedLM,
        "itc": BridgeTowerForContrastiveLearning,
    }
    state: Weights = {}
    for head, kind in kinds.items():
        if head in heads:
            state |= kind(shape).state_dict()
    # Biases and norms begin as zeros and ones, which would hide one that is not applied.
    noisy = {name: (value + torch.randn_like(value) * 0.05).contiguous() for name, value in state.items()}
    if shape.tie_word_embeddings:
        noisy.pop("mlm_score.decoder.weight", None)
    return noisy


def write_surroundings(folder: Path, shape: BridgeTowerConfig, **preprocessing: Any) -> None:
    """Everything but the weights: configuration, tokenizer, image processor."""
    folder.mkdir(parents=True, exist_ok=True)
    shape.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer(), encoding="utf-8")
    RobertaTokenizer.from_pretrained(folder, model_max_length=POSITIONS - 2).save_pretrained(folder)
    # Saving writes it anew from vocabulary and merges; what a person finds on the hub is the first.
    (folder / "tokenizer.json").write_text(tokenizer(), encoding="utf-8")
    side = shape.vision_config.image_size
    given = {"size": {"shortest_edge": side}, "crop_size": {"shortest_edge": side}, "size_divisor": 16}
    BridgeTowerImageProcessorPil(**{**given, **preprocessing}).save_pretrained(folder)


def write(folder: Path, shape: BridgeTowerConfig, heads: tuple[str, ...] = ("itc", "itm", "mlm")) -> Path:
    """A whole checkpoint, as safetensors in float32."""
    write_surroundings(folder, shape)
    save_file(weights(shape, heads), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    """Save the checkpoint's weights again, changed."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def edit(folder: Path, **changes: Any) -> None:
    """Change config.json; `text` and `vision` update their sections."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["text_config"].update(changes.pop("text", {}))
    content["vision_config"].update(changes.pop("vision", {}))
    path.write_text(json.dumps({**content, **changes}))


def as_bin(folder: Path) -> None:
    """Turn its safetensors into the older kind."""
    path = folder / "model.safetensors"
    torch.save(load_file(path), folder / "pytorch_model.bin")
    path.unlink()


def without(*parts: str) -> Callable[[Weights], Weights]:
    """A change for `rewrite`: leave out what has one of `parts` in its name."""
    return lambda state: {k: v for k, v in state.items() if not any(part in k for part in parts)}


def processor(folder: Path) -> BridgeTowerProcessor:
    """The stock processor with the PIL image processor, whatever else is installed."""
    return BridgeTowerProcessor(
        BridgeTowerImageProcessorPil.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    )


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """RGB pictures of several sizes and aspects: noise over a gradient."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        height, width = (int(side) for side in rng.integers(40, 160, 2))
        ramp = np.linspace(0, 160, width)[None, :, None] * np.ones((height, 1, 3))
        made.append(Image.fromarray((ramp + rng.integers(0, 95, (height, width, 3))).astype(np.uint8)))
    return made


ALL = ("itc", "itm", "mlm")
# Every flag of the configuration that transformers can run, and sizes that differ where they may.
SHAPES: dict[str, tuple[Callable[[], BridgeTowerConfig], tuple[str, ...]]] = {
    "plain": (config, ALL),
    "fusion_shallower_than_towers": (
        lambda: config(hidden_size=128, text={"num_hidden_layers": 4}, vision={"num_hidden_layers": 4}), ALL),
    "one_fusion_layer": (lambda: config(num_hidden_layers=1), ALL),
    "wide_192_three_layers": (
        lambda: config(
            hidden_size=192, num_hidden_layers=3, num_attention_heads=6, contrastive_hidden_size=80,
            text={"num_hidden_layers": 3, "num_attention_heads": 6},
            vision={"num_hidden_layers": 3, "image_size": 96, "patch_size": 32}), ALL),
    "vision_wider_than_fusion": (lambda: config(vision={"hidden_size": 128}), ("itm", "mlm")),
    "transforms_not_shared": (lambda: config(share_cross_modal_transformer_layers=False), ("itm", "mlm")),
    "layernorm_not_shared": (lambda: config(vision={"share_layernorm": False}), ALL),
    "link_scaled_add": (lambda: config(link_tower_type="scaled_add"), ALL),
    "link_interpolate": (lambda: config(link_tower_type="interpolate"), ALL),
    "other_activation_and_eps": (
        lambda: config(hidden_act="relu", layer_norm_eps=1e-3, text={"hidden_act": "relu", "layer_norm_eps": 1e-2}),
        ALL),
    "mlm_decoder_tied": (lambda: config(tie_word_embeddings=True), ALL),
}  # fmt: skip
