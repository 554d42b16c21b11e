"""A CLIP that costs as much as a pair of ours, by counted operations; for clip-retrieval, from a folder.

As wide as our towers, over the same patches of the same squares, with as many vision layers as come nearest. The text
tower is the one of OpenAI's ViT-L/14 where ours is `base`. Weights are random.
"""

import json
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BridgeTowerConfig, CLIPConfig, CLIPModel

from bench.waterfall import SIZES, Case, flops_a_pair

_TOKENS = 77  # to which OpenAI's tokenizer, which clip-retrieval takes, pads every caption
_END = 49_407  # of its vocabulary, the last


def clip(folder: Path, size: str, tokens: int) -> Path:
    """A checkpoint of that CLIP, where a caption of ours has so many tokens."""
    found = shape(size, flops_a_pair(size, Case(tokens, 1)))
    torch.manual_seed(0)
    CLIPModel(found).save_pretrained(folder)
    side = found.vision_config.image_size
    processor = {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side}, "do_convert_rgb": True,
    }  # fmt: skip
    # Loaded with the processor, and used by nobody: the captions go through OpenAI's.
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    files = {"preprocessor_config": processor, "vocab": words, "tokenizer_config": {"tokenizer_class": "CLIPTokenizer"}}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def shape(size: str, wanted: float) -> CLIPConfig:
    """The CLIP of a size of ours that comes nearest to so many operations a pair."""
    one, two = (operations(_of(size, layers)) for layers in (1, 2))
    return _of(size, max(1, round(1 + (wanted - one) / (two - one))))


def operations(shape: CLIPConfig) -> float:
    """Multiplications and additions a pair, counted without computing."""
    side = shape.vision_config.image_size
    with torch.device("meta"):
        model = CLIPModel._from_config(shape, attn_implementation="eager").eval()
        pixels, ids = torch.zeros(1, 3, side, side), torch.zeros(1, _TOKENS, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.get_image_features(pixel_values=pixels)
        model.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids))
    return float(counter.get_total_flops())


def _of(size: str, layers: int) -> CLIPConfig:
    ours = BridgeTowerConfig(**SIZES[size])
    width = ours.hidden_size
    tower = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": ours.num_attention_heads}
    text = {
        "num_hidden_layers": ours.text_config.num_hidden_layers, "max_position_embeddings": _TOKENS,
        "vocab_size": _END + 1, "bos_token_id": _END - 1, "eos_token_id": _END, "pad_token_id": _END,
    }  # fmt: skip
    vision = {name: getattr(ours.vision_config, name) for name in ("image_size", "patch_size")}
    return CLIPConfig(
        text_config=tower | text, vision_config=tower | vision | {"num_hidden_layers": layers}, projection_dim=512
    )
