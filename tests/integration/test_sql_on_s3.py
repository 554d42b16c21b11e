"""SQL over a table on S3, with nothing but AWS's standard environment variables."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import lance
import pytest
from moto.server import ThreadedMotoServer

from pipeline.database import Database, storage_options
from pipeline.errors import ConfigError
from pipeline.sql.engine import Statement, ask
from tests.statements import rows, wide_lake


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    store = fsspec.filesystem("s3", skip_instance_cache=True)
    store.mkdir("sql")
    yield "s3://sql"
    store.invalidate_cache()
    store.rm("sql", recursive=True)  # moto keeps buckets after its server stops
    server.stop()


def test_sql_on_s3_searches_filters_and_joins(bucket: str, tmp_path: Path) -> None:
    lake = wide_lake(tmp_path)
    database = Database(f"{bucket}/lake", "laion")
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
    with pytest.raises(ConfigError, match="there is no table s3://sql/lake/laion") as refused:
        ask(database, Statement("SELECT * FROM 's3://sql/lake/laion.lance'"), lambda: lake.model)
    assert "verysecret" not in str(refused.value)
