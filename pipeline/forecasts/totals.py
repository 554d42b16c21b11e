"""From what was seen of some slices to all of them, with how far the truth may lie from it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.forecasts.sampling import Look, Numbers

_95 = 1.96  # standard errors to either side
_NONE_SEEN = 3.0  # of none in n samples: with 95%, fewer than 3 in n


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, and what 95 of 100 samples would miss it by at most; 0 where all was read."""

    value: float
    margin: float

    def __str__(self) -> str:
        if not self.margin:
            return f"{self.value:,.0f}"
        return f"{self.value:,.0f} ± {max(1.0, self.margin):,.0f}"


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all slices that are to be done. `read` samples of `slices` slices are what it rests on."""

    samples: Estimate
    pairs: Estimate
    rejects: Estimate
    reasons: dict[str, int]
    read: int
    slices: int
    megapixels: float  # of a picture
    seconds: float  # that preparing took here, a pair
    failing: dict[str, str]  # slice -> why it cannot be read


def totals(looks: Sequence[Look]) -> Totals:
    """Extrapolate, stratum by stratum: by bytes, of a parquet by rows."""
    good = [look for look in looks if not look.error]
    reasons: Counter[str] = Counter()
    for look in good:
        reasons.update({reason: count * look.times for reason, count in look.reasons.items()})
    pictures, pairs = sum(look.pictures for look in good), sum(look.pairs.sum() for look in good)
    return Totals(
        samples=_all(good, [np.ones(len(look.pairs)) for look in good]),
        pairs=_all(good, [look.pairs for look in good]),
        rejects=_all(good, [look.rejected for look in good]),
        reasons={reason: round(count) for reason, count in sorted(reasons.items())},
        read=sum(len(look.pairs) for look in good),
        slices=len(looks),
        megapixels=sum(look.pixels for look in good) / pictures / 1e6 if pictures else 0.0,
        seconds=sum(look.seconds for look in good) / pairs if pairs else 0.0,
        failing={look.stratum.chosen.name: look.error for look in looks if look.error},
    )


def _all(looks: Sequence[Look], values: Sequence[Numbers]) -> Estimate:
    value = float(sum(look.times * mine.sum() for look, mine in zip(looks, values, strict=True)))
    variance = sum(_variance(look, mine) for look, mine in zip(looks, values, strict=True))
    margin = _95 * variance**0.5
    if not value and any(look.times > 1 for look in looks):
        read = sum(len(look.pairs) for look in looks)
        margin = _NONE_SEEN / max(1, read) * sum(look.times * len(look.pairs) for look in looks)
    return Estimate(value, margin)


def _variance(look: Look, values: Numbers) -> float:
    """Of a ratio to the weights, by the spread of the samples that were read."""
    count = len(values)
    if count < 2 or look.times <= 1:
        return 0.0
    rest = values - values.sum() / look.weights.sum() * look.weights
    spread = float((rest**2).sum()) / (count - 1)
    return count * look.times**2 * spread * (1 - 1 / look.times)
