"""Loading a checkpoint strictly: what is missing, of another size or cannot run is refused, never guessed."""

import pickle
import sys
from collections.abc import Collection, Iterable
from copy import deepcopy
from pathlib import Path

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import BridgeTowerConfig

from model.bridgetower import BridgeTower
from model.errors import ModelError
from model.files import read_json
from model.fp8 import quantise
from model.hardware import best_dtype, lacks_float8
from model.packed import can_pack, pack
from model.prepare import Preparer
from model.spec import weight_files

# Of all but the layers that `quantise` replaces.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "fp8": torch.bfloat16}
HEADS = {
    "itc": ("itc_text_head", "itc_image_head", "itc_cross_modal_head", "logit_scale"),
    "itm": ("itm_score",),
    "mlm": ("mlm_score",),
}
# Parts that transformers makes and never runs; an older checkpoint may lack them.
_NEVER_RUN = ("bridgetower.text_model.pooler.", "bridgetower.vision_model.visual.ln_separate.")
_UNREADABLE = (RuntimeError, ValueError, OSError, LookupError, EOFError, SafetensorError, pickle.UnpicklingError)
_PURPOSE = {
    "itc": "embed pairs (it has no ITC head)",
    "itm": "score how well picture and text match (it has no ITM head)",
    "mlm": "fill masks (it has no MLM head)",
}


def load_tower(folder: Path, preparer: Preparer, heads: tuple[str, ...]) -> BridgeTower:
    """Load a folder that holds any of the three kinds of BridgeTower checkpoint, in float32.

    Heads that the checkpoint lacks are None on the result.

    Raises:
        ModelError: naming the checkpoint and the missing head, key or size.
    """
    _check_choice("head", heads, HEADS)
    config = _config(folder)
    if weight_files(folder)[0].suffix == ".bin":
        print(f"note: {folder} holds a .bin file; read as weights only. Safetensors load faster.", file=sys.stderr)
    tower, missing = _from_pretrained(folder, config)
    _drop_missing_heads(tower, missing, folder)
    for head in heads:
        if getattr(tower, HEADS[head][0]) is None:
            raise ModelError(
                f"{folder} cannot {_PURPOSE[head]}: use a checkpoint that has one, such as ...-itm-mlm-itc"
            )
    if tower.itc_text_head is not None and (flaw := _itc_flaw(config)):
        if "itc" in heads:
            raise ModelError(
                f"{folder}/config.json: an ITC head with {flaw}, which transformers' "
                "BridgeTowerForContrastiveLearning cannot run, so it cannot embed"
            )
        _drop(tower, "itc")
    tower.levels.data = torch.from_numpy(preparer.levels)
    tower.requires_grad_(requires_grad=False)
    tower.eval()
    return tower


def on_device(tower: BridgeTower, device: str, dtype: str, *, packs: bool = True) -> BridgeTower:
    """The tower on `device`, ready to compute in `dtype`; on a CPU with its weights packed, if it `packs`.

    Raises:
        ModelError: in one line, where torch raises several kinds of error; or the device does not multiply float8.
    """
    try:
        if dtype == "fp8" and (found := lacks_float8(device)):
            raise ModelError(
                f"--dtype fp8 on {found}: it needs a GPU of compute capability 8.9 or later, such as an H100 or H200: "
                "use --dtype bfloat16"
            )
        kind = DTYPES[best_dtype(device) if dtype == "auto" else dtype]
        if packs and torch.device(device).type == "cpu" and can_pack(kind):
            pack(tower.bridgetower, kind)
        tower.cast(kind)
        moved: BridgeTower = tower.to(device)
        if dtype == "fp8":
            quantise(moved.bridgetower)
        return moved
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device!r} cannot be used on this machine: {_shortened(error)}") from error


def in_float32(tower: BridgeTower) -> BridgeTower:
    """A copy, beside the tower if the GPU has room for both, else on the CPU."""
    device = tower.levels.device
    copy: BridgeTower = deepcopy(tower.to("cpu")).cast(torch.float32)  # not on the GPU, which may be all but full
    tower.to(device)
    try:
        copy.to(device)
    except torch.OutOfMemoryError:
        copy.to("cpu")
    return copy


def check_dtype(dtype: str) -> None:
    """Refuse a type that there is not."""
    _check_choice("dtype", (dtype,), ("auto", *DTYPES))


def _check_choice(what: str, chosen: Iterable[str], allowed: Collection[str]) -> None:
    for one in chosen:
        if one not in allowed:
            raise ModelError(f"{what} {one!r} is not known: allowed are {', '.join(allowed)}")


def _config(folder: Path) -> BridgeTowerConfig:
    raw = read_json(folder / "config.json")
    if raw.get("model_type") != "bridgetower":
        raise ModelError(f"{folder} is a checkpoint of {raw.get('model_type')!r}, not of a BridgeTower")
    try:
        config = BridgeTowerConfig.from_pretrained(folder)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}/config.json is not valid: {_shortened(error)}") from error
    text, vision = config.text_config, config.vision_config
    layers, depth = text.num_hidden_layers, config.num_hidden_layers
    # transformers itself cannot run these, so there is nothing to be equal to.
    for wrong, what in (
        (layers != vision.num_hidden_layers, f"{layers} text and {vision.num_hidden_layers} vision layers"),
        (not 1 <= depth <= layers, f"{depth} fusion layers over towers of {layers}"),
        (text.hidden_size != config.hidden_size, f"text {text.hidden_size} and fusion {config.hidden_size} wide"),
        (config.share_link_tower_layers, "share_link_tower_layers"),
        (vision.remove_last_layer, "vision_config.remove_last_layer"),
        (
            config.init_layernorm_from_vision_encoder and not vision.share_layernorm,
            "init_layernorm_from_vision_encoder without vision_config.share_layernorm",
        ),
    ):
        if wrong:
            raise ModelError(f"{folder}/config.json: {what}, which transformers' BridgeTower cannot run")
    return config


def _itc_flaw(config: BridgeTowerConfig) -> str:
    wide = config.vision_config.hidden_size
    for wrong, what in (
        (not getattr(config, "contrastive_hidden_size", None), "no contrastive_hidden_size"),
        (not config.share_cross_modal_transformer_layers, "share_cross_modal_transformer_layers off"),
        (wide != config.hidden_size, f"vision {wide} and fusion {config.hidden_size} wide"),
    ):
        if wrong:
            return what
    return ""


def _drop(tower: BridgeTower, head: str) -> None:
    for part in HEADS[head]:
        setattr(tower, part, None)


def _from_pretrained(folder: Path, config: BridgeTowerConfig) -> tuple[BridgeTower, set[str]]:
    before, bar = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()  # its report of missing heads: we refuse, or it is not asked for
    transformers.logging.disable_progress_bar()
    try:
        # Always float32 first: a checkpoint's own float16 would round the float32 heads.
        tower, info = BridgeTower.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to name them; they are refused below
            weights_only=True,
            local_files_only=True,
        )
    except _UNREADABLE as error:
        raise ModelError(f"{folder}: the weights cannot be read, fetch them again: {_shortened(error)}") from error
    finally:
        transformers.logging.set_verbosity(before)
        if bar:
            transformers.logging.enable_progress_bar()
    if sizes := info["mismatched_keys"]:
        named = (f"{key} {tuple(found)}, wanted {tuple(wanted)}" for key, found, wanted in sizes)
        raise ModelError(f"{folder}: the weights are not of the sizes in its config.json: {_some(named, '; ')}")
    # Old files carry buffers that are computed today; anything else is worth a word, but harms nothing.
    if unused := {k for k in info["unexpected_keys"] if not k.endswith(("position_ids", "token_type_ids"))}:
        print(f"note: {folder} holds weights that no part of BridgeTower takes: {_some(unused)}", file=sys.stderr)
    return tower, {k for k in info["missing_keys"] if not k.startswith(_NEVER_RUN)}


def _drop_missing_heads(tower: BridgeTower, missing: set[str], folder: Path) -> None:
    for head, parts in HEADS.items():
        keys = {k for k in tower.state_dict() if k.split(".")[0] in parts} - set(tower.all_tied_weights_keys)
        lost = keys & missing
        if lost == keys:
            _drop(tower, head)
        elif lost:
            raise ModelError(f"{folder}: the {head.upper()} head is incomplete, missing {_some(lost)}: save it again")
        missing = missing - keys
    if missing:
        raise ModelError(f"{folder}: the backbone is incomplete, missing {_some(missing)}: save it again")


def _some(keys: Iterable[str], separator: str = ", ") -> str:
    names = sorted(keys)
    return separator.join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _shortened(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]
