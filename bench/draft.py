"""What `--jpeg-draft` changes: the uint8 squares, the demo model's vectors and ITM scores, beside the reference path.

    python -m bench.draft

Drawn scenes in the middle of a photo that is as rough as photos are, JPEGs of three by two. Squares are compared at the
size of the large checkpoint and of the demo's; vectors and scores are the demo model's, in float32, for the scene's own
caption.
"""

import io
from dataclasses import dataclass

import numpy as np
import tyro
from PIL import Image

import model
from bench.feed import GEOMETRY
from bench.hardware import hardware
from bench.photo import photo
from bridgelake import DEFAULT_MODEL
from demo.draw import draw
from demo.pack import sample, scene_of
from model.encoder import Encoder
from model.prepare import Preparer
from pipeline.decode import decode
from tests.checkpoints import POSITIONS, tokenizer
from tests.shards import encoded

_LARGEST = 10**8
_ROUGH = 0.2  # of the photo, over the scene too


@dataclass(frozen=True)
class Options:
    """What the benchmark takes."""

    sides: tuple[int, ...] = (640, 768, 900, 1280, 2560)
    """Of the pictures' longer side, in pixels; of 768 and 900 what is decoded is hardly larger than what is wanted."""
    pictures: int = 100
    """Of each size."""


def scene_photo(side: int, seed: int) -> bytes:
    """A JPEG of `side` pixels with a drawn scene in its middle."""
    with Image.open(io.BytesIO(photo(side, seed))) as rough:
        height = rough.height
        box = ((side - height) // 2, 0, (side - height) // 2 + height, height)
        scene = draw(scene_of(0, seed)).resize((height, height), Image.Resampling.BICUBIC)
        rough.paste(Image.blend(scene, rough.crop(box), _ROUGH), box)
        return encoded(rough, "JPEG", quality=90)


def squares(images: list[bytes], preparer: Preparer) -> tuple[np.ndarray, np.ndarray, int]:
    """All pictures as the reference path and as a draft make them; and the scale, 1 over this."""
    whole = [decode(image, _LARGEST) for image in images]
    small = [decode(image, _LARGEST, preparer.resized) for image in images]
    both = (np.stack([preparer.picture(one.picture, one.extent) for one in made]) for made in (whole, small))
    return (*both, small[0].scale)


def told_squares(whole: np.ndarray, small: np.ndarray, scale: int) -> str:
    """How far they lie apart, in grey levels."""
    apart = np.abs(whole.astype(int) - small)
    return f"1/{scale}{apart.mean():8.2f}{np.percentile(apart, 99):6.0f}{apart.max():6.0f}"


def told_model(encoder: Encoder, whole: np.ndarray, small: np.ndarray, captions: list[str]) -> str:
    """Cosines of image vectors, mean and least; shift of the ITM score, mean and most."""
    ids = [tokens for tokens, _ in encoder.preparer.captions(captions)]
    reference, drafted = (encoder.embed(pixels, ids, range(len(ids))) for pixels in (whole, small))
    cosines = (reference.image * drafted.image).sum(axis=1)
    shifts = np.abs(reference.itm_score - drafted.itm_score)
    return f"{cosines.mean():10.5f}{cosines.min():9.5f}{shifts.mean():10.4f}{shifts.max():8.4f}"


def main(options: Options) -> None:
    """Measure each size and print."""
    large = Preparer(GEOMETRY, tokenizer(), POSITIONS - 2)
    encoder = model.load(model.resolve(DEFAULT_MODEL))
    captions = [sample(0, seed, "").captions[0] for seed in range(options.pictures)]
    print(f"{hardware()}; {options.pictures} pictures\n")
    levels = f"{'mean':>11}{'p99':>6}{'max':>6}"
    print(f"{'':10}{'294 px, levels':>23}{'64 px, levels':>27}{'cosine':>19}{'ITM shift':>18}")
    print(f"{'':10}{levels}{'':4}{levels}{'mean':>10}{'min':>9}{'mean':>10}{'max':>8}")
    for side in options.sides:
        images = [scene_photo(side, seed) for seed in range(options.pictures)]
        demo = squares(images, encoder.preparer)
        at_large, at_demo = told_squares(*squares(images, large)), told_squares(*demo)
        print(f"{side:>5} px  {at_large}{at_demo:>27}{told_model(encoder, *demo[:2], captions)}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
