"""Scenes of two or three objects, and what is true of them.

A scene is objects of a colour, a shape and a size, placed so that one relation holds clearly between
any two of them. Everything is drawn from integers of a PCG64 generator: the same seed gives the same
scene on every machine. `python demo/scenes.py --out DIR` packs demo shards (see `demo/pack.py`).
"""

import argparse
import sys
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from pathlib import Path

import numpy as np

CANVAS = 256

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
    """The facts of a caption: `first` stands in `relation` to `second`, or `first` alone is there.

    Of three objects it says how `first` stands to both others, `also` being its relation to `third`.
    """

    first: Thing
    relation: str = ""
    second: Thing | None = None
    also: str = ""
    third: Thing | None = None

    @property
    def things(self) -> tuple[Thing, ...]:
        """The objects it speaks of."""
        return tuple(thing for thing in (self.first, self.second, self.third) if thing)

    def of(self, things: list[Thing]) -> "Claim":
        """The same said of as many other objects."""
        second, third = [*things[1:], None, None][:2]
        return Claim(things[0], self.relation, second, self.also, third)

    @property
    def inverse(self) -> "Claim":
        """The same facts with the second of two objects mentioned first, or the third of three before the second."""
        if self.second is None:
            return self
        if self.third is None:
            return Claim(self.second, INVERSE[self.relation], self.first)
        return Claim(self.first, self.also, self.third, self.relation, self.second)


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
    """Two or three objects on a background, of any two the left or upper one first."""

    objects: tuple[Placed, ...]
    background: Background

    @property
    def claim(self) -> Claim:
        """What is true of the first two objects: of a scene of two, all."""
        return self.claims[0]

    @property
    def claims(self) -> list[Claim]:
        """Every full claim, canonical: about any two objects and, of three, how each stands to both others."""
        pairs = [Claim(a.thing, relation_of(a, b), b.thing) for a, b in combinations(self.objects, 2)]
        return pairs + [
            Claim(a.thing, relation_of(a, b), b.thing, relation_of(a, c), c.thing)
            for a, b, c in permutations(self.objects, 3)
            if self.objects.index(b) < self.objects.index(c)
        ]

    @property
    def mirrored(self) -> "Scene":
        """The scene of the picture flipped left to right."""
        flipped = [replace(one, x=CANVAS - one.x) for one in self.objects]
        return Scene(in_order(flipped), self.background)


def generator(*seed: int) -> np.random.Generator:
    """A PCG64 generator; several integers make independent streams."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


def relation_of(a: Placed, b: Placed) -> str:
    """How `a` stands to `b`, along the axis on which they are further apart."""
    dx, dy = b.x - a.x, b.y - a.y
    if abs(dx) > abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def in_order(objects: list[Placed]) -> tuple[Placed, ...]:
    """The objects, of any two the left or upper one first.

    That is an order because all relations are clear: what is left of one object that is left of
    another (or above, both times) cannot lie on the far side of the latter.
    """
    return tuple(sorted(objects, key=lambda a: -sum(relation_of(a, b) in CANONICAL for b in objects if b is not a)))


def is_true(claim: Claim, scene: Scene) -> bool:
    """Whether the drawer says that `claim` is true of `scene`."""
    things, relations = claim.things, (claim.relation, claim.also)
    return any(
        all(thing.describes(one.thing) for thing, one in zip(things, chosen, strict=True))
        and all(said == relation_of(chosen[0], one) for said, one in zip(relations, chosen[1:], strict=False))
        for chosen in permutations(scene.objects, len(things))
    )


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
