"""Demo shards: drawn scenes as five WebDataset tars and one parquet file, with broken samples among them.

Tars are written by webdataset, the parquet file by pyarrow; the same seed gives the same bytes.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from webdataset import ShardWriter

from demo.captions import phrase, reordered, told, vaguer
from demo.draw import draw
from demo.place import random_scene
from demo.scenes import CANVAS, Scene, generator

TARS = 5
ROW_GROUP = 128
MTIME = 1_700_000_000  # a fixed time, for the same bytes in every run
CAPTIONS_STREAM = 1  # captions come from a stream of their own beside the scene's
EVERY_SEVERAL = 5  # one picture of so many has three captions
EVERY_THREE = 3  # and one of so many shows three objects, the others two
PAIRS_PER_IMAGE = 1 + 2 / EVERY_SEVERAL


@dataclass(frozen=True, slots=True)
class Planted:
    """A broken sample: the reason (a `RejectReason`) for which `pairs` pairs of `key` in `shard` are rejected."""

    shard: str
    key: str
    reason: str
    pairs: int = 1


@dataclass
class Packed:
    """What was written; `pairs` can be embedded, and the rest is planted."""

    folder: Path
    shards: list[str] = field(default_factory=list)
    images: int = 0
    pairs: int = 0
    long_captions: int = 0  # of the pairs, those cut to the model's limit
    planted: list[Planted] = field(default_factory=list)

    def summary(self) -> str:
        """One paragraph for people."""
        reasons = ", ".join(f"{p.reason} {p.pairs}" for p in self.planted)
        return (
            f"{self.folder}: {len(self.shards)} shards ({self.shards[0]} to {self.shards[-1]}), "
            f"{self.images} pictures, {self.pairs} pairs, {self.long_captions} with a caption over the model's limit\n"
            f"and broken samples on purpose: {reasons}"
        )


@dataclass(frozen=True)
class Sample:
    """One drawn scene, ready to be packed."""

    key: str
    scene: Scene
    captions: tuple[str, ...]
    suffix: str
    image: bytes

    @property
    def metadata(self) -> dict[str, object]:
        """What a crawler would have noted beside it; `distance` is between the nearest two, in picture widths."""
        distance = min(float(np.hypot(a.x - b.x, a.y - b.y)) for a, b in combinations(self.scene.objects, 2))
        return {
            "key": self.key,
            "url": f"https://scenes.example/{self.key}.{self.suffix}",
            "width": CANVAS,
            "height": CANVAS,
            "background": self.scene.background.kind,
            "distance": round(distance / CANVAS, 4),
        }


def encoded(picture: Image.Image, suffix: str) -> bytes:
    """A picture as the bytes of a jpg, png or webp."""
    out = io.BytesIO()
    if suffix == "jpg":
        picture.save(out, "JPEG", quality=92, subsampling=0)
    elif suffix == "png":
        picture.save(out, "PNG", compress_level=3)
    else:
        picture.save(out, "WEBP", quality=90, method=2)
    return out.getvalue()


def scene_of(seed: int, index: int) -> Scene:
    """Scene `index` of the shards of `seed`."""
    return random_scene(seed, index, 3 if index % EVERY_THREE == 1 else 2)


def sample(seed: int, index: int, key: str) -> Sample:
    """Scene `index` of the series `seed`, with one caption or three."""
    scene = scene_of(seed, index)
    rng = generator(seed, index, CAPTIONS_STREAM)
    count = 3 if index % EVERY_SEVERAL == EVERY_SEVERAL - 1 else 1
    said = [phrase(reordered(told(scene, rng), 50, rng), rng)]
    while len(said) < count:
        other = phrase(reordered(vaguer(told(scene, rng), rng), 50, rng), rng)
        said += [other] if other not in said else []
    suffix = {3: "png", 7: "webp"}.get(index % 12, "jpg")
    return Sample(key, scene, tuple(said), suffix, encoded(draw(scene), suffix))


def _member(one: Sample) -> dict[str, object]:
    """A WebDataset sample: one caption as .txt, several as a list in the .json."""
    metadata = one.metadata
    found: dict[str, object] = {"__key__": one.key, one.suffix: one.image}
    if len(one.captions) == 1:
        found["txt"] = one.captions[0]
    else:
        metadata["caption"] = list(one.captions)
    return found | {"json": json.dumps(metadata).encode()}


def _broken(shard: int, good: Sample) -> Iterator[tuple[dict[str, object], str, int]]:
    """The broken samples of one tar: the sample, why it will be rejected, and how many pairs that makes."""
    key, caption, picture = f"{shard:05d}9", good.captions[0], encoded(draw(good.scene), "jpg")
    if shard == 0:
        both = json.dumps({"caption": [caption, "the same cut picture"]}).encode()
        yield {"__key__": key + "000", "jpg": picture[: len(picture) // 3], "json": both}, "truncated", 2
        yield {"__key__": key + "001", "jpg": b"<html>404 Not Found</html>", "txt": caption}, "undecodable", 1
    elif shard == 1:
        yield {"__key__": key + "000", "jpg": picture, "json": b'{"width": 256}'}, "no_caption", 1
        yield {"__key__": key + "001", "txt": caption, "json": b'{"width": 256}'}, "no_image", 1
    elif shard == 2:
        strip = encoded(Image.new("RGB", (3000, 20), (206, 222, 234)), "jpg")
        yield {"__key__": key + "000", "jpg": strip, "txt": "a very wide strip of sky"}, "extreme_aspect", 1
        yield {"__key__": key + "001", "jpg": picture, "txt": caption, "json": b'{"width": 25'}, "bad_json", 1
    elif shard == 3:
        yield {"__key__": good.key, "jpg": picture, "txt": caption}, "duplicate_key", 1


def _long(one: Sample) -> Sample:
    """The same with a caption that goes on and on, as some on the web do: more than 64 tokens."""
    return Sample(one.key, one.scene, (", and ".join([one.captions[0]] * 8),), one.suffix, one.image)


def _write_tars(packed: Packed, samples: list[list[Sample]]) -> None:
    pattern = str(packed.folder / "%05d.tar")
    options = {"mtime": MTIME, "mode": 0o644, "user": "demo", "group": "demo"}
    with ShardWriter(pattern, maxcount=10**9, verbose=0, **options) as writer:
        for shard, good in enumerate(samples):
            if shard:
                writer.next_stream()
            name = f"{shard:05d}.tar"
            packed.shards.append(name)
            for one in good:
                writer.write(_member(one))
            for member, reason, pairs in _broken(shard, good[0]):
                writer.write(member)
                packed.planted.append(Planted(name, str(member["__key__"]), reason, pairs))


def _write_parquet(packed: Packed, samples: list[Sample]) -> None:
    """As img2dataset writes parquet: a status a row, and no bytes where nothing was downloaded."""
    name = f"{TARS:05d}.parquet"
    rows = [
        {**one.metadata, "caption": one.captions[0], "status": "success", "error_message": None}
        | {"image": {"bytes": one.image, "path": f"{one.key}.{one.suffix}"}}
        for one in samples
    ]
    gone, silent = rows[len(rows) // 3], rows[len(rows) // 2]
    gone.update(image={"bytes": None, "path": None}, status="failed_to_download", error_message="HTTP Error 404")
    silent.update(caption="")
    for row, reason in ((gone, "not_downloaded"), (silent, "no_caption")):
        packed.planted.append(Planted(name, str(row["key"]), reason))
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = ("key", "url", "caption", "background", "status", "error_message")
    numbers = [("width", pa.int32()), ("height", pa.int32()), ("distance", pa.float32())]
    schema = pa.schema([*((text, pa.string()) for text in texts), ("image", image), *numbers])
    pq.write_table(pa.Table.from_pylist(rows, schema), packed.folder / name, row_group_size=ROW_GROUP)
    packed.shards.append(name)


def pack(folder: Path, pairs: int = 3000, seed: int = 0) -> Packed:
    """Draw about `pairs` pairs and write them as shards into `folder`, with some broken samples besides.

    Raises:
        ValueError: too few pairs for six shards.
    """
    each = round(pairs / (TARS * PAIRS_PER_IMAGE + 1))
    if each < EVERY_SEVERAL:
        raise ValueError(f"--pairs {pairs}: at least 40 are needed to fill {TARS + 1} shards")
    folder.mkdir(parents=True, exist_ok=True)
    shards = [[sample(seed, shard * each + i, f"{shard:05d}{i:04d}") for i in range(each)] for shard in range(TARS + 1)]
    shards[TARS - 1][0] = _long(shards[TARS - 1][0])
    packed = Packed(folder)
    _write_tars(packed, shards[:TARS])
    _write_parquet(packed, shards[TARS])
    good = [one for shard in shards[:TARS] for one in shard]
    packed.images = len(good) + each - 2
    packed.pairs = sum(len(one.captions) for one in good) + each - 2
    packed.long_captions = 1
    return packed
