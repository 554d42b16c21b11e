"""What a statement cannot reach or change, whatever is typed."""

import json
import random
from contextlib import suppress

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, InputError
from tests.lakes import FakeLake
from tests.statements import files, sql, wide_lake


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> FakeLake:
    return wide_lake(tmp_path_factory.mktemp("wide"))


PLANTED = "the planted secret"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM '{folder}/planted.parquet'",
        'SELECT * FROM "{folder}/planted.csv"',
        "SELECT * FROM '{folder}/lake/other.lance'",
        "SELECT * FROM other",
        "SELECT * FROM laion",
        "SELECT * FROM laion_shards",
        "SELECT * FROM datafusion.public.other",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM information_schema.df_settings",
        "SHOW TABLES",
        "SHOW ALL",
        "SELECT * FROM read_csv('{folder}/planted.csv')",
        "SELECT * FROM read_parquet('{folder}/planted.parquet')",
        "SELECT * FROM parquet_metadata('{folder}/planted.parquet')",
        "SELECT * FROM search_image('{folder}/planted.csv', 3)",
        "SELECT * FROM search('a', 3, 'width > 3) UNION SELECT * FROM other --')",
        "SELECT * FROM search('a', 3, 'true; DROP TABLE samples')",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '{folder}/planted.csv'",
        "CREATE TABLE x AS SELECT * FROM samples",
        "CREATE VIEW x AS SELECT * FROM samples",
        "CREATE OR REPLACE VIEW samples AS SELECT 1",
        "CREATE FUNCTION f() RETURNS INT RETURN 1",
        "CREATE DATABASE x",
        "COPY (SELECT * FROM samples) TO '{folder}/out.csv'",
        "COPY samples TO '{folder}/out.parquet'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/out.csv'",
        "EXPLAIN ANALYZE INSERT INTO samples SELECT * FROM samples",
        "EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1",
        "INSERT INTO samples SELECT * FROM samples",
        "INSERT OVERWRITE samples SELECT * FROM samples",
        "UPDATE samples SET width = 1",
        "DELETE FROM samples",
        "MERGE INTO samples USING shards ON true WHEN MATCHED THEN DELETE",
        "TRUNCATE TABLE samples",
        "DROP TABLE samples",
        "DROP VIEW samples",
        "ALTER TABLE samples DROP COLUMN id",
        "SELECT * INTO x FROM samples",
        "SELECT 1; DROP TABLE samples",
        "SET datafusion.catalog.information_schema = true",
        "SET datafusion.execution.parquet.pushdown_filters = true",
        "RESET datafusion.execution.batch_size",
        "PREPARE p AS SELECT 1",
        "EXECUTE p(1)",
        "BEGIN",
        "USE other",
        "CALL system.x()",
        "LOAD 'x.so'",
        "ATTACH 'x' AS y",
        "UNLOAD ('SELECT 1') TO '{folder}/out'",
    ],
)
def test_sql_reaches_and_changes_nothing_else(wide: FakeLake, statement: str) -> None:
    folder = wide.folder
    planted = pa.table({"secret": [PLANTED]})
    if not (folder / "planted.csv").exists():
        (folder / "planted.csv").write_text(f"secret\n{PLANTED}\n")
        pq.write_table(planted, folder / "planted.parquet")
        lance.write_dataset(planted, folder / "lake" / "other.lance")
    before = files(folder)
    with pytest.raises((ConfigError, InputError)) as refused:
        sql(wide, statement.format(folder=folder))
    assert PLANTED not in str(refused.value)
    assert ".rs:" not in str(refused.value)
    assert files(folder) == before


def test_sql_survives_whatever_is_typed(wide: FakeLake) -> None:
    random_ = random.Random(7)
    seeds = ["SELECT id FROM search('two cats', 5) h WHERE h.width > 3 AND caption LIKE '%a''b%' ORDER BY 1 LIMIT 3;"]
    signs = [
        *"'\"`();,.*-/\\[]{}$@#%&|<>=!?~\n\t\0é👩",
        "SELECT",
        "FROM",
        "WHERE",
        "search(",
        "NULL",
        "::",
        "CASE",
        "9e999",
    ]
    for _ in range(150):
        text = random_.choice(seeds)
        for _ in range(random_.randint(1, 4)):
            at = random_.randrange(len(text) + 1)
            text = text[:at] + random_.choice(signs) + text[at + random_.choice((0, 0, 1, 5)) :]
        with suppress(ConfigError, InputError):
            json.dumps(sql(wide, text).to_list(), default=str)
