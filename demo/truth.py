"""Which claims are true of which scenes, many at a time: `demo.scenes.is_true` as a matrix."""

import numpy as np
import numpy.typing as npt

from demo.scenes import COLOURS, RELATIONS, SHAPES, SIZES, Claim, Thing

_UNSAID = -1
_COLOUR, _SHAPE, _SIZE, _RELATION = (
    {"": _UNSAID} | {word: number for number, word in enumerate(words)} for words in (COLOURS, SHAPES, SIZES, RELATIONS)
)


def _thing_code(thing: Thing | None) -> list[int]:
    if thing is None:
        return [_UNSAID] * 3
    return [_COLOUR[thing.colour], _SHAPE[thing.shape], _SIZE[thing.size]]


def codes(claims: list[Claim]) -> npt.NDArray[np.int64]:
    """Claims as numbers (n, 7): colour, shape and size of each object, and the relation; -1 is unsaid."""
    return np.array([[*_thing_code(c.first), *_thing_code(c.second), _RELATION[c.relation]] for c in claims])


def truth(said: list[Claim], scenes: list[Claim]) -> npt.NDArray[np.bool_]:
    """Which of `said` is true of a scene whose full claim is given: (claims, scenes)."""
    asked = codes(said)[:, None]
    sides = [codes(scenes)[None], codes([scene.inverse for scene in scenes])[None]]
    fits = [((asked == side) | (asked == _UNSAID)).all(-1) for side in sides]
    return np.asarray(fits[0] | fits[1])
