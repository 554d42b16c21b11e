"""A forecast beside the run that it told of: time, counts, size and commits, as ratios.

    python -m bench.forecast --pairs 20000 --repeats 3

The demo's scenes are drawn once. In each round `--dry-run` and the run follow each other, each a process of its own,
with a new table.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from bench.hardware import hardware
from demo.pack import pack

_WITHIN = 0.25


@dataclass(frozen=True)
class Options:
    """What the benchmark takes."""

    pairs: int = 20_000
    """Of the set that is drawn."""
    repeats: int = 3
    """Rounds of a forecast and a run; medians are reported."""
    shards: Path | None = None
    """Where the set is, or will be drawn once and kept. Default: drawn for this run alone."""


def job(shards: Path, db: Path, *more: str) -> dict[str, Any]:
    """What the main job says of itself."""
    command = [sys.executable, "jobs/embed_laion.py", f"--input={shards}", f"--db={db}", "--json", *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return dict(json.loads(done.stdout))


def ratios(told: dict[str, Any], ran: dict[str, Any], data: Path) -> dict[str, float]:
    """Told of a thing, divided by what it was."""
    size = sum(path.stat().st_size for path in data.iterdir())
    return {
        "seconds": told["pace"]["seconds"] / ran["seconds"],
        "pairs": told["totals"]["pairs"]["value"] / ran["pairs"],
        "rejects": told["totals"]["rejects"]["value"] / sum(ran["rejects"].values()),
        "table bytes": told["table_bytes"] / size,
        "commits": told["pace"]["commits"] / ran["commits"],
    }


def main(options: Options) -> int:
    """Measure; 1 if the median of the time's ratio is not within 25%."""
    print(hardware(), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        shards = options.shards or Path(scratch) / "shards"
        if not shards.is_dir():
            print(pack(shards, options.pairs, seed=0).summary(), flush=True)
        rounds = []
        for number in range(options.repeats):
            db = Path(scratch) / f"lake-{number}"
            told = job(shards, db, "--dry-run")
            ran = job(shards, db)
            rounds.append(ratios(told, ran, db / "laion.lance" / "data"))
            pace, counts = told["pace"], told["totals"]
            print(
                f"round {number}: told {pace['seconds']:.1f} s for {counts['pairs']['value']:,.0f} pairs after "
                f"{told['took']:.0f} s, from {counts['read']:,} samples; took {ran['seconds']:.1f} s for "
                f"{ran['pairs']:,}; told {pace['rate']:.0f} pairs/s at work (readers {pace['read']:.0f}, actors "
                f"{pace['embed']:.0f}); {pace['commits']} commits told, {ran['commits']} made",
                flush=True,
            )
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    print("told / was, medians: " + ", ".join(f"{name} {ratio:.3f}" for name, ratio in medians.items()))
    return 0 if abs(medians["seconds"] - 1) <= _WITHIN else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
