"""Which claims are true of which scenes, many at a time: `demo.scenes.is_true` as a matrix."""

from itertools import permutations

import numpy as np
import numpy.typing as npt

from demo.scenes import COLOURS, RELATIONS, SHAPES, SIZES, Claim, Scene, Thing, relation_of

_UNSAID, _ABSENT = -1, -2
_COLOUR, _SHAPE, _SIZE, _RELATION = (
    {"": _UNSAID} | {word: number for number, word in enumerate(words)} for words in (COLOURS, SHAPES, SIZES, RELATIONS)
)
WIDTH = 11  # three objects of three numbers, and the relations of the first to the two others
ORDERS = 6  # in which three objects can be looked at
Codes = npt.NDArray[np.int8]


def thing_code(thing: Thing | None) -> list[int]:
    """Colour, shape and size as numbers."""
    if thing is None:
        return [_UNSAID] * 3
    return [_COLOUR[thing.colour], _SHAPE[thing.shape], _SIZE[thing.size]]


def codes(claims: list[Claim]) -> Codes:
    """Claims as numbers (n, WIDTH): colour, shape and size of each object, then the relations; -1 is unsaid."""
    rows = [[code for t in (c.first, c.second, c.third) for code in thing_code(t)] for c in claims]
    relations = [[_RELATION[c.relation], _RELATION[c.also]] for c in claims]
    return np.hstack([np.array(rows, np.int8), np.array(relations, np.int8)])


def _orders(scene: Scene) -> list[list[int]]:
    """The scene as a claim's numbers, in each order of its objects."""
    found = []
    for chosen in permutations(scene.objects):
        things = [code for one in chosen for code in thing_code(one.thing)]
        relations = [_RELATION[relation_of(chosen[0], one)] for one in chosen[1:]]
        absent = [_ABSENT] * (3 - len(chosen))
        found.append([*things, *absent * 3, *relations, *absent])
    return found * (ORDERS // len(found))


def truth(said: list[Claim], scenes: list[Scene]) -> npt.NDArray[np.bool_]:
    """Which of `said` is true of which scene: (claims, scenes)."""
    asked = codes(said)[:, None]
    unsaid = asked == _UNSAID
    shown = np.array([_orders(scene) for scene in scenes], np.int8)
    found = np.zeros((len(said), len(scenes)), np.bool_)
    for order in range(ORDERS):
        found |= ((asked == shown[None, :, order]) | unsaid).all(axis=-1)
    return found
