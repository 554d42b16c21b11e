"""Shards, pictures and captions that are broken in every way: each is named, and the good ones beside it land."""

import struct
import zlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from tests.faults.head import Head
from tests.faults.proof import agree, counting_rejects, frame, prove, rows
from tests.shards import encoded, members, picture, tar_bytes, write_parquet, write_tar

pytestmark = pytest.mark.faults


def columns(count: int) -> dict[str, pa.Array]:
    pictures, captions = [picture(i) for i in range(count)], [f"row {i}" for i in range(count)]
    return {"jpg": pa.array(pictures, pa.binary()), "caption": pa.array(captions, pa.string())}


def write_good(folder: Path) -> Path:
    folder.mkdir()
    write_tar(folder / "good.tar", members(10))
    write_parquet(folder / "whole.parquet", columns(10))
    return folder


BROKEN_SHARDS = {
    "cut.tar": lambda good: (good / "good.tar").read_bytes()[:9000],
    "cut_between_members.tar": lambda good: (good / "good.tar").read_bytes()[:1536],
    "garbage.tar": lambda good: b"\x07no tar at all" * 1000,
    "garbage_inside.tar": lambda good: tar_bytes(members(3))[:-10240] + b"\xff" * 20480,
    "nothing.tar": lambda good: b"",
    "cut_short.parquet": lambda good: (good / "whole.parquet").read_bytes()[:-40],
    "footer_only_lies.parquet": lambda good: b"PAR1" + b"\0" * 500 + struct.pack("<I", 10**6) + b"PAR1",
    "no_parquet.parquet": lambda good: b"\x07no parquet" * 1000,
    "no_bytes.parquet": lambda good: b"",
}


def test_broken_shards_are_named_and_the_others_land(head: Head, tmp_path: Path) -> None:
    good = write_good(tmp_path / "good")
    assert head.embed(good, tmp_path / "reference").code == 0
    both = write_good(tmp_path / "both")
    for name, made in BROKEN_SHARDS.items():
        (both / name).write_bytes(made(good))
    for number in range(4):
        done = head.embed(both, tmp_path / "lake")
        named = done.summary["failures"] if number < 3 else done.summary["quarantined"]
        assert named.keys() == BROKEN_SHARDS.keys(), done.said
        assert done.code == (1 if number < 3 else 0), done.said  # after three runs they are left alone
        assert all(name in done.said for name in BROKEN_SHARDS)
        prove(tmp_path / "lake", tmp_path / "reference")
    for name in BROKEN_SHARDS:  # empty ones are done
        write_tar(both / name, []) if name.endswith("tar") else write_parquet(both / name, columns(0))
    for committed in (len(BROKEN_SHARDS), 0):
        mended = head.embed(both, tmp_path / "lake")
        assert (mended.code, mended.summary["failures"], mended.summary["quarantined"]) == (0, {}, {}), mended.said
        assert mended.summary["committed"] == committed
        prove(tmp_path / "lake", tmp_path / "reference")


def png(width: int, height: int, lines: bytes) -> bytes:
    """A grey PNG whose header says what it likes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def jpeg_that_says(width: int, height: int) -> bytes:
    data = picture(5)
    at = data.index(b"\xff\xc0") + 5  # the frame header: height, then width
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


PICTURES = {
    "cut": (picture(1)[:300], "truncated"),
    "cut_png": (picture(2, kind="PNG")[:-30], "truncated"),
    "no_bytes": (b"", "undecodable"),
    "text": (b"<html>404</html>", "undecodable"),
    "huge": (png(20_000, 14_000, bytes(20_001) * 10), "too_large"),
    "says_huge_is_small": (jpeg_that_says(60_000, 60_000), "too_large"),
    "strip": (encoded(Image.new("RGB", (3000, 20), "red"), "PNG"), "extreme_aspect"),
    "upright_strip": (encoded(Image.new("RGB", (20, 3000), "red"), "JPEG"), "extreme_aspect"),
}


def test_broken_pictures_are_rejects_of_their_reason(head: Head, tmp_path: Path) -> None:
    good = members(50)
    bad = [m for n, (data, _) in PICTURES.items() for m in ((f"{n}.jpg", data), (f"{n}.txt", n.encode()))]
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "mixed.tar", [*good[:60], *bad, *good[60:]])
    done = head.embed(tmp_path / "shards", tmp_path / "lake")
    assert done.code == 0, done.said
    agree(tmp_path / "lake")
    found = counting_rejects(tmp_path / "lake").set_index("key")["reason"].to_dict()
    assert found == {name: reason for name, (_, reason) in PICTURES.items()}
    alone = tmp_path / "alone"
    alone.mkdir()
    write_tar(alone / "mixed.tar", good)
    assert head.embed(alone, tmp_path / "reference").code == 0
    have, wanted = (frame(tmp_path / n, "laion").set_index("id").sort_index() for n in ("lake", "reference"))
    assert list(have.index) == list(wanted.index)
    assert [v.tolist() for v in have["image_embedding"]] == [v.tolist() for v in wanted["image_embedding"]]


LONG = "word " * 20_000
CAPTIONS: dict[str, tuple[bytes, str | None]] = {  # as it stands in the shard; as it is stored, None for a reject
    "plain": (b"two cats", "two cats"),
    "empty": (b"", None),
    "blank": (b" \n\t ", None),
    "long": (LONG.encode(), LONG.strip()),
    "not_utf8": (b"caf\xe9", None),
    "half_a_character": ("naïve".encode()[:3], None),
    "nuls": (b"two\0cats\0", "two\0cats\0"),
    "right_to_left": ("שלום \u202egnp.exe".encode(), "שלום \u202egnp.exe"),
    "emoji": ("👩\u200d👩\u200d👧 naïve 🦊".encode(), "👩\u200d👩\u200d👧 naïve 🦊"),
    "mark": (b"\xef\xbb\xbfcaption", "\ufeffcaption"),
    "sql": (b"'; DROP TABLE laion; --", "'; DROP TABLE laion; --"),
}


def test_hostile_captions_are_stored_as_they_are_or_rejected(head: Head, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    items = [m for i, n in enumerate(CAPTIONS) for m in ((f"{n}.jpg", picture(i)), (f"{n}.txt", CAPTIONS[n][0]))]
    write_tar(tmp_path / "shards" / "a.tar", items)
    given = {"key": list(CAPTIONS), "jpg": [picture(100 + i) for i in range(len(CAPTIONS))]}
    write_parquet(tmp_path / "shards" / "b.parquet", given | {"caption": [c for c, _ in CAPTIONS.values()]})
    done = head.embed(tmp_path / "shards", tmp_path / "lake")
    assert done.code == 0, done.said
    agree(tmp_path / "lake")
    wanted = {name: text for name, (_, text) in CAPTIONS.items() if text is not None}
    stored, rejects = rows(tmp_path / "lake"), counting_rejects(tmp_path / "lake")
    for shard in ("a.tar", "b.parquet"):
        mine = stored[stored["shard"] == shard]
        assert mine.set_index("key")["caption"].to_dict() == wanted
        assert Counter(rejects["reason"][rejects["shard"] == shard]) == {"no_caption": 2, "bad_text": 2}
