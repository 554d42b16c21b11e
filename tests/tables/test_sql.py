"""SQL over a lake against pandas, each search against the library's own, and what it cannot reach."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.config import Contract
from pipeline.database import Database
from pipeline.errors import ContractError, TableError
from pipeline.query import QueryModel
from pipeline.schema import REJECTS, RUNS
from pipeline.sql.engine import Statement, ask
from tests.lakes import DIMENSION, FakeLake, captioned, jpeg
from tests.shards import Squares
from tests.statements import ROWS, frame, rows, sql, wide_lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> FakeLake:
    """40 pictures in two shards, those of the second with three captions each."""
    lake = FakeLake(tmp_path_factory.mktemp("sql"))
    lake.add("00000.tar", captioned(20))
    lake.add("00001.tar", captioned(20, start=20, captions=3))
    return lake.write(vectors=("image", "text", "cross"))


Frame = pd.DataFrame


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        ("SELECT count(*) AS n FROM samples WHERE width > 1000", lambda f: [((f.width > 1000).sum(),)]),
        ("SELECT id FROM samples WHERE itm_score >= 0.995 ORDER BY id DESC", lambda f: [*zip(f.id[995:][::-1])]),
        (
            "SELECT shard, sum(width) s, min(similarity) m FROM samples GROUP BY shard ORDER BY shard",
            lambda f: list(f.groupby("shard").agg(s=("width", "sum"), m=("similarity", "min")).itertuples(name=None)),
        ),
        (
            "SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY shard ORDER BY itm_score DESC) AS place"
            " FROM samples) WHERE place = 1 ORDER BY id",
            lambda f: [*zip(sorted(f.loc[f.groupby("shard").itm_score.idxmax()].id))],
        ),
        (
            "WITH wide AS (SELECT shard FROM samples WHERE width = 4096) SELECT count(*) AS n FROM samples"
            " JOIN wide USING (shard)",
            lambda f: [(len(f.merge(f[f.width == 4096][["shard"]], on="shard")),)],
        ),
        ("SELECT count(similarity) a, count(*) b FROM samples", lambda f: [(f.similarity.count(), ROWS)]),
        ("SELECT count(*) AS n FROM samples WHERE safe IS NOT TRUE", lambda f: [((f.safe != True).sum(),)]),  # noqa: E712
        ("""SELECT count(*) AS n FROM samples WHERE "Odd Name" = 'o''x"`'""", lambda f: [(f["Odd Name"].count(),)]),
        ("SELECT count(*) AS n FROM samples WHERE url LIKE '%/99_'", lambda f: [(f.url.str.match(r".*/99.$").sum(),)]),
    ],
)
def test_sql_over_samples_equals_pandas(wide: FakeLake, statement: str, wanted: Callable[[Frame], Any]) -> None:
    found = rows(sql(wide, statement))
    assert found
    assert found == wanted(frame(wide))


def test_sql_gives_vectors_whole(wide: FakeLake) -> None:
    answer = sql(wide, "SELECT id, image_embedding FROM samples WHERE id IN ('000003', '000700') ORDER BY id")
    assert answer.table.schema.field("image_embedding").type == pa.list_(pa.float16(), DIMENSION)
    stored = [np.asarray(wide.rows[i]["image_embedding"], np.float16) for i in (3, 700)]
    np.testing.assert_array_equal(np.stack(answer.to_pandas()["image_embedding"]), stored)


@pytest.mark.parametrize(
    ("call", "options"),
    [
        ("search('two cats', 7)", {"words": "two cats", "limit": 7}),
        ("search('two cats')", {"words": "two cats"}),
        ("search('two cats', 7, 'width >= 64')", {"words": "two cats", "limit": 7, "where": "width >= 64"}),
        ("search('two cats', 7, '', 'cross')", {"words": "two cats", "limit": 7, "column": "cross"}),
        ("search_image('{picture}', 4)", {"image": jpeg(9), "limit": 4}),
        ("similar('000005', 3)", {"like": "000005", "limit": 3}),
        ("fulltext('caption 7', 5)", {"words": "caption 7", "mode": "fulltext", "limit": 5}),
        ("hybrid('caption 7', 5)", {"words": "caption 7", "mode": "hybrid", "limit": 5}),
        ("rerank('two cats', 6)", {"words": "two cats", "rerank": "itm", "limit": 6}),
    ],
)
def test_sql_function_gives_what_the_search_gives(
    lake: FakeLake, tmp_path: Path, call: str, options: dict[str, Any]
) -> None:
    (tmp_path / "it's.jpg").write_bytes(jpeg(9))
    call = call.replace("{picture}", f"{tmp_path}/it''s.jpg")
    hits = lake.search(**options)
    answer = sql(lake, f"SELECT * FROM {call}")
    assert len(hits) > 2
    assert answer.to_list() == hits.to_list()


def test_sql_brings_k_rows_though_the_where_keeps_one_percent(wide: FakeLake) -> None:
    nearest = [row["id"] for row in wide.search("two cats", limit=10, where="width = 4096").to_list()]
    for said in ("search('two cats', 10) WHERE width = 4096", "search('two cats', 10, 'width = 4096')"):
        assert sql(wide, f"SELECT id FROM {said}").table["id"].to_pylist() == nearest
    both = sql(wide, "SELECT id, url FROM search('a', 3, 'width = 4096') WHERE url IS NOT NULL")
    assert len(both) == 3
    assert all(wide.rows[int(row["id"])]["width"] == 4096 and row["url"] for row in both.to_list())


def test_sql_joins_hits_with_their_rows(wide: FakeLake) -> None:
    statement = "SELECT h.id, h._distance, s.image_embedding FROM search('two cats', 5) h JOIN samples s ON h.id = s.id"
    found = sql(wide, f"{statement} WHERE h.width > 1000 ORDER BY _distance").to_list()
    assert [row["id"] for row in found] == [
        row["id"] for row in wide.search("two cats", limit=5, where="width > 1000").to_list()
    ]
    assert all(len(row["image_embedding"]) == DIMENSION for row in found)


def test_sql_reads_the_companions_and_their_columns_where_there_are_none(wide: FakeLake, tmp_path: Path) -> None:
    assert rows(sql(wide, "SELECT outcome, version FROM shards")) == [("committed", 2)]
    for name, schema in (("rejects", REJECTS), ("runs", RUNS)):
        answer = sql(wide, f"SELECT * FROM {name}")
        assert (len(answer), answer.table.schema.names) == (0, schema.names)
    other = wide_lake(tmp_path)
    rejects = [{"shard": "a", "reason": "no_caption"}, {"shard": "a", "reason": "torn_sample"}]
    other.database.append("rejects", pa.Table.from_pylist(rejects, schema=REJECTS))
    assert rows(sql(other, "SELECT count(*) AS n FROM rejects JOIN samples ON rejects.shard = 'a'")) == [(2 * ROWS,)]


def test_sql_of_a_version_or_tag_sees_its_rows_alone(tmp_path: Path) -> None:
    lake = wide_lake(tmp_path)
    dataset = lance.dataset(lake.database.path())
    first, before = dataset.version - 1, ROWS // 2
    dataset.tags.create("half", first)
    dataset.delete("id = '000000'")
    for version, count in ((first, before), (str(first), before), ("half", before), (None, ROWS - 1)):
        assert rows(sql(lake, "SELECT count(*) AS n FROM samples", version)) == [(count,)]
        assert rows(sql(lake, "SELECT count(*) AS n FROM search('a', 2000)", version)) == [(count,)]
    with pytest.raises(TableError, match=r"no version 'none': .*the tags are half"):
        sql(lake, "SELECT 1", "none")


def test_sql_of_an_empty_table_gives_no_hits_and_loads_no_model(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path).write()
    for call in ("search('a', 3)", "rerank('a')", "fulltext('a')", "similar('x')"):
        assert len(sql(lake, f"SELECT * FROM {call} WHERE width > 3")) == 0
    assert rows(sql(lake, "SELECT count(*) AS n FROM samples")) == [(0,)]
    assert lake.loaded == 0


def test_sql_of_a_table_that_is_not_there_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"there is no table laion in .*none"):
        ask(Database(str(tmp_path / "none"), "laion"), Statement("SELECT 1"), lambda: FakeLake(tmp_path).model)
    assert not (tmp_path / "none").exists()


def test_sql_needs_the_model_for_searches_alone(wide: FakeLake) -> None:
    def never() -> QueryModel:
        raise AssertionError

    for text in ("SELECT count(*) FROM samples", "EXPLAIN SELECT * FROM search('a')", "SELECT 'search(''a'')'"):
        assert len(ask(wide.database, Statement(text), never)) > 0
    other = QueryModel(Contract("v" * 8, "other", "", "4x4", 8), Squares, lambda: wide.encoder)
    with pytest.raises(ContractError, match="the table has 'wwwwwwww', this model 'vvvvvvvv'"):
        ask(wide.database, Statement("SELECT * FROM search('a')"), lambda: other)


def test_sql_explain_shows_what_is_asked_before_each_search(wide: FakeLake) -> None:
    loaded = wide.loaded
    answer = sql(
        wide, "EXPLAIN SELECT * FROM search('two cats', 9) WHERE width > 99 AND similarity * 2 > 3 AND _distance < 1"
    )
    first = answer.to_list()[0]
    assert first["plan_type"] == "search #1"
    assert first["plan"].splitlines() == [
        "search('two cats', 9)",
        "  before it: (`width` > 99) AND ((`similarity` * CAST(2.0 AS DOUBLE)) > 3.0)",
    ]
    assert {row["plan_type"] for row in answer.to_list()[1:]} == {"logical_plan", "physical_plan"}
    assert wide.loaded == loaded
    analyzed = sql(wide, "EXPLAIN ANALYZE SELECT id FROM search('two cats', 9) WHERE width = 4096").to_list()
    assert "output_rows=9" in analyzed[1]["plan"]


def test_sql_tells_what_it_could_not_ask_before_a_search(wide: FakeLake) -> None:
    answer = sql(wide, "SELECT id FROM search('two cats', 9) WHERE md5(caption) LIKE 'a%'")
    assert len(answer.notes) == 1
    assert answer.notes[0].startswith(
        "search('two cats', 9): md5(caption) LIKE CAST('a%' AS Utf8View) is applied after"
    )
    assert sql(wide, "SELECT id FROM search('two cats', 9) WHERE width > 5 AND _distance < 0.5").notes == ()


def test_sql_keeps_the_order_of_hits(wide: FakeLake) -> None:
    distances = sql(wide, "SELECT _distance FROM search('a', 900) WHERE width < 4000").table["_distance"].to_pylist()
    assert (len(distances), distances) == (900, sorted(distances))


def test_sql_takes_ten_thousand_characters_quotes_and_unicode(wide: FakeLake) -> None:
    words = "naïve 'café' \"x\" 👩\u200d👧 -- /* ; " * 300
    quoted = words.replace("'", "''")
    answer = sql(wide, f"SELECT id FROM search('{quoted}', 4) -- ' \n WHERE caption <> '{quoted}' /* \" */")
    assert [row["id"] for row in answer.to_list()] == [r["id"] for r in wide.search(words, limit=4).to_list()]
    assert any("only their beginning" in note for note in answer.notes)
    ids = ", ".join(f"'{i:06d}'" for i in range(2000))
    assert len(ids) > 10_000
    assert len(sql(wide, f"SELECT id FROM search('a', 8) WHERE id IN ({ids})")) == 8


def test_sql_gives_columns_of_one_name_names_of_their_own(wide: FakeLake) -> None:
    answer = sql(wide, "SELECT a.id, b.id, a.key AS id_2 FROM samples a JOIN samples b ON a.id = b.id LIMIT 1")
    assert answer.table.schema.names == ["id", "id_2", "id_2_2"]


def test_sql_answer_shows_itself_safely(wide: FakeLake) -> None:
    answer = sql(wide, "SELECT '<script>' || chr(27) || '[31m[bold]' AS \"<b>\", 1.5 AS x FROM samples LIMIT 200")
    assert len(answer) == 200
    assert "<script>\\x1b[31m[bold]" in repr(answer)
    assert "<script>" not in answer._repr_html_()
    assert repr(sql(wide, "SELECT 1 WHERE false")) == "no rows"
