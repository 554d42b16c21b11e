"""Shards on S3: the provider's standard environment variables are enough for listing, reading and fetching."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from pipeline.config import ReadConfig
from pipeline.errors import InputError, ShardError
from pipeline.fetch import fetch_images
from pipeline.prepare import prepare_slice
from pipeline.read import read_slice
from pipeline.shards import Shard, Slice, cut, list_shards
from tests.shards import Squares, members, picture, tar_bytes, write_parquet


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    store = fsspec.filesystem("s3")
    store.mkdir("lake")
    yield store
    store.invalidate_cache()
    store.rm("lake", recursive=True)  # moto keeps buckets after its server stops
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


def test_shards_on_s3_are_listed_read_and_fetched(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    columns = {"jpg": [picture(i) for i in range(9)], "caption": ["c"] * 9}
    parquet = write_parquet(tmp_path / "p.parquet", columns, group_rows=4).read_bytes()
    bucket.pipe({"lake/laion/a.tar": tar_bytes(members(3)), "lake/laion/b/p.parquet": parquet})
    bucket.pipe({"lake/laion/a_stats.json": b"{}", "lake/laion/a.parquet": parquet})
    listing = list_shards(["s3://lake/laion"], None)
    assert [s.path for s in listing.shards] == ["a.tar", "b/p.parquet"]
    assert listing.root == "s3://lake/laion"
    assert listing.shards[0].uri == "s3://lake/laion/a.tar"
    assert listing.shards[0].etag == bucket.info("lake/laion/a.tar")["ETag"].strip('"')
    assert list_shards(["s3://lake/la*/**/*.parquet"], listing.root).shards == listing.shards[1:]
    config = ReadConfig(("s3://lake",))
    slices = [s for shard in listing.shards for s in cut(shard, 2000)]
    assert len(slices) > 2
    tables = [t for s in slices for t in prepare_slice(s, "a", config, Squares())]
    rows = [r for t in tables for r in t.to_pylist() if r["kind"] == "sample"]
    assert len(rows) == 12
    pictures = [picture(i) for i in range(3)] + [picture(i) for i in range(9)]
    assert fetch_images(rows, listing.root) == pictures


def test_faults_on_s3_name_the_shard_and_no_secret(bucket: fsspec.AbstractFileSystem) -> None:
    bucket.pipe("lake/a.tar", tar_bytes(members(1)))
    (shard,) = list_shards(["s3://lake/a.tar"], None).shards
    bucket.rm("lake/a.tar")
    bucket.invalidate_cache()
    nowhere = Shard("s3://nosuchbucket/a.tar", "a.tar", 10, "")
    for one in (shard, nowhere):
        with pytest.raises(ShardError, match=f"{one.uri}: gone, or never there") as caught:
            list(read_slice(Slice(one, 0, 1, None), ReadConfig(("x",))))
        assert "verysecret" not in str(caught.value)
    for text in ("s3://nosuchbucket/*.tar", "s3://nosuchbucket/laion", "s3://lake/nothing/"):
        with pytest.raises(InputError, match=r"s3://(nosuchbucket|lake)/"):
            list_shards([text], None)


def test_s3_without_credentials_says_where_they_are_looked_for(
    bucket: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket.pipe("lake/a.tar", tar_bytes(members(1)))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(InputError, match="no credentials found"):
        list_shards(["s3://lake/a.tar"], None)
