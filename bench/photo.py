"""JPEGs as large as photos, drawn by chance: numpy and Pillow alone."""

import io

import numpy as np
from PIL import Image, ImageFilter


def photo(side: int, seed: int) -> bytes:
    """A JPEG of three by two, `side` pixels long, about as smooth, and so as large, as a photo."""
    rng = np.random.default_rng(seed)
    height, rough = side * 2 // 3, np.zeros((1, 1, 3))
    for scale in (4, 16, 64, side // 4):
        grain = Image.fromarray(rng.integers(0, 256, (scale * 2 // 3 or 1, scale, 3), dtype=np.uint8))
        rough = rough + np.asarray(grain.resize((side, height), Image.Resampling.BICUBIC), float) / (scale**0.5)
    levels = (rough - rough.min()) / (rough.max() - rough.min()) * 255
    image = Image.fromarray(levels.astype(np.uint8)).filter(ImageFilter.SMOOTH)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=90)
    return jpeg.getvalue()
