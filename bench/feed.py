"""What the pictures cost before the model sees them, and after: real-sized JPEGs, an embedder that costs nothing.

    python -m bench.feed

Reading, decoding, resizing and writing as a run does them, in one process and without Ray, as it is and with
`--jpeg-draft`, beside a bare loop of tarfile, Pillow and transformers' processor, which writes nothing. CPU seconds of
the whole process, one thread. What `--jpeg-draft` changes is measured by `bench.draft`.
"""

import argparse
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
from PIL import Image
from transformers.models.bridgetower.image_processing_pil_bridgetower import BridgeTowerImageProcessorPil

from bench.flow import CONTRACT, NothingEmbedder
from bench.hardware import hardware
from bench.photo import photo
from model.geometry import Geometry
from model.prepare import Preparer
from pipeline.config import ReadConfig
from pipeline.contract import Layout
from pipeline.database import Database
from pipeline.embed import embed_batch
from pipeline.gather import positions_of
from pipeline.prepare import prepare_slice
from pipeline.schema import Kind, rows_schema
from pipeline.stored import Stored
from pipeline.write import Job, Target, write_jobs
from tests.checkpoints import POSITIONS, tokenizer
from tests.shards import whole, write_tar

SIDES = (640, 1280)
GEOMETRY = Geometry(shortest=294, crop=294)  # of the large checkpoint
_CALL = 64


def make_shard(folder: Path, side: int, count: int) -> Path:
    """A tar of `count` pictures with a caption each."""
    items = [(f"{i:05d}.{kind}", data) for i in range(count) for kind, data in _sample(side, i).items()]
    return write_tar(folder / f"{side}.tar", items)


def _sample(side: int, number: int) -> dict[str, bytes]:
    return {"jpg": photo(side, number), "txt": f"picture {number} of a thing".encode()}


def bare(shard: Path) -> int:
    """The loop that everybody writes first."""
    processor = BridgeTowerImageProcessorPil(size={"shortest_edge": 294}, crop_size={"shortest_edge": 294})
    done = 0
    with tarfile.open(shard) as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                file = tar.extractfile(member)
                assert file is not None  # a plain file
                image = Image.open(io.BytesIO(file.read())).convert("RGB")
                done += len(processor([image], return_tensors="pt")["pixel_values"])
    return done


def ours(shard: Path, lake: Path, draft: bool) -> int:
    """The stages of a run, one after another."""
    schema = Layout(rows_schema((), ("image", "text", "cross"), CONTRACT.dimension, "float16"), CONTRACT)
    stored = Stored(("image", "text", "cross"), CONTRACT.dimension, "float16", ())
    database = Database(str(lake), "laion")
    database.create("", schema.with_metadata)
    target = Target(database, schema.schema, "laion", "0" * 12)
    preparer, embedder = Preparer(GEOMETRY, tokenizer(), POSITIONS - 2), NothingEmbedder()
    read = ReadConfig((str(shard),), jpeg_draft=draft)
    blocks = [
        embed_batch(prepared, embedder, stored, _CALL) for prepared in prepare_slice(whole(shard), "a", read, preparer)
    ]
    rows = pa.concat_tables(blocks)
    pairs = rows.filter(pa.compute.equal(rows["kind"], Kind.PAIR))
    (report,) = write_jobs(target, [Job("a", (0,), positions_of(pairs), 1)], rows)
    return report.embedded


def rates(shard: Path, count: int, folder: Path, repeats: int) -> Iterator[tuple[float, float, float]]:
    """Samples a CPU-second of the bare loop, of ours, and of ours with --jpeg-draft, in turn."""
    for number in range(repeats + 1):
        lake = folder / f"lake-{shard.stem}-{number}"
        drafts = partial(ours, shard, lake.with_suffix(".draft"), draft=True)
        calls = (partial(bare, shard), partial(ours, shard, lake, draft=False), drafts)
        loop, mine, draft = (count / _cpu(call, count) for call in calls)
        if number:  # the first round warms up
            yield loop, mine, draft


def _cpu(call: Callable[[], int], count: int) -> float:
    began = time.process_time()
    if (done := call()) != count:
        raise SystemExit(f"{done} samples came of {count}")
    return time.process_time() - began


def main() -> None:
    """Measure each size and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="of the pictures' longer side, in pixels")
    parser.add_argument("--json", action="store_true", help="one machine-readable object")
    args = parser.parse_args()
    found: dict[str, Any] = {"hardware": hardware(), "samples": args.samples}
    if not args.json:
        print(f"{found['hardware']}; {args.samples} samples, {args.repeats} rounds\n")
        print(f"{'':8}{'JPEG':>8}{'bare loop':>14}{'ours':>10}{'--jpeg-draft':>26}{'':9}samples/CPU-s")
    with tempfile.TemporaryDirectory() as folder:
        for side in args.sides:
            shard = make_shard(Path(folder), side, args.samples)
            rounds = list(rates(shard, args.samples, Path(folder), args.repeats))
            loop, mine, draft = (median(each) for each in zip(*rounds, strict=True))
            gain, more = median(m / b for b, m, _ in rounds), median(d / m for _, m, d in rounds)
            kb = shard.stat().st_size / args.samples / 1000
            found[f"{side}"] = {"kb": kb, "bare": loop, "ours": mine, "gain": gain, "draft": draft, "draft_gain": more}
            if not args.json:
                print(f"{side:>5} px{kb:5.0f} kB{loop:14.1f}{mine:10.1f}  x {gain:.2f}{draft:18.1f}  x {more:.2f}")
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
