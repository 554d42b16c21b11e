"""A run that has ended, with hostile captions, rejects and a failed shard, as its report is made of it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.cluster import Placement
from pipeline.config import ReadConfig, RunConfig, WriteConfig
from pipeline.reports.curve import Curve
from pipeline.reports.report import Ran
from pipeline.summary import Summary
from pipeline.watch.progress import Counts
from tests.ingest import Lake
from tests.lakes import HOSTILE
from tests.shards import picture, write_tar

RUN = "4f3e2d1c0b9a"
BUSY = {"read": 21.5, "infer": 95.25, "write": 3.2}


def hostile_lake(folder: Path) -> Lake:
    """A shard of an earlier run; then of `RUN` 40 rows, with captions of `HOSTILE`, and three kinds of rejects."""
    lake = Lake(folder)
    lake.write("before.tar", 900, 5, 1)
    lake.run("before.tar")
    captions = [text for text in HOSTILE if text]
    items = []
    for i in range(40):
        # img2dataset's: a text file holds no NUL
        text = captions[i % len(captions)] if i < 20 else " ".join(["word"] * (i % 4 + 1))
        items += [
            (f"{i:05d}.jpg", picture(i, (320, 240 + i))),
            (f"{i:05d}.json", json.dumps({"caption": text}).encode()),
        ]
    write_tar(lake.root / "00000.tar", items[:40])
    write_tar(lake.root / "00001<b>.tar", items[40:])
    bad = [(f"9{i}.jpg", b"<html>") for i in range(3)] + [("95.jpg", picture(95, (640, 20)))]
    write_tar(lake.root / "bad.tar", [each for n, d in bad for each in ((n, d), (n[:-3] + "txt", b"a <i>reject</i>"))])
    write_tar(lake.root / "mute.tar", [("0.jpg", picture(7, (200, 200)))])
    lake.run("00000.tar", "00001<b>.tar", "bad.tar", "mute.tar", run_id=RUN)
    return lake


def summary(**other: object) -> Summary:
    """Of `RUN`."""
    told = Summary(
        run_id=RUN,
        outcome="incomplete",
        table="lake/laion.lance",
        shards=5,
        skipped=1,
        committed=4,
        elsewhere=0,
        failures={"torn.tar": "torn.tar: it ends <early>"},
        quarantined={"ill.tar": "ill.tar: no tar, see https://x?signature=abcdef"},
        replaced=0,
        touched=0,
        vanished=(),
        pruned=(),
        rows=40,
        rejects={"undecodable": 3, "extreme_aspect": 1, "no_caption": 1},
        truncated=2,
        seconds=128.5,
        busy=BUSY,
        calls=5,
        pairs_per_call=8.0,
        commits=4,
        conflicts=0,
        version=7,
    )
    return replace(told, **other)  # type: ignore[arg-type]


def watched(seconds: float = 120.0) -> Curve:
    """A run that began slowly and went on at 300 pairs a second or so."""
    curve = Curve()
    for tenth in range(int(seconds * 10)):
        now = tenth / 10
        pairs = int(max(0.0, now - 8) * 300 + 200 * (tenth // 40 % 3))
        curve.hear(Counts(0, 5, pairs, 0, 0, now))
    return curve


def ran(lake: Lake, after: int = -1, read: Mapping[str, object] | None = None) -> Ran:
    """As the driver tells it."""
    read_config = ReadConfig((str(lake.root),), **(read or {}))  # type: ignore[arg-type]
    config = RunConfig(read_config, WriteConfig(lake.database.uri, report=True))
    placement = Placement(2, 2, 1.0, 0.5, 0.0, "cpu", "float32", "asked for")
    return Ran(lake.database, str(lake.root), config, after, placement, watched())
