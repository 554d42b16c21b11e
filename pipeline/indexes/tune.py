"""How an index is to be asked: the fewest partitions and the least refining that find enough."""

import math
from collections.abc import Callable, Iterator, Sequence

from pipeline.index import Tuned
from pipeline.indexes.measure import Measured

_FIRST = 5  # partitions looked into at first
_REFINES = (1, 2, 3, 5, 10, 20, 50)
_CLOSER = 3  # times that a step behind a filter is halved
_MARGIN = 0.005  # above what is wanted: other queries find a little less than those it was tuned on

Ask = Callable[[Tuned], Sequence[Measured]]


def tune(ask: Ask, partitions: int, least: float) -> tuple[Tuned, Sequence[Measured]]:
    """Look into more and more partitions until every sort of query finds enough, then refine no more than it takes.

    Args:
        ask: measures one way.
        partitions: of the index.
        least: recall that is wanted.

    Returns:
        The way and what it measured; the best there is if none finds enough.
    """
    best: tuple[Tuned, Sequence[Measured]] | None = None
    for nprobes in _probes(partitions):
        how = Tuned(nprobes, _REFINES[-1])
        measured = ask(how)
        if best is None or recall(measured) > recall(best[1]):
            best = how, measured
        if recall(measured) >= least + _MARGIN:
            return _refined(ask, nprobes, least + _MARGIN, (how, measured))
    assert best is not None  # noqa: S101  # there is at least one partition
    return _refined(ask, best[0].nprobes, least, best) if recall(best[1]) >= least else best


def widen(ask: Ask, how: Tuned, partitions: int, least: float) -> tuple[Tuned, Sequence[Measured]]:
    """Into how many partitions to look behind a filter that keeps one row in a hundred.

    All, and refining more, if fewer do not find enough.
    """
    ways = [(nprobes, how.refine) for nprobes in _probes(partitions, how.nprobes)]
    ways += [(partitions, refine) for refine in _REFINES if refine > how.refine]
    before = how.nprobes
    for nprobes, refine in ways:
        measured = ask(Tuned(nprobes, refine))
        if recall(measured) >= least + _MARGIN:
            nprobes, measured = _fewest(ask, Tuned(nprobes, refine), before, least, measured)  # noqa: PLW2901
            break
        before = nprobes
    return Tuned(how.nprobes, refine, nprobes), measured


def _fewest(
    ask: Ask, enough: Tuned, too_few: int, least: float, measured: Sequence[Measured]
) -> tuple[int, Sequence[Measured]]:
    """Between two numbers of partitions: each costs time behind a filter, and the step may have been too long."""
    nprobes = enough.nprobes
    for _ in range(_CLOSER):
        between = math.isqrt(too_few * nprobes)
        if between == too_few:
            break
        fewer = ask(Tuned(between, enough.refine))
        if recall(fewer) >= least + _MARGIN:
            nprobes, measured = between, fewer
        else:
            too_few = between
    return nprobes, measured


def recall(measured: Sequence[Measured]) -> float:
    """That of the sort of query that does worst."""
    return min((one.recall for one in measured), default=1.0)


def _probes(partitions: int, first: int = _FIRST) -> Iterator[int]:
    """5, 7, 10, 14, 20, 28, 40, ... and all."""
    nprobes = float(first)
    while nprobes < partitions:
        yield int(nprobes)
        nprobes *= 2**0.5
    yield partitions


def _refined(
    ask: Ask, nprobes: int, least: float, good: tuple[Tuned, Sequence[Measured]]
) -> tuple[Tuned, Sequence[Measured]]:
    for refine in _REFINES[:-1]:
        how = Tuned(nprobes, refine)
        measured = ask(how)
        if recall(measured) >= least:
            return how, measured
    return good
