"""One round of each part of `bench.ends`: what is compared, one after the other, each in processes of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import lance

from bench.drawn import checkpoint, kept, photos, scenes
from bench.marks import Steady, left_in, steady
from bench.whole import PICTURES
from bridgelake import DEFAULT_MODEL

Round = dict[str, float]
_SHARD = 512  # pairs
_SMALL = 10
_BARE = """
import ray
ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
import time, torch, transformers
print(time.time())
"""


@dataclass(frozen=True)
class Sizes:
    """How much of each."""

    size: str = "base"
    """Of `model`: base, large, or tiny for a quick look."""
    model_pairs: int = 576
    """Of `model`."""
    ray_pairs: int = 10_240
    """Of `ray`."""
    peer_actors: tuple[int, ...] = (1, 2)
    """Of `ray`: how many actors the peer has, in turn; ours is compared with the fastest."""
    small_shards: int = 320
    """Of `calls`."""


@dataclass(frozen=True)
class Rounds:
    """A method for each part; files lie in `drawn`, where they may have been left before, and `scratch`."""

    sizes: Sizes
    drawn: Path
    scratch: Path

    def model(self) -> Round:
        """The run between two times of the model alone."""
        shards = kept(self.drawn, photos, self.sizes.model_pairs, PICTURES)
        model = kept(self.drawn, checkpoint, self.sizes.size)
        before = self._alone(shards, model)
        whole = self._ours(shards, model)
        after = self._alone(shards, model)
        rate = (before.rate + after.rate) / 2
        return {
            "ratio": whole.rate / rate,
            "pairs/s": whole.rate,
            "alone": rate,
            "pairs/CPU-s": whole.cpu_rate,
            "alone, CPU": (before.cpu_rate + after.cpu_rate) / 2,
            "in the model": whole.busy,
            "threads": whole.threads,
            "alone, threads": after.threads,
        }

    def ray(self) -> Round:
        """The run, then the peer with each number of actors."""
        shards = kept(self.drawn, scenes, self.sizes.ray_pairs, _SHARD)
        ours = self._ours(shards, Path(DEFAULT_MODEL))
        found = {"pairs/s": ours.rate, "pairs/CPU-s": ours.cpu_rate, "in the model": ours.busy}
        rates = []
        for actors in self.sizes.peer_actors:
            peer = self._peer(shards, actors)
            rates.append(peer.rate)
            found |= {f"peer of {actors}": peer.rate, f"peer of {actors}, in its class": peer.busy}
        return {"ratio": ours.rate / max(rates)} | found

    def start(self) -> Round:
        """The bare start, then the job until its first commit, as its log tells it."""
        shards = kept(self.drawn, scenes, 2 * _SHARD, _SHARD)
        began = time.time()
        bare = float(_python("-c", _BARE).stdout.split()[-1]) - began
        began = time.time()
        done = _python("jobs/embed_laion.py", f"--input={shards}", f"--db={self._new('lake')}", "--log-json")
        at = {name: when - began for name, when in milestones(done.stderr).items()}
        return {"seconds more": at["first rows"] - bare, "bare": bare} | at

    def calls(self) -> Round:
        """What the job says of itself, with shards of a few samples."""
        shards = kept(self.drawn, scenes, self.sizes.small_shards * _SMALL, _SMALL)
        done = _python("jobs/embed_laion.py", f"--input={shards}", f"--db={self._new('lake')}", "--json")
        told = json.loads(done.stdout)
        each = told["pairs_per_call"]
        return {"ratio": each / PICTURES, "pairs a call": each, "calls": told["calls"], "seconds": told["seconds"]}

    def _ours(self, shards: Path, model: Path) -> Steady:
        db, marks = self._new("lake"), self._new("marks")
        _python("-m", "bench.whole", "run", *_given(shards=shards, model=model, db=db, marks=marks))
        return _steady(db / "laion.lance", marks, shards)

    def _peer(self, shards: Path, actors: int) -> Steady:
        table, marks = self._new("peer.lance"), self._new("marks")
        given = _given(shards=shards, model=DEFAULT_MODEL, table=table, marks=marks, actors=actors)
        _python("-m", "bench.stock_ray", *given)
        return _steady(table, marks, shards)

    def _alone(self, shards: Path, model: Path) -> Steady:
        marks = self._new("marks")
        _python("-m", "bench.whole", "alone", *_given(shards=shards, model=model, marks=marks), OMP_NUM_THREADS="1")
        (found,) = left_in(marks)
        return steady([found], found[-1].at)

    def _new(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(dir=self.scratch)) / name


def milestones(log: str) -> dict[str, float]:
    """When a run began, joined its cluster and committed its first rows, by the lines of its --log-json."""
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    found: dict[str, float] = {}
    for event in events:
        if name := _milestone(event):
            found.setdefault(name, datetime.fromisoformat(event["time"]).timestamp())
    return found


def _milestone(event: dict[str, Any]) -> str:
    if event["event"] == "commit" and event["rows"]:
        return "first rows"
    if event["event"] == "message" and event["message"].startswith("computing on"):
        return "cluster joined"
    return "run begun" if event["event"] == "run_started" else ""


def _given(**values: object) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def _python(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    everything = os.environ | environment
    done = subprocess.run([sys.executable, *words], check=False, capture_output=True, text=True, env=everything)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-4000:]}")
    return done


def _steady(table: Path, marks: Path, shards: Path) -> Steady:
    """Of what a run left; refused unless each pair was embedded once and is in the table."""
    found, data = left_in(marks), lance.dataset(str(table))
    embedded, rows = sum(mark.pairs for one in found for mark in one), data.count_rows()
    wanted = int(shards.name.split("-")[1])
    if not embedded == rows == wanted:
        raise SystemExit(f"{table}: {embedded} pairs were embedded and {rows} rows committed of {wanted}")
    return steady(found, data.versions()[-1]["timestamp"].timestamp())
