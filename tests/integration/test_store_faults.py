"""Reading from a store that has a bad day: what is read is the same, or it is an error that says why."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import fsspec
import pytest

from pipeline.config import ReadConfig
from pipeline.errors import InputError, ShardError
from pipeline.fetch import fetch_images
from pipeline.prepare import prepare_slice
from pipeline.read import read_slice
from pipeline.shards import Shard, Slice, list_shards
from pipeline.stores import ranged, retry, storage
from pipeline.stores.ahead import AHEAD
from tests.faults.proxy import Faults, Proxy
from tests.shards import Squares, members, picture, tar_bytes, whole, write_parquet, write_tar

BAD_DAY = Faults(error=0.3, truncate=0.15, lost=0.05, delay=0.1, delay_seconds=0.05)
CONFIG = ReadConfig(("x",))
COUNT = 150


@pytest.fixture
def proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """In front of an S3 server with an empty bucket "lake"; small blocks, so that a shard is many requests."""
    monkeypatch.setattr(ranged, "BLOCK", 2**14)
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(retry, "LONGEST_WAIT", 0.2)
    monkeypatch.setattr(storage, "TRIES", 1)
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "verysecret"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    stores = fsspec.get_filesystem_class("s3")
    stores.clear_instance_cache()
    with Proxy(s3_server, seed=1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        bucket = boto3.resource("s3", endpoint_url=s3_server).create_bucket(Bucket="lake")
        yield proxy
        bucket.objects.delete()
        bucket.delete()
        stores.clear_instance_cache()


def put(s3_server: str, key: str, data: bytes) -> None:
    boto3.client("s3", endpoint_url=s3_server).put_object(Bucket="lake", Key=key, Body=data)


def columns() -> dict[str, list[object]]:
    return {"jpg": [picture(i) for i in range(COUNT)], "caption": [f"caption {i}" for i in range(COUNT)]}


MAKERS: dict[str, Callable[[Path], Path]] = {
    "x.tar": lambda folder: write_tar(folder / "x.tar", members(COUNT)),
    "x.tar.gz": lambda folder: write_tar(folder / "x.tar.gz", members(COUNT)),
    "x.parquet": lambda folder: write_parquet(folder / "x.parquet", columns(), group_rows=40),
}


def on_s3(s3_server: str, local: Path) -> Slice:
    put(s3_server, local.name, local.read_bytes())
    return Slice(Shard(f"s3://lake/{local.name}", local.name, local.stat().st_size, ""), 0, 1, None)


def down_for(proxy: Proxy, calls: int) -> None:
    """Take the store down until so many calls have met nobody."""
    before = proxy.did["down"]
    proxy.go_down(60)

    def bring_back() -> None:
        while proxy.did["down"] < before + calls:
            time.sleep(0.01)
        proxy.go_down(0)

    threading.Thread(target=bring_back, daemon=True).start()


@pytest.mark.parametrize("name", MAKERS)
def test_shard_is_read_whole_through_errors_cut_bodies_and_delays(
    proxy: Proxy, s3_server: str, tmp_path: Path, name: str
) -> None:
    local = MAKERS[name](tmp_path)
    remote = on_s3(s3_server, local)
    proxy.faults = BAD_DAY
    assert list(read_slice(remote, CONFIG)) == list(read_slice(whole(local), CONFIG))
    did = proxy.did
    assert did["calls"] > 10
    assert did["error"] + did["truncate"] + did["lost"] > 3


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_shard_is_read_ahead_by_connections_of_its_own_and_each_byte_once(
    proxy: Proxy, s3_server: str, tmp_path: Path, name: str
) -> None:
    local = MAKERS[name](tmp_path)
    remote = on_s3(s3_server, local)
    assert list(read_slice(remote, CONFIG)) == list(read_slice(whole(local), CONFIG))
    calls = [call for call, _ in proxy.calls if name in call]
    assert sum(call.startswith("HEAD") for call in calls) == 1 + AHEAD
    assert sum(call.startswith("GET") for call in calls) == -(-local.stat().st_size // ranged.BLOCK)


# Where no reply came, aiohttp itself asks a second time.
@pytest.mark.parametrize(("fault", "seen"), [("error", 3), ("truncate", 3), ("lost", 1)])
@pytest.mark.parametrize("name", MAKERS)
def test_end_record_tells_how_often_the_store_was_asked_again(
    proxy: Proxy, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: str, seen: int
) -> None:
    monkeypatch.setattr(storage, "TRIES", 4)  # as in real life; what the S3 client repeats by itself is not seen
    remote = on_s3(s3_server, MAKERS[name](tmp_path))
    for times, again in ((0, 0), (3, seen)):
        proxy.faults = Faults(**{fault: 1}, only="^GET", times=times)
        before = proxy.did[fault]
        *_, last = prepare_slice(remote, "a", CONFIG, Squares())
        end = last.to_pylist()[-1]
        assert (end["kind"], end["pairs"], end["asked_again"]) == ("end", COUNT, again)
        assert proxy.did[fault] - before == times


@pytest.mark.parametrize("name", MAKERS)
def test_shard_is_read_whole_though_the_store_is_down_for_a_while(
    proxy: Proxy, s3_server: str, tmp_path: Path, name: str
) -> None:
    local = MAKERS[name](tmp_path)
    remote = on_s3(s3_server, local)
    down_for(proxy, calls=3)
    reading = read_slice(remote, CONFIG)
    samples = [next(reading)]
    down_for(proxy, calls=3)
    samples += reading
    assert samples == list(read_slice(whole(local), CONFIG))
    assert proxy.did["down"] >= 6


def test_call_that_hangs_is_ended_and_tried_again(
    proxy: Proxy, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "READ_TIMEOUT", 0.5)
    local = MAKERS["x.tar"](tmp_path)
    remote = on_s3(s3_server, local)
    proxy.faults = Faults(hang=1, times=3, hang_seconds=60)
    began = time.monotonic()
    assert list(read_slice(remote, CONFIG)) == list(read_slice(whole(local), CONFIG))
    assert proxy.did["hang"] == 3
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("only", ["^HEAD", "^GET"])
def test_shard_error_after_the_deadline_names_shard_and_cause(
    proxy: Proxy, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: str
) -> None:
    monkeypatch.setattr(retry, "DEADLINE", 1)
    remote = on_s3(s3_server, MAKERS["x.tar"](tmp_path))
    proxy.faults = Faults(error=1, only=only)
    with pytest.raises(ShardError, match=r"^s3://lake/x.tar: OSError: .* \(\d+ tr(y|ies) in \d s\)$") as caught:
        list(read_slice(remote, CONFIG))
    assert "verysecret" not in str(caught.value)
    proxy.faults = Faults()
    proxy.go_down(60)
    with pytest.raises(ShardError, match=r"^s3://lake/x.tar: the store cannot be reached \(\d+ tr(y|ies) in \d s\)$"):
        list(read_slice(remote, CONFIG))


@pytest.mark.parametrize("only", ["^HEAD", "^GET"])
def test_access_that_is_denied_is_an_error_at_once(proxy: Proxy, s3_server: str, tmp_path: Path, only: str) -> None:
    remote = on_s3(s3_server, MAKERS["x.tar"](tmp_path))
    proxy.faults = Faults(deny=1, only=only)
    with pytest.raises(ShardError, match=r"^s3://lake/x.tar: access denied$"):
        list(read_slice(remote, CONFIG))
    with pytest.raises(InputError, match="access denied"):
        list_shards(["s3://lake/"], None)
    assert proxy.did["deny"] < 5


def test_shard_that_is_not_there_is_an_error_at_once(proxy: Proxy) -> None:
    nowhere = Slice(Shard("s3://lake/x.tar", "x.tar", 10, ""), 0, 1, None)
    with pytest.raises(ShardError, match=r"^s3://lake/x.tar: gone, or never there"):
        list(read_slice(nowhere, CONFIG))
    with pytest.raises(InputError, match="no such file or folder"):
        list_shards(["s3://lake/x.tar"], None)
    assert proxy.did["calls"] < 10


@pytest.mark.parametrize("name", MAKERS)
def test_shard_that_changes_while_it_is_read_is_an_error(
    proxy: Proxy, s3_server: str, tmp_path: Path, name: str
) -> None:
    local = MAKERS[name](tmp_path)
    remote = on_s3(s3_server, local)
    reading = read_slice(remote, CONFIG)
    next(reading)
    put(s3_server, name, bytes(local.stat().st_size))  # as long as it was
    with pytest.raises(ShardError, match=rf"^s3://lake/{name}: changed while it was read$"):
        list(reading)


def test_shard_that_changes_while_the_store_is_down_is_an_error(proxy: Proxy, s3_server: str, tmp_path: Path) -> None:
    remote = on_s3(s3_server, MAKERS["x.tar"](tmp_path))
    reading = read_slice(remote, CONFIG)
    next(reading)
    put(s3_server, "x.tar", b"short")
    down_for(proxy, calls=2)
    with pytest.raises(ShardError, match="changed while it was read"):
        list(reading)


def test_shard_of_another_etag_than_listed_is_an_error(proxy: Proxy, s3_server: str) -> None:
    put(s3_server, "x.tar", b"first")
    (shard,) = list_shards(["s3://lake/x.tar"], None).shards
    with storage.open_shard(shard.uri, shard.size, shard.etag) as file:
        assert file.read() == b"first"
    put(s3_server, "x.tar", b"other")
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # as in a worker, which has listed nothing
    with pytest.raises(ShardError, match="changed since it was listed: version"):
        storage.open_shard(shard.uri, shard.size, shard.etag)


TREE = ("laion/a/0.tar", "laion/a/1.tar", "laion/b/2.tar", "laion/b/c/3.tar", "laion/b/c/without-suffix")
INPUTS = {
    "s3://lake/laion": 5,
    "s3://lake/laion/": 5,
    "s3://lake/laion/*/*.tar": 3,
    "s3://lake/laion/**/*.tar": 4,
    "s3://lake/laion/{a/0,a/1,b/2}.tar": 3,
    "s3://lake/laion/b/c/without-suffix": 1,
}


def test_listing_is_whole_through_errors_and_cut_bodies(proxy: Proxy, s3_server: str) -> None:
    for key in TREE:
        put(s3_server, key, tar_bytes(members(1)))
    proxy.faults = BAD_DAY
    for text, count in INPUTS.items():
        assert len(list_shards([text], None).shards) == count, text
    assert proxy.did["error"] > 0


@pytest.mark.parametrize("text", INPUTS)
def test_listing_of_a_part_that_fails_is_an_error_and_not_a_shorter_list(
    proxy: Proxy, s3_server: str, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(retry, "DEADLINE", 0.2)
    for key in TREE:
        put(s3_server, key, tar_bytes(members(1)))
    proxy.faults = Faults(error=1, only="prefix=laion%2Fb|prefix=laion%2F&.*delimiter=&|without-suffix")
    with pytest.raises(InputError, match=r"cannot be listed: OSError: .* tr(y|ies) in \d s"):
        list_shards([text], None)


@pytest.mark.parametrize("name", MAKERS)
def test_pictures_are_fetched_through_errors_and_cut_bodies(
    proxy: Proxy, s3_server: str, tmp_path: Path, name: str
) -> None:
    local = MAKERS[name](tmp_path)
    on_s3(s3_server, local)
    tables = prepare_slice(whole(local), "a", CONFIG, Squares())
    rows = [r for t in tables for r in t.to_pylist() if r["kind"] == "sample"][::10]
    proxy.faults = BAD_DAY
    assert fetch_images(rows, "s3://lake") == [picture(i) for i in range(0, COUNT, 10)]
    assert proxy.did["error"] + proxy.did["truncate"] > 0


def test_web_server_is_listed_and_read_through_errors_and_cut_bodies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.02)
    local = MAKERS["x.tar"](tmp_path)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, args=(0.05,), daemon=True).start()
        with Proxy(f"http://127.0.0.1:{web.server_port}", Faults(error=0.4, truncate=0.3), seed=3) as flaky:
            (shard,) = list_shards([f"{flaky.url}/"], None).shards
            found = list(read_slice(Slice(shard, 0, 1, None), CONFIG))
        web.shutdown()
    assert found == list(read_slice(whole(local), CONFIG))
    assert flaky.did["error"] > 0
