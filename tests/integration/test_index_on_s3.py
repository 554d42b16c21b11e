"""Indexes of a table on S3, with nothing but AWS's standard environment variables."""

from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest

from pipeline.database import Database, storage_options
from pipeline.indexes.build import described
from pipeline.indexes.report import Request
from pipeline.indexes.work import index
from pipeline.retrieval.nearest import nearest
from pipeline.retrieval.question import Query
from tests.vectors import VectorLake


@pytest.fixture
def database(bucket: Any) -> Database:
    return Database(f"s3://{bucket.name}/db", "laion")


def test_indexes_on_s3_are_built_and_folded(database: Database, tmp_path: Path) -> None:
    """The partitions are found here and handed to Lance in a local file, whatever store the table is in."""
    lake = VectorLake(tmp_path).add(300, 1)
    options = storage_options(database.uri)
    database.create("", lake.layout.with_metadata)
    lance.write_dataset(lake.dataset().to_table(), database.path(), mode="append", storage_options=options)
    assert index(database, Request(kind="ivf_rq", partitions=4, queries=5)).enough
    lance.write_dataset(lake.dataset().to_table(limit=4), database.path(), mode="append", storage_options=options)
    assert index(database, Request(optimize=True, queries=5)).enough
    assert described(database.require(), "image_embedding").num_rows_indexed == 604
    best = nearest(database.require(), lake.images[7].astype(np.float32), Query("-"), 1)
    assert best["sha256"].to_pylist() == [lake.names[7]]
