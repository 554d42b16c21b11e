"""Which items lie nearest to each query, by blocks, and the share of queries that find their own. Ties do not flatter.

Recall as in the BridgeTower paper (Xu et al. 2023, Table 5) and the Flickr30K protocol: a query counts at K if any of
its own items is among its best K; IR asks captions for their picture, TR pictures for any of their captions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.calls import Images
from pipeline.embed import Vectors

KS = (1, 5, 10)
TIE = 1e-6  # of two cosines: what is closer cannot be told apart in float32, and counts against a query's own
_QUERIES, _ITEMS = 1024, 16_384  # of one block of scores: 64 MB

Places = npt.NDArray[np.int64]  # (queries, best): items, the best first
Own = npt.NDArray[np.bool_]  # the same shape: whether that item is the query's own


@dataclass(frozen=True, slots=True)
class Side:
    """Pictures or captions: unit vectors (N, dimension), and of each the number of its picture."""

    vectors: Vectors
    image: Images

    def part(self, which: slice) -> "Side":
        """Some of them."""
        return Side(self.vectors[which], self.image[which])


@dataclass(frozen=True, slots=True)
class Figures:
    """Recall at `KS` in percent, of captions that look for their picture (IR) and the other way round (TR)."""

    ir: tuple[float, ...]
    tr: tuple[float, ...]

    @classmethod
    def of(cls, ir: Own, tr: Own) -> "Figures":
        """From what captions and pictures found, the best first."""
        return cls(*(tuple(100 * float(own[:, :k].any(axis=1).mean()) for k in KS) for own in (ir, tr)))

    @property
    def rsum(self) -> float:
        """All six together."""
        return sum(self.ir) + sum(self.tr)

    def to_dict(self) -> dict[str, float]:
        """By the names that papers use."""
        names = [f"{side}@{k}" for side in ("IR", "TR") for k in KS]
        return {**dict(zip(names, (*self.ir, *self.tr), strict=True)), "RSUM": self.rsum}


def nearest(queries: Side, items: Side, count: int) -> Places:
    """For each query its nearest `count` items by cosine (all, if there are fewer), its own ones last among equals."""
    found = [_nearest(queries.part(some), items, count) for some in _parts(len(queries.image), _QUERIES)]
    return np.concatenate(found)


def _nearest(queries: Side, items: Side, count: int) -> Places:
    rows = len(queries.image)
    scores, places = np.empty((rows, 0), np.float32), np.empty((rows, 0), np.int64)
    for some in _parts(len(items.image), _ITEMS):
        here = items.part(some)
        block = queries.vectors @ here.vectors.T
        block[queries.image[:, None] == here.image] -= TIE
        scores = np.concatenate([scores, block], axis=1)
        places = np.concatenate([places, np.broadcast_to(np.arange(some.start, some.stop), block.shape)], axis=1)
        if scores.shape[1] > count:
            keep = np.argpartition(-scores, count - 1, axis=1)[:, :count]
            scores, places = np.take_along_axis(scores, keep, 1), np.take_along_axis(places, keep, 1)
    return np.take_along_axis(places, np.argsort(-scores, axis=1), 1)


def _parts(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def own(places: Places, queries: Side, items: Side) -> Own:
    """Which of the items found are the query's own."""
    return np.asarray(items.image[places] == queries.image[:, None])


def reranked(found: Own, margins: Vectors, tie: float) -> Own:
    """The same with the first items ordered by another score.

    Args:
        found: of each query's items, in their order, which are its own.
        margins: of the first items (queries, top), the higher the better; the others stay behind them.
        tie: scores that are closer count against the query's own.
    """
    top = margins.shape[1]
    first = found[:, :top]
    order = np.argsort(-(margins - tie * first), axis=1)
    # Of equal scores the query's own comes last, whatever the sort makes of them: `tie` is above 0.
    return np.concatenate([np.take_along_axis(first, order, 1), found[:, top:]], axis=1)
