"""WebDataset tars -> samples and rejects at exact positions; a broken tar is a ShardError."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Keep, ReadConfig
from pipeline.errors import ConfigError, RejectReason, ShardError
from pipeline.read import Reject, Sample, read_slice, resolve_keep
from pipeline.shards import Shard, Slice
from tests.shards import (
    Member,
    members,
    picture,
    positions,
    read,
    rejects,
    samples,
    shard,
    tar_bytes,
    whole,
    write_tar,
)

JPG = picture()


def found(tmp_path: Path, items: list[Member | tarfile.TarInfo], **options: object) -> list[Sample | Reject]:
    return read(write_tar(tmp_path / "x.tar", items), **options)


def only_reject(tmp_path: Path, items: list[Member | tarfile.TarInfo], **options: object) -> Reject:
    (reject,) = found(tmp_path, items, **options)
    assert isinstance(reject, Reject)
    return reject


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz", "no_name_that_helps"])
def test_tar_gives_every_sample_with_caption_url_and_metadata(tmp_path: Path, name: str) -> None:
    got = read(write_tar(tmp_path / name, members(3)))
    assert positions(got) == [0, 1, 2]
    second = samples(got)[1]
    assert (second.key, second.image, second.url) == ("00001", picture(1), "http://x/1")
    assert [(c.position, c.index, c.text) for c in second.captions] == [(1, 0, "caption 1")]
    assert json.loads(second.metadata or "") == {"similarity": 0.125}


@pytest.mark.parametrize("name", ["x.tar", "x.tgz"])
def test_tar_tells_where_the_picture_lies_in_the_unpacked_stream(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path / name, members(3))
    data = gzip.decompress(path.read_bytes()) if name.endswith("tgz") else path.read_bytes()
    for sample in samples(read(path)):
        start = sample.place.image_offset or 0
        assert data[start : start + (sample.place.image_length or 0)] == sample.image


def test_tar_reads_the_same_twice(tmp_path: Path) -> None:
    items = [*members(3), ("00001.jpg", JPG), ("a.txt", b"no picture"), *members(2, start=5)]
    assert found(tmp_path, items) == found(tmp_path, items)


@pytest.mark.parametrize("suffix", ["jpg", "JPG", "jpeg", "Png", "webp", "WEBP"])
def test_tar_takes_picture_suffixes_in_any_case(tmp_path: Path, suffix: str) -> None:
    assert samples(found(tmp_path, [(f"a.{suffix}", JPG), ("a.txt", b"x")]))[0].image == JPG


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.jpg", "a"),
        ("./a.jpg", "a"),
        ("deep/er.d/a.jpg", "deep/er.d/a"),
        ("ünï.jpg", "ünï"),
        ("n" * 300 + ".jpg", "n" * 300),
    ],
)
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_tar_key_is_the_path_up_to_the_first_dot_of_the_base_name(
    tmp_path: Path, name: str, key: str, format: int
) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes([(name, JPG), (name.replace("jpg", "txt"), b"x")], format))
    (sample,) = read(tmp_path / "x.tar")
    assert sample.key == key


def test_tar_key_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    data = tar_bytes([("aQa.jpg", JPG), ("aQa.txt", b"x")], tarfile.USTAR_FORMAT)
    blocks = bytearray(data)
    for start in (0, data.index(b"aQa.txt")):
        blocks[start + 1] = 0xFF
        header = blocks[start : start + 512]
        header[148:156] = b" " * 8
        blocks[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.tar").write_bytes(blocks)
    (sample,) = read(tmp_path / "x.tar")
    assert sample.key == "a\\xffa"
    sample.key.encode()


def test_tar_members_that_belong_to_no_sample_are_passed_over(tmp_path: Path) -> None:
    folder = tarfile.TarInfo("a.d")
    folder.type = tarfile.DIRTYPE
    others: list[Member | tarfile.TarInfo] = [("README", b"x"), ("._a.jpg", b"x"), ("__meta__.json__", b"x"), folder]
    assert len(found(tmp_path, [*others, ("a.jpg", JPG), ("a.npy", bytes(5000)), ("a.txt", b"x"), *others])) == 1


@pytest.mark.parametrize(
    ("texts", "options", "captions"),
    [
        ({"txt": b" two cats\n"}, {}, ["two cats"]),
        ({"txt": "ünï 貓".encode()}, {}, ["ünï 貓"]),
        ({"json": b'{"caption": "from json"}'}, {}, ["from json"]),
        ({"json": b'{"Caption": "any case"}'}, {}, ["any case"]),
        ({"txt": b"text wins", "json": b'{"caption": "no"}'}, {}, ["text wins"]),
        ({"txt": b"  ", "json": b'{"caption": "blank text does not"}'}, {}, ["blank text does not"]),
        ({"json": b'{"caption": ["one", "two"]}'}, {}, ["one", "two"]),
        ({"json": b'{"alt": "a", "long": "b"}'}, {"caption_keys": ("long", "ALT")}, ["b", "a"]),
        ({"json": b'{"alt": ["a", "b"], "long": "c"}'}, {"caption_keys": ("alt", "long")}, ["a", "b", "c"]),
        ({"json": b'{"alt": null, "long": "c"}'}, {"caption_keys": ("alt", "long")}, ["c"]),
        ({"txt": b"t", "json": b'{"alt": "a"}'}, {"caption_keys": ("txt", "alt")}, ["t", "a"]),
        ({"cap": b"own suffix"}, {"caption_keys": ("cap",)}, ["own suffix"]),
    ],
)
def test_tar_captions_come_from_txt_or_json(
    tmp_path: Path, texts: dict[str, bytes], options: dict[str, object], captions: list[str]
) -> None:
    (sample,) = samples(found(tmp_path, [("a.jpg", JPG), *((f"a.{s}", t) for s, t in texts.items())], **options))
    assert [c.text for c in sample.captions] == captions
    assert [c.position for c in sample.captions] == [c.index for c in sample.captions] == list(range(len(captions)))


@pytest.mark.parametrize(
    ("items", "reason", "detail"),
    [
        ([("a.txt", b"x")], RejectReason.NO_IMAGE, "txt"),
        ([("a.seg.png", JPG), ("a.txt", b"x")], RejectReason.NO_IMAGE, "seg.png"),
        ([("a.jpg", JPG)], RejectReason.NO_CAPTION, "no caption"),
        ([("a.jpg", JPG), ("a.txt", b" \n")], RejectReason.NO_CAPTION, "empty"),
        ([("a.jpg", JPG), ("a.json", b'{"caption": null}')], RejectReason.NO_CAPTION, "no caption"),
        ([("a.jpg", JPG), ("a.json", b'{"caption": 5}')], RejectReason.NO_CAPTION, "int, not text"),
        ([("a.jpg", JPG), ("a.txt", b"\xff\xfe")], RejectReason.BAD_TEXT, "not UTF-8: byte 0 is 0xff"),
        ([("a.jpg", JPG), ("a.json", b'{"caption": "\\ud800"}')], RejectReason.BAD_TEXT, "surrogate"),
        ([("a.jpg", JPG), ("a.txt", b"x"), ("a.json", b"{")], RejectReason.BAD_JSON, "Expecting"),
        ([("a.jpg", JPG), ("a.txt", b"x"), ("a.json", b"[1]")], RejectReason.BAD_JSON, "list, not an object"),
        ([("a.jpg", JPG), ("a.txt", b"x"), ("a.json", b"[" * 99999)], RejectReason.BAD_JSON, "recursion"),
    ],
)
def test_tar_rejects_samples_that_lack_something(
    tmp_path: Path, items: list[Member | tarfile.TarInfo], reason: RejectReason, detail: str
) -> None:
    reject = only_reject(tmp_path, items)
    assert (reject.position, reject.key, reject.caption_index, reject.reason) == (0, "a", 0, reason)
    assert detail in reject.detail


def test_tar_rejects_each_caption_of_a_sample_without_picture(tmp_path: Path) -> None:
    got = found(tmp_path, [("a.json", b'{"caption": ["one", "two"], "url": "u"}'), *members(1)])
    assert [(r.position, r.caption_index, r.caption, r.url) for r in rejects(got)] == [
        (0, 0, "one", "u"),
        (1, 1, "two", "u"),
    ]
    assert samples(got)[0].position == 2


def test_tar_rejects_only_the_bad_caption_of_several(tmp_path: Path) -> None:
    got = found(tmp_path, [("a.jpg", JPG), ("a.json", b'{"caption": ["one", "", "three"]}')])
    assert [(c.position, c.index) for c in samples(got)[0].captions] == [(0, 0), (2, 2)]
    assert [(r.position, r.caption_index, r.reason) for r in rejects(got)] == [(1, 1, RejectReason.NO_CAPTION)]


@pytest.mark.parametrize("type", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_tar_rejects_a_picture_that_is_a_link(tmp_path: Path, type: bytes) -> None:
    link = tarfile.TarInfo("a.jpg")
    link.type, link.linkname = type, "elsewhere.jpg"
    reject = only_reject(tmp_path, [link, ("a.txt", b"x")])
    assert reject.reason == RejectReason.NO_IMAGE
    assert "link" in reject.detail


def test_tar_rejects_a_member_larger_than_any_allowed_picture_without_reading_it(tmp_path: Path) -> None:
    reject = only_reject(tmp_path, [("a.jpg", bytes(3 * 2**20)), ("a.txt", b"x")], max_pixels=1000)
    assert reject.reason == RejectReason.TOO_LARGE


def test_tar_rejects_a_key_that_comes_again_with_a_picture_as_duplicate(tmp_path: Path) -> None:
    again: list[Member | tarfile.TarInfo] = [("00000.jpg", JPG), ("00000.txt", b"again")]
    for items in ([*members(1), *again], [*members(2), *again]):
        got = found(tmp_path, items)
        assert [(r.reason, r.caption) for r in rejects(got)] == [(RejectReason.DUPLICATE_KEY, "again")]
        assert positions(got) == list(range(len(items) // 3 + 1))


def test_tar_rejects_both_parts_of_a_torn_sample(tmp_path: Path) -> None:
    got = found(tmp_path, [("a.jpg", JPG), ("b.jpg", JPG), ("b.txt", b"b"), ("a.txt", b"a")])
    assert [(r.position, r.key, r.reason) for r in rejects(got)] == [
        (0, "a", RejectReason.NO_CAPTION),
        (2, "a", RejectReason.TORN_SAMPLE),
    ]
    assert [s.key for s in samples(got)] == ["b"]


def test_tar_keeps_columns_typed_and_the_rest_as_json(tmp_path: Path) -> None:
    text = (
        b'{"caption": "c", "similarity": 0.5, "Count": "7", "ok": true, "tags": ["x"], "rest": [NaN, 1], "none": null}'
    )
    keep = (
        Keep("Similarity", "float32"),
        Keep("count", "int64"),
        Keep("ok", "bool"),
        Keep("tags"),
        Keep("absent", "int64"),
    )
    (sample,) = samples(found(tmp_path, [("a.jpg", JPG), ("a.json", text)], keep=keep))
    assert sample.keep == {"Similarity": 0.5, "count": 7, "ok": True, "tags": '["x"]', "absent": None}
    assert sample.metadata == '{"rest": [null, 1]}'


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int64", '"many"'),
        ("int64", "1.5"),
        ("int64", "true"),
        ("int64", "1e30"),
        ("float32", "1e39"),
        ("float64", "[1]"),
        ("bool", "2"),
    ],
)
def test_tar_rejects_a_kept_value_that_does_not_fit(tmp_path: Path, kind: str, value: str) -> None:
    items: list[Member | tarfile.TarInfo] = [("a.jpg", JPG), ("a.json", f'{{"caption": "c", "n": {value}}}'.encode())]
    reject = only_reject(tmp_path, items, keep=(Keep("n", kind),))
    assert reject.reason == RejectReason.BAD_METADATA
    assert f"no {kind}" in reject.detail
    assert reject.caption == "c"


def test_resolve_keep_tells_types_from_a_tars_first_samples(tmp_path: Path) -> None:
    fields = [{"i": 1, "f": 1, "s": "x", "b": True, "l": []}, {"i": None, "f": 0.5, "s": None, "b": False, "l": [1]}]
    items = [m for n, f in enumerate(fields) for m in ((f"{n}.jpg", JPG), (f"{n}.json", json.dumps(f).encode()))]
    one = shard(write_tar(tmp_path / "x.tar.gz", items))
    config = ReadConfig((one.uri,))
    types = resolve_keep([Keep(n) for n in "IfsbL"], one, config)
    assert [(k.name, k.type) for k in types] == [
        ("I", "int64"),
        ("f", "float64"),
        ("s", "string"),
        ("b", "bool"),
        ("L", "string"),
    ]
    assert resolve_keep([Keep("i", "float32")], one, config) == (Keep("i", "float32"),)
    with pytest.raises(ConfigError, match=r"--keep nope: no such metadata in .*x\.tar\.gz; there are b, f, i, l, s"):
        resolve_keep([Keep("nope")], one, config)


@pytest.mark.parametrize("name", ["url", "KEY", "sha256", "id", "itm_score", "pixels", "caption"])
def test_resolve_keep_refuses_names_that_the_table_has_already(tmp_path: Path, name: str) -> None:
    one = shard(write_tar(tmp_path / "x.tar", members(1)))
    with pytest.raises(ConfigError, match="already"):
        resolve_keep([Keep(name)], one, ReadConfig((one.uri,)))


def cut_in_member(data: bytes) -> bytes:
    return data[:700]


def cut_between_members(data: bytes) -> bytes:
    return data[: data.index(b"00001.jpg")]


def cut_in_header(data: bytes) -> bytes:
    return data[: data.index(b"00001.jpg") + 100]


def flip_in_header(data: bytes) -> bytes:
    at = data.index(b"00001.jpg")
    return data[:at] + b"X" + data[at + 1 :]


def two_in_one(data: bytes) -> bytes:
    return data + data


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_in_member, "cut short: it ends inside 00000.jpg"),
        (cut_between_members, "cut short: it ends at byte .* without the archive's end blocks"),
        (cut_in_header, "cut short"),
        (flip_in_header, "damaged: no tar header at byte"),
        (two_in_one, "data after the archive's end"),
        (lambda data: b"", r"it is empty \(0 bytes\)"),
        (lambda data: b"garbage" * 999, "neither a tar, a gzipped tar nor a parquet: it begins with b'garbage"),
        (lambda data: gzip.compress(data)[:-4], "EOFError"),
        (lambda data: gzip.compress(data, mtime=0)[:300], "EOFError|cut short"),
        (lambda data: gzip.compress(data)[:-8] + bytes(8), "CRC"),
        (lambda data: gzip.compress(data[:1800]), "cut short"),
        (lambda data: gzip.compress(data) + b"tail", "Not a gzipped file|BadGzipFile"),
    ],
)
def test_tar_that_is_not_whole_is_an_error_that_names_the_shard(
    tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "broken.tar"
    path.write_bytes(damage(tar_bytes(members(2))))
    with pytest.raises(ShardError, match=message) as caught:
        read(path)
    assert caught.value.shard == str(path)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 11_000))
def test_tar_cut_anywhere_before_its_end_blocks_is_never_taken_for_whole(cut: int) -> None:
    data = tar_bytes(members(2))
    end = data.rindex(b"}") // 512 * 512 + 512
    store = fsspec.filesystem("memory")
    store.pipe("/cut.tar", data[: min(cut, end)])
    with pytest.raises(ShardError):
        list(read_slice(Slice(Shard("memory:///cut.tar", "cut.tar", -1, ""), 0, 1, None), ReadConfig(("x",))))


def test_tar_with_one_end_block_or_none_to_spare_is_whole(tmp_path: Path) -> None:
    data = tar_bytes(members(2))
    end = data.rindex(b"}") // 512 * 512 + 512
    for blocks in (1, 2, 500):
        (tmp_path / "x.tar").write_bytes(data[:end] + bytes(512 * blocks))
        assert len(read(tmp_path / "x.tar")) == 2


def test_tar_without_members_has_no_pairs(tmp_path: Path) -> None:
    assert found(tmp_path, []) == []


def test_tar_that_is_gone_is_an_error_that_names_the_shard(tmp_path: Path) -> None:
    one = whole(write_tar(tmp_path / "x.tar", members(1)))
    (tmp_path / "x.tar").unlink()
    with pytest.raises(ShardError, match=r"x\.tar: gone, or never there"):
        list(read_slice(one, ReadConfig(("x",))))


def test_tar_that_changed_since_it_was_listed_is_an_error(tmp_path: Path) -> None:
    one = whole(write_tar(tmp_path / "x.tar", members(1)))
    write_tar(tmp_path / "x.tar", members(9))
    with pytest.raises(ShardError, match=r"changed since it was listed: \d+ bytes then, \d+ now"):
        list(read_slice(one, ReadConfig(("x",))))


def test_tar_that_access_is_denied_to_is_an_error_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> Callable[..., None]:
        def open_it(*args: object, **kwargs: object) -> None:
            raise error

        return open_it

    one = Slice(Shard("memory:///x.tar", "x.tar", 10, ""), 0, 1, None)
    store = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(store, "open", fails(PermissionError("Access Denied for AKIAABCDEFGHIJKLMNOP")))
    with pytest.raises(ShardError, match=r"memory:///x.tar: access denied$"):
        list(read_slice(one, ReadConfig(("x",))))
    monkeypatch.setattr("pipeline.stores.retry.DEADLINE", 0)
    monkeypatch.setattr(store, "open", fails(RuntimeError("GET http://h/x?X-Amz-Signature=abcdef&b=1 gave 500")))
    with pytest.raises(ShardError, match=r"gave 500 \(1 try in 0 s\)") as caught:
        list(read_slice(one, ReadConfig(("x",))))
    assert "abcdef" not in str(caught.value)


class _Endless(io.RawIOBase):
    """A tar of many samples that exists nowhere: what is asked for is made, and counted."""

    def __init__(self, one: bytes, count: int) -> None:
        self._one, self._size, self._at = one, len(one) * count, 0
        self.largest = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, to: int, whence: int = 0) -> int:
        self._at = to + (self._at if whence == 1 else self._size if whence == 2 else 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        self.largest = max(self.largest, size)
        start = self._at % len(self._one)
        data = (self._one * (2 + size // len(self._one)))[start : start + size][: max(0, self._size - self._at)]
        self._at += len(data)
        return data


def test_tar_of_two_gigabytes_is_streamed_in_small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    block = tar_bytes([("a.jpg", JPG), ("a.txt", b"x"), ("a.npy", bytes(2**20))], tarfile.USTAR_FORMAT)
    one = block[: block.index(b"a.npy") + 512 + 2**20]
    stream = _Endless(one, 2 * 2**30 // len(one))
    monkeypatch.setattr("pipeline.read.open_shard", lambda uri, size, etag, tries: stream)
    slice = Slice(Shard("memory:///big.tar", "big.tar", -1, ""), 0, 1, None)
    reading = read_slice(slice, ReadConfig(("x",)))
    expected = 2 * 2**30 // len(one) - 1  # the last one is still open where the stream ends
    assert sum(1 for _ in islice(reading, expected)) == expected
    with pytest.raises(ShardError, match="without the archive's end blocks"):  # it has none
        next(reading)
    assert stream.largest < 2**20


def test_tar_with_a_size_below_zero_does_not_go_round_for_ever(tmp_path: Path) -> None:
    block = bytearray(tar_bytes([("a.jpg", JPG), ("a.txt", b"x")], tarfile.USTAR_FORMAT))
    block[124:136] = (2**96 - 1024).to_bytes(12, "big")  # GNU's binary form of -1024
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    (tmp_path / "x.tar").write_bytes(block)
    with pytest.raises(ShardError, match="damaged"):
        read(tmp_path / "x.tar")
