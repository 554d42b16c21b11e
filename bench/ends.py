"""End to end: a whole run beside its model alone and beside Ray Data's own way, its start, and how full its calls are.

    python -m bench.ends --json out.json
    python -m bench.ends --parts model start --repeats 5 --drawn kept

- model: `base` with random weights in steady state, beside the same model alone on ready tensors
- ray: the demo's model in steady state, beside `bench.stock_ray`
- start: from the command to the first committed row, less a bare Ray start and the imports of torch and transformers
- calls: pairs in a model call where shards have ten samples, beside the batch size
- clip: image and text vectors alone, beside clip-retrieval with a model of as many operations; only where asked for, as
  it needs an environment of its own

Steady state is from the end of the first model call to the last version of the table, of clip-retrieval to the end of
its last call. In each round what is compared follows each other; medians are of the rounds.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from bench.hardware import hardware
from bench.rounds import Round, Rounds, Sizes

Part = Literal["model", "ray", "start", "calls", "clip"]


@dataclass(frozen=True)
class Options:
    """What the benchmark takes."""

    parts: tuple[Part, ...] = ("model", "ray", "start", "calls")
    """What is measured."""
    repeats: int = 3
    """Rounds; `model` and `clip` have their own number."""
    model_repeats: int = 1
    """Of `model` and `clip`, whose rounds take the longest."""
    sizes: Sizes = field(default_factory=Sizes)
    """How much of each."""
    drawn: Path | None = None
    """Where pictures and checkpoint lie, or will be made once and kept. Default: made for this time alone."""
    json: Path | None = None
    """A file for all figures."""


class Asked(NamedTuple):
    """What is wanted of a part's median."""

    figure: str
    holds: Callable[[float], bool]
    words: str


ASKED: dict[Part, Asked] = {
    "model": Asked("ratio", lambda ratio: ratio >= 0.9, "at least 0.90 x the model alone"),
    "ray": Asked("ratio", lambda ratio: ratio >= 3, "at least 3 x the fastest peer"),
    "start": Asked("seconds more", lambda seconds: seconds <= 15, "at most 15 s more than the bare start"),
    "calls": Asked("ratio", lambda ratio: ratio >= 0.8, "at least 0.8 x the batch size"),
    "clip": Asked(
        "ratio", lambda ratio: ratio > 1, "ahead of clip-retrieval, by itself, and in float32 with its threads"
    ),
}


def medians(rounds: Sequence[Round]) -> Round:
    """Of each figure, over the rounds."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def shown(figures: Round) -> str:
    """On one line, with three digits."""
    return ", ".join(
        f"{name} {value:.3g}" if value < 100 else f"{name} {value:,.0f}" for name, value in figures.items()
    )


def verdict(part: Part, middle: Round) -> tuple[str, bool]:
    """The line below a part's rounds, and whether what is asked was reached."""
    figure, holds, words = ASKED[part]
    reached = holds(middle[figure])
    return f"{part}, medians: {shown(middle)}\n{part}: {words}: {'reached' if reached else 'MISSED'}", reached


def main(options: Options) -> int:
    """Measure; 1 if a median misses what is asked."""
    print(hardware(), flush=True)
    found: dict[str, Any] = {"hardware": hardware(), "began": time.strftime("%Y-%m-%d"), "parts": {}}
    reached = True
    with tempfile.TemporaryDirectory() as scratch:
        drawn = options.drawn or Path(scratch) / "drawn"
        drawn.mkdir(parents=True, exist_ok=True)
        measure = Rounds(options.sizes, drawn, Path(scratch))
        for part in options.parts:
            rounds: list[Round] = []
            for number in range(options.model_repeats if part in ("model", "clip") else options.repeats):
                load = os.getloadavg()[0]
                rounds.append(getattr(measure, part)() | {"load before": load})
                print(f"{part}, round {number}: {shown(rounds[-1])}", flush=True)
            line, holds = verdict(part, medians(rounds))
            print(line, flush=True)
            reached &= holds
            found["parts"][part] = {"rounds": rounds, "medians": medians(rounds)}
            if options.json:
                options.json.write_text(json.dumps(found, indent=1))
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))))
