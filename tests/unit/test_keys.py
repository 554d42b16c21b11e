"""Caption and image keys that are not there are refused before anything is fixed to them."""

from pathlib import Path

import pytest

from pipeline.config import ReadConfig
from pipeline.errors import ConfigError
from pipeline.keys import require_keys
from pipeline.shards import Shard
from tests.shards import members, picture, shard, write_parquet, write_tar


@pytest.fixture
def tar(tmp_path: Path) -> Shard:
    return shard(write_tar(tmp_path / "a.tar", members(3)))


@pytest.fixture
def parquet(tmp_path: Path) -> Shard:
    columns = {"jpg": [picture(1)], "caption": ["x"], "description": ["y"]}
    return shard(write_parquet(tmp_path / "a.parquet", columns))


def config(**keys: object) -> ReadConfig:
    return ReadConfig(("x",), **keys)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"caption_keys": ("caption",)},
        {"caption_keys": ("txt",)},
        {"caption_keys": ("no", "txt")},
        {"image_key": "jpg"},
    ],
)
def test_keys_that_a_tar_has_are_taken(tar: Shard, keys: dict[str, object]) -> None:
    require_keys([tar], config(**keys))


@pytest.mark.parametrize("keys", [{}, {"caption_keys": ("description",)}, {"image_key": "jpg"}])
def test_keys_that_a_parquet_has_are_taken(parquet: Shard, keys: dict[str, object]) -> None:
    require_keys([parquet], config(**keys))


def test_keys_that_a_tar_lacks_are_refused(tar: Shard) -> None:
    with pytest.raises(
        ConfigError, match=r"--caption-key nope: nothing of that name in the first samples of \S+/a.tar: "
    ):
        require_keys([tar], config(caption_keys=("nope",)))
    with pytest.raises(ConfigError, match=r"--image-key nope: .*its members are jpg, txt, json"):
        require_keys([tar], config(image_key="nope"))


def test_keys_that_a_parquet_lacks_are_refused(parquet: Shard) -> None:
    with pytest.raises(
        ConfigError, match=r"a.parquet: no caption column: looked for nope among jpg, caption, description"
    ):
        require_keys([parquet], config(caption_keys=("nope",)))
    with pytest.raises(ConfigError, match="no picture column: looked for description holding bytes"):
        require_keys([parquet], config(image_key="description"))


def test_keys_are_judged_by_the_shards_that_can_be_read(tmp_path: Path, tar: Shard) -> None:
    bad = shard(write_tar(tmp_path / "bad.tar", []))
    gone = Shard(str(tmp_path / "gone.tar"), "gone.tar", 10, "e")
    require_keys([bad, gone], config(caption_keys=("nope",)))
    with pytest.raises(ConfigError):
        require_keys([gone, tar], config(caption_keys=("nope",)))


def test_keys_that_only_another_of_the_first_shards_has_are_taken(tmp_path: Path, tar: Shard) -> None:
    other = write_tar(tmp_path / "b.tar", [("a.jpg", picture(1)), ("a.alt", b"a cat")])
    require_keys([tar, shard(other)], config(caption_keys=("alt",)))


def test_keys_are_not_judged_by_pictures_that_are_broken(tmp_path: Path) -> None:
    broken = write_tar(tmp_path / "b.tar", [("a.jpg", b"no picture"), ("a.txt", b"a cat")])
    require_keys([shard(broken)], config(caption_keys=("txt",)))
