"""Scenes of two objects, and what is true of them.

A scene is two objects of a colour, a shape and a size, placed so that one relation holds clearly
between them. Everything is drawn from integers of a PCG64 generator: the same seed gives the same
scene on every machine. `python demo/scenes.py --out DIR` packs demo shards (see `demo/pack.py`).
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CANVAS = 256
MARGIN = 8

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (247, 134, 20),
    "yellow": (255, 214, 30),
    "green": (40, 156, 72),
    "blue": (38, 98, 222),
    "purple": (132, 54, 176),
    "black": (40, 40, 46),
    "white": (252, 252, 250),
}
SHAPES = ("circle", "ring", "square", "diamond", "triangle", "star", "heart", "cross")
# Diameters in pixels of the canvas. A patch of the demo model covers 64 of them, so the smallest
# object still fills about a whole patch.
SIZES: dict[str, tuple[int, int]] = {"small": (66, 76), "large": (98, 112)}
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
RELATIONS = tuple(INVERSE)
CANONICAL = ("left of", "above")
BACKGROUNDS = ("plain", "gradient", "clouds", "stripes", "dots")
TINTS: tuple[tuple[int, int, int], ...] = (
    (236, 226, 206),
    (206, 222, 234),
    (214, 230, 212),
    (232, 212, 214),
    (220, 212, 232),
    (204, 226, 224),
    (240, 220, 196),
    (196, 206, 214),
    (222, 220, 216),
    (184, 190, 200),
    (204, 194, 180),
    (178, 196, 188),
)


@dataclass(frozen=True, slots=True)
class Thing:
    """What is said of one object; an empty size is one that is not said."""

    colour: str
    shape: str
    size: str = ""

    def describes(self, other: "Thing") -> bool:
        """Whether every word said here holds of the fully described `other`."""
        return self.colour == other.colour and self.shape == other.shape and self.size in ("", other.size)


@dataclass(frozen=True, slots=True)
class Claim:
    """The facts of a caption: `first` stands in `relation` to `second`, or `first` alone is there."""

    first: Thing
    relation: str = ""
    second: Thing | None = None

    @property
    def inverse(self) -> "Claim":
        """The same facts with the second object mentioned first."""
        if self.second is None:
            return self
        return Claim(self.second, INVERSE[self.relation], self.first)


@dataclass(frozen=True, slots=True)
class Placed:
    """An object on the canvas: its centre and diameter in pixels."""

    thing: Thing
    x: int
    y: int
    diameter: int


@dataclass(frozen=True, slots=True)
class Background:
    """What lies behind: one of BACKGROUNDS, two of TINTS, and a seed for its details."""

    kind: str
    tint: int
    other: int
    seed: int


@dataclass(frozen=True, slots=True)
class Scene:
    """Two objects on a background."""

    objects: tuple[Placed, Placed]
    background: Background

    @property
    def claim(self) -> Claim:
        """All that is true of the scene, with the left or upper object first."""
        a, b = self.objects
        relation = relation_of(a, b)
        full = Claim(a.thing, relation, b.thing)
        return full if relation in CANONICAL else full.inverse


def generator(*seed: int) -> np.random.Generator:
    """A PCG64 generator; several integers make independent streams."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


def relation_of(a: Placed, b: Placed) -> str:
    """How `a` stands to `b`, along the axis on which they are further apart."""
    dx, dy = b.x - a.x, b.y - a.y
    if abs(dx) > abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def is_true(claim: Claim, scene: Scene) -> bool:
    """Whether the drawer says that `claim` is true of `scene`."""
    a, b = scene.objects
    if claim.second is None:
        return claim.first.describes(a.thing) or claim.first.describes(b.thing)
    return any(
        claim.first.describes(x.thing) and claim.second.describes(y.thing) and claim.relation == relation_of(x, y)
        for x, y in ((a, b), (b, a))
    )


def random_thing(rng: np.random.Generator) -> Thing:
    """Any of the 128 objects, each as likely."""
    colour, shape, size = rng.integers(0, (len(COLOURS), len(SHAPES), len(SIZES))).tolist()
    return Thing(tuple(COLOURS)[colour], SHAPES[shape], tuple(SIZES)[size])


def random_claim(rng: np.random.Generator) -> Claim:
    """A full canonical claim about two objects that are not the same."""
    first, second = random_thing(rng), random_thing(rng)
    while second == first:
        second = random_thing(rng)
    return Claim(first, CANONICAL[int(rng.integers(2))], second)


def place(claim: Claim, rng: np.random.Generator) -> Scene:
    """A scene of which the full `claim` is true: clear of the edges, of each other and of doubt.

    Raises:
        ValueError: the claim leaves out a size or the second object.
    """
    if claim.second is None or not (claim.first.size and claim.second.size):
        raise ValueError(f"only a full claim can be placed, not {claim}")
    if claim.relation not in CANONICAL:
        return place(claim.inverse, rng)
    things = (claim.first, claim.second)
    d = [int(rng.integers(*SIZES[thing.size], endpoint=True)) for thing in things]
    free = CANVAS - 2 * MARGIN - d[0] - d[1]
    gap = int(rng.integers(min(8, free), free, endpoint=True))
    start = MARGIN + int(rng.integers(0, free - gap, endpoint=True))
    along = (start + d[0] // 2, start + d[0] + gap + d[1] // 2)
    # Across the axis the centres differ by less than half as much, so that no one argues.
    sway = (along[1] - along[0]) // 2 - 1
    low, high = MARGIN + d[0] // 2, CANVAS - MARGIN - d[0] // 2
    across0 = int(rng.integers(low, high, endpoint=True))
    low = max(MARGIN + d[1] // 2, across0 - sway)
    high = min(CANVAS - MARGIN - d[1] // 2, across0 + sway)
    across = (across0, int(rng.integers(low, high, endpoint=True)))
    xs, ys = (along, across) if claim.relation == "left of" else (across, along)
    a, b = (Placed(thing, x, y, size) for thing, x, y, size in zip(things, xs, ys, d, strict=True))
    kind, tint, step, seed = rng.integers(0, (len(BACKGROUNDS), len(TINTS), len(TINTS) - 1, 2**31)).tolist()
    return Scene((a, b), Background(BACKGROUNDS[kind], tint, (tint + 1 + step) % len(TINTS), seed))


def random_scene(seed: int, index: int) -> Scene:
    """Scene number `index` of the endless series `seed`."""
    rng = generator(seed, index)
    return place(random_claim(rng), rng)


def main() -> None:
    """Write the demo shards."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python demo/scenes.py` puts demo/ there
    from demo.pack import pack

    parser = argparse.ArgumentParser(description="Write demo shards: WebDataset tars and one parquet file.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--pairs", type=int, default=3000, help="about how many image-caption pairs (default 3000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other scenes (default 0)")
    args = parser.parse_args()
    print(pack(args.out, args.pairs, args.seed).summary())


if __name__ == "__main__":
    main()
