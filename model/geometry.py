"""How a picture becomes a square: which size it is given, and what of it stays. Arithmetic, as transformers does it."""

from dataclasses import dataclass
from math import ceil, gcd
from pathlib import Path
from typing import Any

from model.errors import ModelError
from model.files import read_json, section

# CLIP's, the defaults of transformers' image processor.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")


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


def window(size: int, crop: int) -> tuple[slice, slice]:
    """Where a side of `size` lands in a side of `crop`, and which part of it. (`center_crop`)."""
    if size >= crop:
        start = (size - crop) // 2
        return slice(0, crop), slice(start, start + crop)
    start = ceil((crop - size) / 2)  # an odd rest of the border goes before
    return slice(start, start + size), slice(0, size)


def needed(size: tuple[int, int], resized: int, keep: slice) -> tuple[int, int]:
    """Which columns of a resized picture are worth computing: `keep`, and around it up to whole pixels of the source.

    Cut there, they come out bit for bit as if all had been computed; but only where Pillow resizes the width before
    the height, as it does with wide pictures that become much smaller.
    """
    height, width = size
    if width <= height or width < 1.5 * resized:
        return 0, resized
    step = resized // gcd(width, resized)
    return keep.start // step * step, -(-keep.stop // step) * step
