"""Takedowns and their purge on S3, beside a job that has fragments on their way."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

import pipeline.committer
from pipeline.database import Database
from pipeline.table import Rows
from pipeline.upkeep.delete import Extent, delete
from pipeline.upkeep.orders import Order
from pipeline.upkeep.verify import verify
from tests.ingest import Lake


class Remote(Lake):
    """Shards in a folder, the table in a bucket."""

    @property
    def database(self) -> Database:
        return Database("s3://takedowns/db", "laion")


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    endpoint = f"http://127.0.0.1:{moto.get_host_and_port()[1]}"
    for name, value in (
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "k"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="takedowns")
    yield Remote(tmp_path)
    moto.stop()


def test_takedown_and_purge_on_s3_beside_a_job(lake: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.write("0.tar", 0, 5, 2)
    lake.run("0.tar")
    lake.rows().tags.create("live", lake.rows().version)
    lake.write("1.tar", 10, 5, 2)
    order, commit, done = Order(urls=tuple(f"http://x/{i}" for i in (3, 5, 13, 15))), pipeline.committer.commit, []

    def after_a_takedown(*args: object) -> Rows:
        if not done:
            done.append(delete(lake.database, order, Extent(purge=True)))
        return commit(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline.committer, "commit", after_a_takedown)
    lake.run("1.tar")
    assert not done[0].gone  # the job's fragment is of no version yet
    assert sorted(lake.rows().to_table(columns=["key"])["key"].to_pylist()) == [
        f"{i:05d}" for i in (0, 1, 2, 4, 10, 11, 12, 14)
    ]
    assert lake.rows().checkout_version("live").count_rows() == 4
    again = delete(lake.database, order, Extent(purge=True, nobody_writes=True))
    assert again.gone, again.lines()
    found = verify(lake.database)
    assert found.problems == {}, found.lines()
