"""The export job as a person types it, and exports onto S3."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bridgelake import Lake
from pipeline.config import ReadConfig
from pipeline.errors import BridgelakeError
from pipeline.exports import tars
from pipeline.read import read_slice
from pipeline.shards import cut, list_shards
from tests.lakes import FakeLake, captioned
from tests.typed import Done, typed


@pytest.fixture
def lake(tmp_path: Path) -> FakeLake:
    lake = FakeLake(tmp_path)
    lake.add("00000.tar", captioned(20))
    lake.add("00001.tar", captioned(10, start=20, captions=2))
    return lake.write()


def export(lake: FakeLake, output: str, *arguments: str) -> Done:
    return typed("export", "--db", lake.database.uri, "--output", output, *arguments)


def test_job_writes_a_file_and_tells_of_it(lake: FakeLake, tmp_path: Path) -> None:
    output = f"{tmp_path}/rows.csv"
    done = export(lake, output, "--where", "width >= 64", "--select", "id, caption", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["rows"], told["output"], told["format"]) == (len(pd.read_csv(output)), output, "csv")
    assert done.stderr == f"{output}: {told['rows']} rows of {lake.database.path()} at version 2\n"
    assert [*pd.read_csv(output).columns] == ["id", "caption"]
    again = export(lake, output)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == f"error: --output {output} is there already: name another file, or remove it first\n"


def test_job_ends_with_1_when_a_picture_is_missing(lake: FakeLake, tmp_path: Path) -> None:
    (tmp_path / "laion" / "00001.tar").unlink()
    done = export(lake, f"{tmp_path}/out", "--format", "webdataset", "--shard-size", "8")
    assert (done.returncode, done.stdout) == (1, "")
    assert "20 pictures in 3 shards, 20 rows" in done.stderr
    assert "10 pictures could not be fetched" in done.stderr
    assert len((tmp_path / "out" / "_missing.jsonl").read_text().splitlines()) == 10


def test_exports_onto_s3_are_whole(lake: FakeLake, bucket: Any) -> None:
    there = Lake(lake.database.uri)
    done = there.export(f"s3://{bucket.name}/new", format="webdataset", shard_size=8)
    names = [one.key for one in bucket.objects.all()]
    assert names == ["new/00000.tar", "new/00001.tar", "new/00002.tar", "new/00003.tar", "new/_export.json"]
    listing = list_shards([f"s3://{bucket.name}/new"], None)
    config = ReadConfig((f"s3://{bucket.name}/new",), caption_keys=("captions",))
    found = [one for shard in listing.shards for part in cut(shard, 2**30) for one in read_slice(part, config)]
    assert (len(found), sum(len(one.captions) for one in found)) == (done.pictures, done.rows) == (30, 40)
    there.export(f"s3://{bucket.name}/rows.parquet", vectors=True)
    assert len(pd.read_parquet(f"s3://{bucket.name}/rows.parquet")) == 40
    with pytest.raises(BridgelakeError, match=f"s3://{bucket.name}/new is not an empty folder"):
        there.export(f"s3://{bucket.name}/new", format="clip-retrieval")


def test_nothing_is_left_on_s3_of_an_export_that_fails(
    lake: FakeLake, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, calls = tars.fetch_by_dataset, []

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError("the wire was cut")
        return fetch(*arguments)

    monkeypatch.setattr(tars, "_PICTURES", 5)
    monkeypatch.setattr(tars, "fetch_by_dataset", failing)
    with pytest.raises(BridgelakeError, match=f"s3://{bucket.name}/new cannot be written: OSError: the wire was cut"):
        Lake(lake.database.uri).export(f"s3://{bucket.name}/new", format="webdataset", shard_size=4)
    assert [one.key for one in bucket.objects.all()] == []
    assert list(bucket.multipart_uploads.all()) == []


def test_bucket_that_is_not_there_is_named(lake: FakeLake, bucket: Any) -> None:
    with pytest.raises(BridgelakeError, match=r"--output s3://nosuchbucket/rows\.csv cannot be written"):
        Lake(lake.database.uri).export("s3://nosuchbucket/rows.csv")
