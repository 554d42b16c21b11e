"""Indexes of a table on S3, with nothing but AWS's standard environment variables."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import lance
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from pipeline.database import Database, storage_options
from pipeline.indexes.build import described, latest
from pipeline.indexes.report import Request
from pipeline.indexes.work import index
from pipeline.retrieval.nearest import nearest
from pipeline.retrieval.question import Query
from tests.vectors import VectorLake


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
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
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="indexes")
    yield Database("s3://indexes/db", "laion")
    moto.stop()


def test_indexes_on_s3_are_built_and_folded(database: Database, tmp_path: Path) -> None:
    """The partitions are found here and handed to Lance in a local file, whatever store the table is in."""
    lake = VectorLake(tmp_path).add(300, 1)
    options = storage_options(database.uri)
    database.create("", lake.layout.with_metadata)
    lance.write_dataset(lake.dataset().to_table(), database.path(), mode="append", storage_options=options)
    assert index(database, Request(kind="ivf_rq", partitions=4, queries=5)).enough
    lance.write_dataset(lake.dataset().to_table(limit=4), database.path(), mode="append", storage_options=options)
    assert index(database, Request(optimize=True, queries=5)).enough
    assert described(latest(database), "image_embedding").num_rows_indexed == 604
    best = nearest(latest(database), lake.images[7].astype(np.float32), Query("-"), 1)
    assert best["sha256"].to_pylist() == [lake.names[7]]
