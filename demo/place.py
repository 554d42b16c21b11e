"""Scenes at random: which objects, and where they stand so that no one argues about their relations."""

import numpy as np

from demo.scenes import (
    BACKGROUNDS,
    CANONICAL,
    CANVAS,
    COLOURS,
    SHAPES,
    SIZES,
    TINTS,
    Background,
    Claim,
    Placed,
    Scene,
    Thing,
    generator,
    in_order,
)

MARGIN = 8
GAP = 4  # at least, between any two of three objects; two alone stand further apart
TRIES = 1024  # places for three objects that are looked at together


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
        ValueError: the claim leaves out a size or the second object, or has a third one.
    """
    if claim.second is None or claim.third is not None or not (claim.first.size and claim.second.size):
        raise ValueError(f"only a full claim about two objects can be placed, not {claim}")
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
    objects = (Placed(thing, x, y, size) for thing, x, y, size in zip(things, xs, ys, d, strict=True))
    return Scene(tuple(objects), _background(rng))


def _background(rng: np.random.Generator) -> Background:
    kind, tint, step, seed = rng.integers(0, (len(BACKGROUNDS), len(TINTS), len(TINTS) - 1, 2**31)).tolist()
    return Background(BACKGROUNDS[kind], tint, (tint + 1 + step) % len(TINTS), seed)


def scatter(things: tuple[Thing, ...], rng: np.random.Generator) -> Scene:
    """A scene of three objects anywhere: clear of the edges and, any two of them, of each other and of doubt."""
    one, other = [0, 0, 1], [1, 2, 2]
    while True:
        low, high = np.array([SIZES[thing.size] for thing in things]).T
        d = rng.integers(low, high, endpoint=True)
        least, most = MARGIN + d // 2, CANVAS - MARGIN - d // 2
        centres = rng.integers(least, most, size=(TRIES, 2, 3), endpoint=True)
        away = abs(centres[..., one] - centres[..., other])
        far, near = away.max(axis=1), away.min(axis=1)
        clear = ((far > 2 * near) & (far >= d[one] // 2 + d[other] // 2 + GAP)).all(axis=1)
        if clear.any():
            xs, ys = centres[clear.argmax()].tolist()
            objects = [Placed(thing, x, y, size) for thing, x, y, size in zip(things, xs, ys, d.tolist(), strict=True)]
            return Scene(in_order(objects), _background(rng))


def random_scene(seed: int, index: int, objects: int = 2) -> Scene:
    """Scene number `index` of the endless series `seed`, of two objects or of three."""
    if objects == 2:
        rng = generator(seed, index)
        return place(random_claim(rng), rng)
    rng = generator(seed, index, objects)
    things = [random_thing(rng)]
    while len(things) < objects:
        thing = random_thing(rng)
        things += [] if thing in things else [thing]
    return scatter(tuple(things), rng)
