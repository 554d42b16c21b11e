"""Takedowns and their purge on S3, beside a job that has fragments on their way."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import pipeline.committer
from pipeline.database import Database
from pipeline.table import Rows
from pipeline.upkeep.delete import Extent, delete
from pipeline.upkeep.orders import Order
from pipeline.upkeep.verify import verify
from tests.ingest import Lake


@dataclass
class Remote(Lake):
    """Shards in a folder, the table in a bucket."""

    bucket: str = ""

    @property
    def database(self) -> Database:
        return Database(f"s3://{self.bucket}/db", "laion")


@pytest.fixture
def lake(bucket: Any, tmp_path: Path) -> Remote:
    return Remote(tmp_path, bucket=bucket.name)


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
