"""Inputs -> shards -> slices."""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from pipeline.errors import BridgelakeError, ConfigError, InputError
from pipeline.shards import Format, Listing, Shard, Slice, cut, list_shards, sniff
from pipeline.stores.inputs import expand, shared_root
from tests.shards import members, shard, tar_bytes, write_parquet, write_tar

TAR = tar_bytes(members(1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As img2dataset and others leave one: shards, sidecars, rubbish, a folder below."""
    for name in ("00000.tar", "00001.tar", "00002.tar.gz"):
        write_tar(tmp_path / name, members(1))
        (tmp_path / name.replace(".tar", "_stats.json").removesuffix(".gz")).write_text("{}")
    write_parquet(tmp_path / "00000.parquet", {"url": ["u"], "caption": ["c"]})
    write_parquet(tmp_path / "alone.parquet", {"jpg": [b"x"], "caption": ["c"]})
    (tmp_path / "noname").write_bytes(TAR)
    (tmp_path / "README.md").write_text("no shard")
    for hidden in (".hidden.tar", "_temporary.tar"):
        (tmp_path / hidden).write_bytes(TAR)
    for below in ("more", "_tmp", ".cache"):
        (tmp_path / below).mkdir()
        write_tar(tmp_path / below / "00009.tar", members(1))
    return tmp_path


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    yield store
    store.store.clear()


def paths(inputs: str | list[str], root: str | None = None) -> list[str]:
    return [s.path for s in list_shards([inputs] if isinstance(inputs, str) else inputs, root).shards]


def test_sniff_tells_formats_by_their_first_bytes() -> None:
    assert sniff(TAR[:4096]) == Format.TAR
    assert sniff(bytes(1024)) == Format.TAR
    assert sniff(gzip.compress(TAR)[:4096]) == Format.TAR_GZ
    assert sniff(b"PAR1....") == Format.PARQUET
    for other in (b"", b"\x1f\x8b", b"\x1f\x8bjunk", gzip.compress(b"text" * 999), b"a" * 4096, b"PK\x03\x04"):
        assert sniff(other) == Format.OTHER


def test_listing_of_a_folder_takes_shards_and_leaves_sidecars_hidden_files_and_rubbish(folder: Path) -> None:
    listing = list_shards([str(folder)], None)
    names = [s.path for s in listing.shards]
    assert names == ["00000.tar", "00001.tar", "00002.tar.gz", "alone.parquet", "more/00009.tar", "noname"]
    assert listing.root == str(folder)
    assert listing.ignored == 1


def test_listing_tells_size_and_modification_time(folder: Path) -> None:
    os.utime(folder / "00000.tar", (1, 1))
    first = list_shards([str(folder / "00000.tar")], None).shards[0]
    assert first == Shard(str(folder / "00000.tar"), "00000.tar", (folder / "00000.tar").stat().st_size, "1.000000")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.tar", ["00000.tar", "00001.tar"]),
        ("0000[1-9].tar*", ["00001.tar", "00002.tar.gz"]),
        ("*.parquet", ["alone.parquet"]),  # 00000.parquet is a sidecar though the pattern does not show its tar
        ("**/*.tar", ["00000.tar", "00001.tar", "more/00009.tar"]),
        ("mor*", ["more/00009.tar"]),
        ("{00000..00001}.tar", ["00000.tar", "00001.tar"]),
        ("{more,.}/{00009,00001}.tar", None),
        ("{more/*,00001}.tar", ["00001.tar", "more/00009.tar"]),
        ("00000.parquet", ["00000.parquet"]),  # named by its own name, so meant
        ("_temporary.tar", ["_temporary.tar"]),
    ],
)
def test_listing_follows_patterns(folder: Path, pattern: str, found: list[str] | None) -> None:
    if found is None:
        with pytest.raises(InputError, match="names 4 files, 2 are not there"):
            paths(f"{folder}/{pattern}")
    else:
        assert paths(f"{folder}/{pattern}", root=str(folder)) == found


def test_listing_takes_relative_paths_and_file_urls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    relative = list_shards([folder.name], None)
    assert relative == list_shards([str(folder)], None) == list_shards([f"file://{folder}/"], None)


def test_listing_takes_a_file_name_with_pattern_letters_as_it_stands(tmp_path: Path) -> None:
    write_tar(tmp_path / "a[1]*.tar", members(1))
    assert paths(str(tmp_path / "a[1]*.tar")) == ["a[1]*.tar"]


def test_listing_lists_duplicated_inputs_once(folder: Path) -> None:
    twice = [str(folder), f"{folder}/*.tar", str(folder / "00000.tar"), str(folder / "00000.tar")]
    assert paths(twice) == paths(str(folder))


def test_listing_takes_an_explicit_file_as_a_shard_whatever_is_in_it(folder: Path) -> None:
    assert paths(str(folder / "README.md")) == ["README.md"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no such file or folder: .*nothing"),
        ("*.zip", r"no shard in .*\*.zip: looked for tar.*found no file"),
        ("*.md", "found 1 files that are none of these: README.md"),
        ("empty", "no shard in .*empty.*found no file"),
        ("nothing/*.tar", "no shard in|no such"),
        ("{00000..00003}.tar", "names 4 files, 2 are not there .00002.tar, 00003.tar"),
    ],
)
def test_listing_says_what_was_looked_for_and_what_was_found(folder: Path, name: str, message: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        paths(f"{folder}/{name}")


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAABCDEFGHIJKLMNOP:verysecret@bucket/x.tar",
        "s3://KEY:very/verysecret/@b/x.tar",
        "ftp://user:verysecret@host/x.tar",
    ],
)
def test_listing_refuses_credentials_in_urls_and_does_not_print_them(url: str) -> None:
    with pytest.raises(ConfigError, match="holds credentials") as caught:
        paths(url)
    assert "verysecret" not in str(caught.value)
    assert "AKIA" not in str(caught.value)


@pytest.mark.parametrize("text", ["nosuchstore://x/y.tar", "simplecache::s3://b/x.tar"])
def test_listing_refuses_urls_that_it_cannot_follow(text: str) -> None:
    with pytest.raises(ConfigError, match=text[:10]):
        paths(text)


def test_listing_reads_any_store_and_sees_new_files_at_once(memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe({"/lake/a.tar": TAR, "/lake/b/c.tar": TAR, "/lake/x.txt": b"text"})
    listing = list_shards(["memory://lake"], None)
    assert [s.path for s in listing.shards] == ["a.tar", "b/c.tar"]
    assert listing.root == "memory:///lake"
    assert listing.shards[0].uri == "memory:///lake/a.tar"
    assert listing.shards[0].etag
    memory.pipe("/lake/d.tar", TAR)
    assert paths("memory://lake/*.tar") == ["a.tar", "d.tar"]


def test_listing_asks_once_a_folder_and_not_for_each_file(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe({f"/lake/{i:05d}.tar": TAR for i in range(50)})
    asked: list[str] = []
    for name in ("find", "info"):
        real = getattr(type(memory), name)
        monkeypatch.setattr(
            type(memory), name, lambda self, path, _r=real, **k: asked.append(path) or _r(self, path, **k)
        )
    assert len(paths("memory://lake/{00000..00049}.tar")) == 50
    assert len(paths("memory://lake/*.tar")) == 50
    assert len(asked) < 10


def test_listing_names_the_input_when_the_store_fails(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(type(memory), "ls", denied)
    monkeypatch.setattr(type(memory), "info", denied)
    for text in ("memory://lake/a.tar", "memory://lake/*.tar"):
        with pytest.raises(InputError, match=r"memory://lake/.* cannot be listed: access denied"):
            paths(text)


def test_root_of_inputs_is_the_deepest_folder_before_any_wildcard(folder: Path) -> None:
    top = str(folder)

    def root(*inputs: str) -> str:
        return shared_root([i for text in inputs for i in expand(text)])

    assert root(top) == top
    assert root(f"{top}/00000.tar") == top
    assert root(f"{top}/mor*/0*.tar") == top
    assert root(f"{top}/**/x.tar") == top
    assert root(f"{top}/more/{{00009..00010}}.tar") == f"{top}/more"
    assert root(f"{top}/more", f"{top}/00000.tar") == top
    assert root(f"{top}/more", f"{top}/_tmp/*.tar") == top
    assert root(top, "/") == "/"


def test_listing_is_relative_to_the_root_given(folder: Path) -> None:
    listing = list_shards([f"{folder}/more/*.tar"], str(folder))
    assert [s.path for s in listing.shards] == ["more/00009.tar"]
    assert listing.root == str(folder)


def test_listing_refuses_inputs_outside_the_root_and_names_both_remedies(folder: Path) -> None:
    with pytest.raises(BridgelakeError, match=r"00000.tar lies outside .*--dataset.*--source-root"):
        paths(str(folder), root=str(folder / "more"))
    (folder / "mor").mkdir()
    with pytest.raises(ConfigError, match="--source-root"):  # a common beginning of names is no common folder
        paths(f"{folder}/more/*.tar", root=str(folder / "mor"))
    with pytest.raises(ConfigError, match="--source-root"):
        paths(f"{folder}/more/*.tar", root="memory://" + str(folder))


def test_listing_refuses_inputs_in_different_stores(folder: Path, memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe("/lake/a.tar", TAR)
    with pytest.raises(ConfigError, match="different stores"):
        paths([str(folder), "memory://lake/a.tar"])


def test_cut_leaves_tars_and_small_files_whole_without_opening_them(tmp_path: Path) -> None:
    absent = Shard(str(tmp_path / "x.parquet"), "x.parquet", 100, "")
    assert cut(absent, 100) == [Slice(absent, 0, 1, None)]
    large = Shard(str(tmp_path / "x.tar"), "x.tar", 10**12, "")
    assert cut(large, 100) == [Slice(large, 0, 1, None)]
    assert cut(large, 100)[0].name == "x.tar"


def test_cut_makes_consecutive_row_groups_of_a_large_parquet(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "x.parquet", {"jpg": pa.array([os.urandom(1000) for _ in range(50)])}, group_rows=10
    )
    slices = cut(shard(path), 25_000)
    assert [s.row_groups for s in slices] == [(0, 2), (2, 4), (4, 5)]
    assert [s.name for s in slices] == ["x.parquet#0", "x.parquet#1", "x.parquet#2"]
    assert slices == cut(shard(path), 25_000)
    assert [s.row_groups for s in cut(shard(path), 1)] == [(i, i + 1) for i in range(5)]


def test_cut_leaves_the_verdict_on_a_broken_parquet_to_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1" + bytes(5000))
    assert cut(shard(path), 10) == [Slice(shard(path), 0, 1, None)]


def test_listing_matches_nothing_without_patterns() -> None:
    assert not Listing((), "/r", 0).matches("a.tar")


def test_listing_matches_what_its_inputs_would_list(folder: Path) -> None:
    assert list_shards([f"{folder}/0000?.tar"], None).matches("00007.tar")
    assert not list_shards([f"{folder}/0000?.tar"], None).matches("more/00007.tar")
    assert list_shards([str(folder)], None).matches("more/00007.tar")
    assert not list_shards([f"{folder}/{{00000..00001}}.tar"], None).matches("00007.tar")


def test_list_refuses_a_signed_url_and_keeps_its_secret() -> None:
    with pytest.raises(ConfigError) as error:
        list_shards(["https://host/x.tar?X-Amz-Expires=9&X-Amz-Signature=SECRETSIG"], None)
    assert "SECRETSIG" not in str(error.value)
