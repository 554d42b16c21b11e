"""Shards on S3: the provider's standard environment variables are enough for listing, reading and fetching."""

from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.config import ReadConfig
from pipeline.errors import InputError, ShardError
from pipeline.fetch import fetch_images
from pipeline.prepare import prepare_slice
from pipeline.read import read_slice
from pipeline.shards import Shard, Slice, cut, list_shards
from tests.shards import Squares, members, picture, tar_bytes, write_parquet


def test_shards_on_s3_are_listed_read_and_fetched(bucket: Any, tmp_path: Path) -> None:
    columns = {"jpg": [picture(i) for i in range(9)], "caption": ["c"] * 9}
    parquet = write_parquet(tmp_path / "p.parquet", columns, group_rows=4).read_bytes()
    shards = {"a.tar": tar_bytes(members(3)), "b/p.parquet": parquet, "a_stats.json": b"{}", "a.parquet": parquet}
    for name, body in shards.items():
        bucket.put_object(Key=f"laion/{name}", Body=body)
    root = f"s3://{bucket.name}/laion"
    listing = list_shards([root], None)
    assert [s.path for s in listing.shards] == ["a.tar", "b/p.parquet"]
    assert listing.root == root
    assert listing.shards[0].uri == f"{root}/a.tar"
    assert listing.shards[0].etag == bucket.Object("laion/a.tar").e_tag.strip('"')
    assert list_shards([f"s3://{bucket.name}/la*/**/*.parquet"], listing.root).shards == listing.shards[1:]
    config = ReadConfig((root,))
    slices = [s for shard in listing.shards for s in cut(shard, 2000)]
    assert len(slices) > 2
    tables = [t for s in slices for t in prepare_slice(s, "a", config, Squares())]
    rows = [r for t in tables for r in t.to_pylist() if r["kind"] == "sample"]
    assert len(rows) == 12
    pictures = [picture(i) for i in range(3)] + [picture(i) for i in range(9)]
    assert fetch_images(rows, listing.root) == pictures


def test_faults_on_s3_name_the_shard_and_no_secret(bucket: Any) -> None:
    bucket.put_object(Key="a.tar", Body=tar_bytes(members(1)))
    (shard,) = list_shards([f"s3://{bucket.name}/a.tar"], None).shards
    bucket.Object("a.tar").delete()
    nowhere = Shard("s3://nosuchbucket/a.tar", "a.tar", 10, "")
    for one in (shard, nowhere):
        with pytest.raises(ShardError, match=f"{one.uri}: gone, or never there") as caught:
            list(read_slice(Slice(one, 0, 1, None), ReadConfig(("x",))))
        assert "verysecret" not in str(caught.value)
    for text in ("s3://nosuchbucket/*.tar", "s3://nosuchbucket/laion", f"s3://{bucket.name}/nothing/"):
        with pytest.raises(InputError, match=rf"s3://(nosuchbucket|{bucket.name})/"):
            list_shards([text], None)


def test_s3_without_credentials_says_where_they_are_looked_for(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket.put_object(Key="a.tar", Body=tar_bytes(members(1)))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(InputError, match="no credentials found"):
        list_shards([f"s3://{bucket.name}/a.tar"], None)
