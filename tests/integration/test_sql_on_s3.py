"""SQL over a table on S3, with nothing but AWS's standard environment variables."""

from pathlib import Path
from typing import Any

import lance
import pytest

from pipeline.database import Database, storage_options
from pipeline.errors import ConfigError
from pipeline.sql.engine import Statement, ask
from tests.statements import rows, wide_lake


def test_sql_on_s3_searches_filters_and_joins(bucket: Any, tmp_path: Path) -> None:
    lake = wide_lake(tmp_path)
    database = Database(f"s3://{bucket.name}/lake", "laion")
    here = lance.dataset(lake.database.path())
    lance.write_dataset(here.to_table(), database.path(), storage_options=storage_options(database.uri))
    for text in (
        "SELECT shard, count(*) AS n FROM samples WHERE width > 1000 GROUP BY shard ORDER BY shard",
        "SELECT h.id, s.caption FROM search('two cats', 7) h JOIN samples s USING (id) WHERE h.width > 1000 ORDER BY 1",
        "SELECT count(*) AS n FROM rejects",
    ):
        there = ask(database, Statement(text), lambda: lake.model)
        assert rows(there) == rows(ask(lake.database, Statement(text), lambda: lake.model))
    assert len(there) == 1
    with pytest.raises(ConfigError, match=f"there is no table s3://{bucket.name}/lake/laion") as refused:
        ask(database, Statement(f"SELECT * FROM 's3://{bucket.name}/lake/laion.lance'"), lambda: lake.model)
    assert "verysecret" not in str(refused.value)
