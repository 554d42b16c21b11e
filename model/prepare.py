"""Pictures and captions -> uint8 squares and token ids. Pillow, numpy and tokenizers; no torch.

The squares are bit-identical to those of transformers' `BridgeTowerImageProcessorPil` before it
rescales and normalises; `Preparer.levels` holds what it makes of each grey level afterwards.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, gcd
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from model.errors import ModelError

Pixels = npt.NDArray[np.uint8]

# CLIP's, the defaults of transformers' image processor.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")


def read_json(path: Path) -> dict[str, Any]:
    """One of a checkpoint's JSON files.

    Raises:
        ModelError: it is not there or holds something else.
    """
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path.parent} has no {path.name}: a BridgeTower checkpoint needs it") from None
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(loaded, dict):
        raise ModelError(f"{path} holds no JSON object")
    return loaded


def section(folder: Path, name: str) -> dict[str, Any]:
    """`text_config` or `vision_config` of a checkpoint; what it leaves out has the default of transformers."""
    found = read_json(folder / "config.json").get(name) or {}
    if not isinstance(found, dict):
        raise ModelError(f"{folder}/config.json: {name} holds no JSON object")
    return found


def _edge(size: object, default: int) -> int:
    """`{"shortest_edge": n}`, or n alone in old files."""
    if isinstance(size, int):
        return size
    if size is None:
        return default
    if isinstance(size, dict) and isinstance(size.get("shortest_edge"), int):
        return int(size["shortest_edge"])
    raise ValueError(f"a size of {size}, wanted {{'shortest_edge': pixels}}")


def _channels(value: Any) -> tuple[float, ...]:
    """One number for each of red, green and blue."""
    three = tuple(float(v) for v in value) if isinstance(value, list | tuple) else (float(value),) * 3
    if len(three) != 3:
        raise ValueError(f"{len(three)} channels, wanted 3")
    return three


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes a square: resized to `shortest` pixels, then cropped or padded to `crop`."""

    shortest: int
    crop: int
    divisor: int = 32
    resample: int = 3  # Pillow's number; 3 is bicubic
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    rescale: float = 1 / 255

    @classmethod
    def from_folder(cls, folder: Path) -> "Geometry":
        """Read it from `preprocessor_config.json`; the crop is the vision tower's `image_size`.

        Raises:
            ModelError: the crop written in the checkpoint is not what its vision tower takes.
        """
        saved = read_json(folder / "preprocessor_config.json")
        off = [step for step in _STEPS if saved.get(step) is False]
        if off:
            raise ModelError(
                f"{folder}/preprocessor_config.json turns off {', '.join(off)}: BridgeTower needs all of them"
            )
        try:
            image_size = int(section(folder, "vision_config").get("image_size", 288))
            geometry = cls(
                shortest=_edge(saved.get("size"), 288),
                crop=_edge(saved.get("crop_size"), image_size),
                divisor=int(saved.get("size_divisor", 32)),
                resample=int(saved.get("resample", 3)),
                mean=_channels(saved.get("image_mean", _MEAN)),
                std=_channels(saved.get("image_std", _STD)),
                rescale=float(saved.get("rescale_factor", 1 / 255)),
            )
        except (TypeError, ValueError) as error:
            raise ModelError(f"{folder}: its preprocessing is not BridgeTower's ({error})") from error
        if geometry.crop != image_size:
            raise ModelError(
                f"{folder}/preprocessor_config.json crops to {geometry.crop} but the vision tower takes {image_size}: "
                f"set crop_size to {{'shortest_edge': {image_size}}} there"
            )
        return geometry

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Size after the resize; a side can be 0. (transformers: `get_resize_output_image_size`)."""
        longest = int(1333 / 800 * self.shortest)
        scale = self.shortest / min(height, width)
        new_height: float
        new_width: float
        if height < width:
            new_height, new_width = self.shortest, scale * width
        else:
            new_height, new_width = scale * height, self.shortest
        if max(new_height, new_width) > longest:
            scale = longest / max(new_height, new_width)
            new_height, new_width = scale * new_height, scale * new_width
        rounded = int(new_height + 0.5), int(new_width + 0.5)
        return rounded[0] // self.divisor * self.divisor, rounded[1] // self.divisor * self.divisor


def _window(size: int, crop: int) -> tuple[slice, slice]:
    """Where a side of `size` lands in a side of `crop`, and which part of it. (`center_crop`)."""
    if size >= crop:
        start = (size - crop) // 2
        return slice(0, crop), slice(start, start + crop)
    start = ceil((crop - size) / 2)  # an odd rest of the border goes before
    return slice(start, start + size), slice(0, size)


def _needed(shape: tuple[int, ...], resized: int, keep: slice) -> tuple[int, int]:
    """Which columns of a resized picture are worth computing: `keep`, and around it up to whole pixels of the source.

    Cut there, they come out bit for bit as if all had been computed; but only where Pillow resizes the width before
    the height, as it does with wide pictures that become much smaller.
    """
    height, width, *_ = shape
    if width <= height or width < 1.5 * resized:
        return 0, resized
    step = resized // gcd(width, resized)
    return keep.start // step * step, -(-keep.stop // step) * step


class Preparer:
    """A checkpoint's preprocessing."""

    def __init__(self, geometry: Geometry, tokenizer: str, max_tokens: int) -> None:
        """From the text of a `tokenizer.json` and the model's limit, both ends of the caption included."""
        self.geometry = geometry
        self.max_tokens = max_tokens
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        # Of the file, not of how this version of the library would write it; and without what is set here.
        rules = {k: v for k, v in json.loads(tokenizer).items() if k not in ("padding", "truncation")}
        self._tokenizer_digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def from_folder(cls, folder: Path | str) -> "Preparer":
        """From a checkpoint folder: `config.json`, `preprocessor_config.json`, `tokenizer.json`.

        Raises:
            ModelError: one of them is missing, or does not fit the others.
        """
        folder = Path(folder)
        geometry, text = Geometry.from_folder(folder), section(folder, "text_config")
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"{folder} has no tokenizer.json: save the tokenizer again with transformers' "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        # Roberta's positions begin at pad_token_id + 1.
        max_tokens = int(text.get("max_position_embeddings", 514)) - int(text.get("pad_token_id", 1)) - 1
        try:
            preparer = cls(geometry, path.read_text(encoding="utf-8"), max_tokens)
        except Exception as error:  # the library raises nothing narrower
            raise ModelError(f"{path} is no tokenizer: {error}") from error
        known, most = int(text.get("vocab_size", 50265)), max(preparer._tokenizer.get_vocab().values())
        if most >= known:
            raise ModelError(f"{path} has tokens up to {most} but the text tower knows {known}: not of this checkpoint")
        return preparer

    @property
    def size(self) -> int:
        """Side of the square in pixels."""
        return self.geometry.crop

    @cached_property
    def levels(self) -> npt.NDArray[np.float32]:
        """What each channel's 256 levels become, (3, 256): rescaled in float64, normalised in float32."""
        g = self.geometry
        rescaled = (np.arange(256).astype(np.float64) * g.rescale).astype(np.float32)
        mean, std = np.array(g.mean, dtype=np.float32), np.array(g.std, dtype=np.float32)
        return ((rescaled[None, :] - mean[:, None]) / std[:, None]).astype(np.float32)

    @cached_property
    def fingerprint(self) -> str:
        """The preprocessing in one line, for the embedding contract."""
        g = self.geometry
        levels = hashlib.sha256(self.levels.tobytes()).hexdigest()[:8]
        return (
            f"resize {g.shortest}, divisor {g.divisor}, resample {g.resample}, crop {g.crop}, "
            f"levels {levels}, tokenizer {self._tokenizer_digest}, {self.max_tokens} tokens"
        )

    def fits(self, height: int, width: int) -> bool:
        """Whether both sides survive the resize (beyond about 15:1 one is floored to 0)."""
        return min(height, width) > 0 and min(self.geometry.resized(height, width)) > 0

    def picture(self, rgb: Pixels) -> Pixels:
        """RGB (height, width, 3) -> (size, size, 3), both uint8; call `fits` first."""
        from PIL import Image  # here: bench/gpu.py runs where it is not installed

        height, width = self.geometry.resized(*rgb.shape[:2])
        (to_y, from_y), (to_x, from_x) = _window(height, self.size), _window(width, self.size)
        left, right = _needed(rgb.shape, width, from_x)
        scale = rgb.shape[1] / width
        resized = Image.fromarray(rgb).resize(
            (right - left, height),
            Image.Resampling(self.geometry.resample),
            box=(round(left * scale), 0, round(right * scale), rgb.shape[0]),
        )
        square = np.zeros((self.size, self.size, 3), dtype=np.uint8)
        square[to_y, to_x] = np.asarray(resized)[from_y, from_x.start - left : from_x.stop - left]
        return square

    def captions(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """Token ids of each caption, and whether it was cut to the model's limit."""
        encoded = self._tokenizer.encode_batch(list(texts))
        return [(e.ids, bool(e.overflowing)) for e in encoded]

    def token(self, text: str) -> int:
        """The id of one token, such as `<mask>` or `<pad>`."""
        found = self._tokenizer.token_to_id(text)
        if found is None:
            raise ModelError(f"the checkpoint's tokenizer has no token {text!r}")
        return int(found)

    @property
    def tokens(self) -> list[int]:
        """The ids of all tokens."""
        return sorted(self._tokenizer.get_vocab().values())

    def text(self, ids: Sequence[int]) -> str:
        """Token ids -> text."""
        return str(self._tokenizer.decode(list(ids)))
