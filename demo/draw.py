"""Scenes -> pictures, with Pillow alone: no fonts, no floating-point randomness.

Outlines are integer tables in a box of 2,000 units, drawn four times too large and reduced, which is
the anti-aliasing. Every shape and its shadow is symmetric left to right, so that a mirrored picture
is a picture of the mirrored scene (training uses that).
"""

from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from demo.scenes import CANVAS, COLOURS, TINTS, Background, Placed, Scene, generator

SCALE = 4  # how much too large an object is drawn
PAD = 14  # room around an object for its outline and shadow
LINE = 3  # width of the outline, in pixels of the canvas

Points = list[tuple[int, int]]


def _star() -> Points:
    turns = [(1060 if i % 2 == 0 else 460, i * pi / 5) for i in range(10)]
    return [(round(r * sin(t)), round(60 - r * cos(t))) for r, t in turns]


def _heart() -> Points:
    curve: Points = []
    for i in range(64):
        t = i * pi / 32
        y = 13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)
        curve.append((round(16 * sin(t) ** 3 * 62), round(-(y + 2.5) * 66)))
    return curve


POLYGONS: dict[str, Points] = {
    "square": [(-860, -860), (860, -860), (860, 860), (-860, 860)],
    "diamond": [(0, -1060), (800, 0), (0, 1060), (-800, 0)],
    "triangle": [(0, -940), (1040, 860), (-1040, 860)],
    "star": _star(),
    "heart": _heart(),
    "cross": [
        (-330, -1000), (330, -1000), (330, -330), (1000, -330), (1000, 330), (330, 330),
        (330, 1000), (-330, 1000), (-330, 330), (-1000, 330), (-1000, -330), (-330, -330),
    ],
}  # fmt: skip


@lru_cache(maxsize=1024)
def _masks(shape: str, diameter: int) -> tuple[Image.Image, Image.Image, Image.Image]:
    """The whole shape, its inside within the outline, and its shadow, all the same size."""
    side = (diameter + 2 * PAD) * SCALE
    whole, inside = Image.new("L", (side, side)), Image.new("L", (side, side))
    radius, middle, line = diameter * SCALE // 2, side // 2, LINE * SCALE
    for mask, edge in ((whole, 255), (inside, 0)):
        pen = ImageDraw.Draw(mask)
        if shape in ("circle", "ring"):
            for r, fill in ((radius, 255), (radius * 11 // 20, 0))[: 1 + (shape == "ring")]:
                pen.ellipse((middle - r, middle - r, middle + r, middle + r), fill, edge, line)
            continue
        corners = [(middle + x * radius // 1000, middle + y * radius // 1000) for x, y in POLYGONS[shape]]
        pen.polygon(corners, 255)
        pen.line([*corners, corners[0], corners[1]], edge, line, joint="curve")
    small = whole.reduce(SCALE)
    shadow = ImageChops.offset(small, 0, diameter // 20).filter(ImageFilter.BoxBlur(diameter // 24))
    shadow = shadow.filter(ImageFilter.BoxBlur(diameter // 24)).point([v * 5 // 16 for v in range(256)])
    return small, inside.reduce(SCALE), shadow


def _blend(colour: tuple[int, int, int], towards: int, percent: int) -> tuple[int, int, int]:
    r, g, b = ((c * (100 - percent) + towards * percent) // 100 for c in colour)
    return r, g, b


@lru_cache(maxsize=1024)
def _fill(colour: str, side: int) -> Image.Image:
    """The object's colour, a little lighter at the top than at the bottom."""
    rgb = COLOURS[colour]
    shade = Image.linear_gradient("L").resize((side, side), Image.Resampling.BILINEAR)
    light, dark = _blend(rgb, 255, 14), _blend(rgb, 0, 10)
    return Image.composite(Image.new("RGB", (side, side), dark), Image.new("RGB", (side, side), light), shade)


def _object(picture: Image.Image, placed: Placed) -> None:
    colour = placed.thing.colour
    whole, inside, shadow = _masks(placed.thing.shape, placed.diameter)
    corner = (placed.x - whole.width // 2, placed.y - whole.height // 2)
    # A black object has a lighter outline, all others a darker one.
    outline = _blend(COLOURS[colour], 255, 30) if colour == "black" else _blend(COLOURS[colour], 0, 42)
    picture.paste((20, 20, 30), corner, shadow)
    picture.paste(outline, corner, whole)
    picture.paste(_fill(colour, whole.width), corner, inside)


def _weights(background: Background) -> Image.Image:
    """How much of the second tint shows where, as grey levels."""
    rng = generator(background.seed)
    if background.kind == "plain":
        return Image.new("L", (CANVAS, CANVAS), 0)
    if background.kind == "gradient":
        return Image.linear_gradient("L").rotate(90 * int(rng.integers(4)))
    if background.kind == "clouds":
        noise = rng.integers(0, 256, (5, 5), dtype=np.uint8)
        return Image.fromarray(noise).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)
    period = int(rng.integers(18, 40))
    row, column = np.ogrid[0:CANVAS, 0:CANVAS]
    if background.kind == "stripes":
        slope = int(rng.integers(-1, 2))
        wave = np.abs((row + slope * column) % period * 2 - period) * 200 // period
        return Image.fromarray(wave.astype(np.uint8))
    dots = (row % period * 2 - period) ** 2 + (column % period * 2 - period) ** 2
    return Image.fromarray(np.clip(220 - dots * 900 // period**2, 0, 200).astype(np.uint8))


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of 256 x 256 pixels."""
    tints = [Image.new("RGB", (CANVAS, CANVAS), TINTS[i]) for i in (scene.background.other, scene.background.tint)]
    picture = Image.composite(tints[0], tints[1], _weights(scene.background))
    for placed in scene.objects:
        _object(picture, placed)
    return picture
