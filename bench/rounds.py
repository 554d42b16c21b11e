"""One round of each part of `bench.ends`: what is compared, one after the other, each in processes of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import lance
import numpy as np
from transformers import CLIPConfig

from bench.drawn import checkpoint, kept, photos, scenes
from bench.like import clip, operations
from bench.marks import Mark, Steady, left_in, steady
from bench.waterfall import Case, flops_a_pair
from bench.whole import PICTURES, ready
from bridgelake import DEFAULT_MODEL
from bridgelake.wiring import as_model
from model import resolve

Round = dict[str, float]
_SHARD = 512  # pairs
_SMALL = 10
CLIP_RETRIEVAL = Path(".venv-clip-retrieval/bin/python")
_READERS = 4  # of clip-retrieval, unless told otherwise; one that finds no tar ends it
_OFFLINE = {"HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
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
    """Of `model` and `clip`: base, large, or tiny for a quick look."""
    model_pairs: int = 576
    """Of `model`."""
    ray_pairs: int = 10_240
    """Of `ray`."""
    peer_actors: tuple[int, ...] = (1, 2)
    """Of `ray`: how many actors the peer has, in turn; ours is compared with the fastest."""
    small_shards: int = 320
    """Of `calls`."""
    clip_pairs: int = 128
    """Of `clip`."""


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

    def clip(self) -> Round:
        """clip-retrieval with as many operations; ours by itself, in float32, and so with its threads."""
        if not CLIP_RETRIEVAL.exists():
            raise SystemExit(f"clip: there is no {CLIP_RETRIEVAL}; bench/README.md tells how it is made")
        each = min(PICTURES, self.sizes.clip_pairs // _READERS)
        shards = kept(self.drawn, photos, self.sizes.clip_pairs, each)
        model = kept(self.drawn, checkpoint, self.sizes.size)
        _, token_ids = ready(sorted(shards.iterdir())[0], as_model(resolve(str(model))).make_preparer())
        tokens = round(mean(map(len, token_ids)))
        like = kept(self.drawn, clip, self.sizes.size, tokens)
        peer = self._clip_retrieval(shards, like, each)
        ours = partial(self._ours, shards, model, pictures=each, vectors="image,text")
        usual, full = ours(), ours(dtype="float32")
        level = ours(threads=peer.threads, dtype="float32")
        return {
            "ratio": min(usual.rate, level.rate) / peer.rate,
            "pairs/s": usual.rate,
            "float32": full.rate,
            "float32, its threads": level.rate,
            "peer": peer.rate,
            "pairs/CPU-s": usual.cpu_rate,
            "float32, CPU": full.cpu_rate,
            "its threads, CPU": level.cpu_rate,
            "peer, CPU": peer.cpu_rate,
            "threads": usual.threads,
            "peer, threads": peer.threads,
            "in the model": usual.busy,
            "peer, in the model": peer.busy,
            "pairs": usual.pairs,
            "peer, pairs": peer.pairs,
            "tokens": tokens,
            "GFLOP a pair": flops_a_pair(self.sizes.size, Case(tokens, 1)) / 1e9,
            "peer, GFLOP": operations(CLIPConfig.from_pretrained(like)) / 1e9,
        }

    def _ours(self, shards: Path, model: Path, threads: int = 0, **how: object) -> Steady:
        """With so many threads in the actor; 0: as Ray gives it."""
        db, marks = self._new("lake"), self._new("marks")
        given = _given(shards=shards, model=model, db=db, marks=marks, **how)
        _python("-m", "bench.whole", "run", *given, **({"OMP_NUM_THREADS": str(threads)} if threads else {}))
        found = _steady(db / "laion.lance", marks, shards)
        if threads not in (0, found.threads):
            raise SystemExit(f"{shards}: the actor had {found.threads} threads, not {threads}")
        return found

    def _clip_retrieval(self, shards: Path, model: Path, each: int) -> Steady:
        output, marks = self._new("vectors"), self._new("marks")
        # A reader gathers a call from one tar, so that every call is full.
        given = _given(shards=shards, model=model, output=output, marks=marks, batch_size=each)
        _python("-m", "bench.stock_clip", *given, python=CLIP_RETRIEVAL, **_OFFLINE)
        rows = {sum(map(_finite, output.glob(f"{kind}_emb/*.npy"))) for kind in ("img", "text")}
        found = left_in(marks)
        # Not to its last file: before that it waits for a process that logs, which is seconds whatever the pairs.
        return _checked(found, rows, max((mark.at for one in found for mark in one), default=0.0), shards)

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


def _python(*words: str, python: str | Path = sys.executable, **environment: str) -> "subprocess.CompletedProcess[str]":
    everything = os.environ | environment
    done = subprocess.run([python, *words], check=False, capture_output=True, text=True, env=everything)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-4000:]}")
    return done


def _finite(vectors: Path) -> int:
    """How many vectors of a file could be used."""
    return int(np.isfinite(np.load(vectors)).all(axis=1).sum())


def _steady(table: Path, marks: Path, shards: Path) -> Steady:
    """Of what a run left."""
    data = lance.dataset(str(table))
    last = data.versions()[-1]["timestamp"].timestamp()
    return _checked(left_in(marks), {data.count_rows()}, last, shards)


def _checked(found: list[list[Mark]], rows: set[int], last: float, shards: Path) -> Steady:
    """Refused unless each pair was embedded once and is in each output."""
    embedded, wanted = sum(mark.pairs for one in found for mark in one), int(shards.name.split("-")[1])
    if not rows == {embedded} == {wanted}:
        told = " and ".join(map(str, rows))
        raise SystemExit(f"{shards}: {embedded} pairs were embedded and {told} rows written of {wanted}")
    return steady(found, last)
