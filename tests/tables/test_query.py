"""Queries against brute force, over a table made by hand and a model whose answers can be computed."""

import json
from pathlib import Path
from typing import Any

import fsspec
import lance
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.config import Contract, Keep
from pipeline.database import Database
from pipeline.errors import ConfigError, ContractError, FetchError, InputError, TableError
from pipeline.query import Query, QueryModel, read_picture, search
from tests.lakes import HOSTILE, FakeLake, captioned, decoded, image_vector, jpeg, match_of, text_vector
from tests.moulds import Moulds
from tests.shards import Squares, encoded, picture

Row = dict[str, Any]


def sixty(folder: Path) -> FakeLake:
    """60 pictures in three shards, those of the last with three captions each."""
    lake = FakeLake(folder)
    lake.add("00000.tar", captioned(20))
    lake.add("00001.tar", captioned(20, start=20))
    lake.add("00002.tar", captioned(20, start=40, captions=3))
    return lake.write()


@pytest.fixture
def lake(moulds: Moulds) -> FakeLake:
    return moulds.cast(sixty)


def square(row: Row) -> np.ndarray:
    """What the model sees of a row's picture."""
    return Squares().picture(decoded(image_of(row)))


def image_of(row: Row) -> bytes:
    return jpeg(int(row["caption"].split()[1]))


def ids(hits: Any) -> list[str]:
    return [row["id"] for row in hits.to_list()]


@pytest.mark.parametrize("limit", [1, 5, 59, 60, 1000])
def test_query_by_words_equals_brute_force_with_one_hit_a_picture(lake: FakeLake, limit: int) -> None:
    hits = lake.search("two cats", limit=limit)
    wanted = lake.nearest(text_vector("two cats"))[:limit]
    assert ids(hits) == [row["id"] for _, row in wanted]
    np.testing.assert_allclose(hits.table["_distance"], [d for d, _ in wanted], atol=1e-3)
    assert len(hits) == min(limit, 60)


def test_query_by_words_runs_the_text_tower_alone(lake: FakeLake) -> None:
    lake.search("two cats")
    assert (lake.encoder.texts, lake.encoder.images, lake.encoder.matched) == (["two cats"], 0, [])


def test_query_by_picture_equals_brute_force_and_finds_itself(lake: FakeLake) -> None:
    row = lake.rows[7]
    hits = lake.search(image=jpeg(7), limit=20)
    assert ids(hits) == [row["id"] for _, row in lake.nearest(image_vector(square(row)))[:20]]
    assert ids(hits)[0] == row["id"]
    assert (lake.encoder.texts, lake.encoder.images) == ([], 1)


def test_query_filters_before_the_search(lake: FakeLake) -> None:
    where = "width >= 64 AND (caption LIKE '% 4_ %' OR key = '00003')"
    hits = lake.search("two cats", limit=5, where=where)

    def keep(row: Row) -> bool:
        return row["width"] >= 64 and (row["caption"].startswith("caption 4") or row["key"] == "00003")

    assert ids(hits) == [row["id"] for _, row in lake.nearest(text_vector("two cats"), keep)[:5]]


def test_query_fetches_more_until_there_are_enough_pictures(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path)
    image = picture(0)
    lake.add("00000.tar", [(image, [f"again {i}" for i in range(400)])])
    lake.add("00001.tar", captioned(30, start=1))
    lake.write()
    hits = lake.search(image=image, limit=4)
    assert ids(hits) == [row["id"] for _, row in lake.nearest(image_vector(Squares().picture(decoded(image))))[:4]]
    assert hits.to_list()[0]["caption"] == "again 0"
    assert len(lake.search(image=image, limit=100)) == 31


def test_query_can_show_a_picture_for_each_of_its_captions(lake: FakeLake) -> None:
    row = lake.rows[-1]
    hits = lake.search(image=jpeg(59), limit=4, one_per_image=False)
    assert [r["caption_index"] for r in hits.to_list()[:3]] == [0, 1, 2]
    assert {r["sha256"] for r in hits.to_list()[:3]} == {row["sha256"]}


def test_query_brings_all_columns_but_the_vectors(lake: FakeLake) -> None:
    (hit,) = lake.search("two cats", limit=1).to_list()
    stored = lance.dataset(lake.database.path()).schema.names
    assert [*hit] == [n for n in stored if not n.endswith("_embedding")] + ["_distance"]
    frame = lake.search("two cats").to_pandas()
    assert list(frame["id"]) == ids(lake.search("two cats"))


def test_query_without_a_hit_is_empty_and_keeps_its_columns(lake: FakeLake) -> None:
    hits = lake.search("two cats", where="width > 10000", rerank="itm")
    assert (len(hits), hits.images(), hits.to_list()) == (0, [], [])
    assert hits.table.schema == lake.search("x", rerank="itm").table.schema
    assert lake.loaded == 3  # for the words, twice, and for one rerank
    assert "0 hits" in repr(hits)


@pytest.mark.parametrize(
    "where", [" OR ".join(["width > 3"] * 402), "(width>3)AND" * 5000 + "true", "width" + "+width" * 700 + " > 3"]
)
def test_query_refuses_a_filter_so_deep_that_lance_would_end_the_process(lake: FakeLake, where: str) -> None:
    with pytest.raises(ConfigError, match=r"it joins \d+ parts by AND, OR and the like, allowed are 401; .* use IN"):
        lake.search("two cats", where=where)


@pytest.mark.parametrize(
    "where",
    [
        " OR ".join(["width > 3"] * 401),
        f"width NOT IN ({', '.join(str(-i) for i in range(1, 3000))})",
        f"caption <> '{'cats and dogs + birds or ' * 500}'",
    ],
)
def test_query_takes_long_filters_that_are_not_deep(lake: FakeLake, where: str) -> None:
    assert len(lake.search("two cats", where=where)) == 10


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("nope > 3", "there is no column nope; the columns are id, dataset, shard, key"),
        ("_distance < 0.5", "there is no column _distance"),
        ("width >=", "Expected: an expression"),
        ("width >= 'abc'", "could not convert"),
        ("width", "does not return a boolean"),
        ("'", "Unterminated string"),
        ("width / 0 > 1", "Divide by zero"),
        ("width > 3 heigth > 4", "something left over"),
        ("width > 3; DROP TABLE laion", "something left over"),
        ("width > 3) OR (1 = 1", "something left over"),
        ("width > 3, true", "something left over"),
        ("id IN (SELECT id FROM laion)", "not supported"),
        ("read_csv('/etc/passwd') IS NULL", "Invalid function 'read_csv'"),
        ("width > 3 /*", "multi-line comment"),
        ("nope\n> 3" * 500, "not valid"),
    ],
)
def test_query_refuses_a_bad_filter_in_one_line_and_loads_no_model(lake: FakeLake, where: str, said: str) -> None:
    before = lance.dataset(lake.database.path()).version
    with pytest.raises(ConfigError, match=r"--where .* is not valid: ") as error:
        lake.search("two cats", where=where)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1200
    assert ".rs" not in str(error.value)
    assert lake.loaded == (1 if where == "width / 0 > 1" else 0)
    assert lance.dataset(lake.database.path()).version == before


@pytest.mark.parametrize(
    "where",
    [
        "caption LIKE '%a' -- a comment",
        "key = 'a'';)(' OR true",
        "width IS NOT NULL AND NOT (width BETWEEN 1 AND 2) AND key IN ('00001', '00002')",
        "url IS NULL AND regexp_like(caption, '^caption') AND CAST(width AS FLOAT) > 3.5",
        " \n ",
        "Width > 3",
    ],
)
def test_query_takes_any_condition_that_lance_takes(lake: FakeLake, where: str) -> None:
    assert len(lake.search("two cats", where=where)) > 0


def test_query_with_another_model_is_refused_with_both_shown(lake: FakeLake) -> None:
    other = QueryModel(Contract("v" * 8, "other", "", "4x4", 8), Squares, lambda: lake.encoder)
    with pytest.raises(ContractError, match=r"weights: the table has 'wwwwwwww', this model 'vvvvvvvv'"):
        search(lake.database, Query("two cats"), other)
    moved = QueryModel(Contract("w" * 8, "elsewhere", "", "4x4", 8), Squares, lambda: lake.encoder)
    assert len(search(lake.database, Query("two cats"), moved)) == 10


def test_query_of_a_table_that_is_not_there_makes_nothing(tmp_path: Path) -> None:
    model = FakeLake(tmp_path).model
    with pytest.raises(TableError, match=r"there is no table laion in .*none"):
        search(Database(str(tmp_path / "none"), "laion"), Query("x"), model)
    assert not (tmp_path / "none").exists()


def test_query_of_a_table_that_cannot_answer_says_why(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="holds no rows yet"):
        FakeLake(tmp_path / "empty").write().search("x")
    lake = FakeLake(tmp_path)
    lake.add("00000.tar", captioned(2))
    with pytest.raises(TableError, match="holds no image_embedding"):
        lake.write(vectors=("text",)).search("x")
    lance.write_dataset(pa.table({"a": [1]}), f"{tmp_path}/lake/other.lance")
    with pytest.raises(ContractError, match="was not made by bridgelake"):
        search(Database(str(tmp_path / "lake"), "other"), Query("x"), lake.model)


def test_query_says_when_the_words_were_cut(lake: FakeLake) -> None:
    hits = lake.search("six words are one too many " * 1700)
    assert "only their beginning" in hits.notes[0]
    assert lake.search("two cats").notes == ()


def test_query_reads_a_picture_from_a_path_a_url_or_bytes(tmp_path: Path) -> None:
    (tmp_path / "a [1] é.jpg").write_bytes(picture(3))
    fsspec.filesystem("memory").pipe("/pictures/a.jpg", picture(3))
    for image in (tmp_path / "a [1] é.jpg", f"{tmp_path}/a [1] é.jpg", "memory://pictures/a.jpg", picture(3)):
        assert read_picture(image) == picture(3)
    with pytest.raises(InputError, match=r"--image .*none\.jpg: gone"):
        read_picture(tmp_path / "none.jpg")


def test_query_refuses_what_is_no_picture(lake: FakeLake) -> None:
    with pytest.raises(InputError, match="--image cannot be used, it is undecodable"):
        lake.search(image=b"root:x:0:0")
    with pytest.raises(InputError, match="too narrow"):
        lake.search(image=encoded(Image.new("RGB", (900, 9)), "PNG"))


def test_query_writes_nothing(lake: FakeLake) -> None:
    def files() -> dict[str, float]:
        return {str(p): p.stat().st_mtime for p in (lake.folder / "lake").rglob("*")}

    before = files()
    lake.search("two cats", rerank="itm").images()
    assert files() == before


def test_rerank_equals_matching_every_candidate_by_hand(lake: FakeLake) -> None:
    hits = lake.search("two cats", limit=10, rerank="itm", candidates=30)
    near = [row for _, row in lake.nearest(text_vector("two cats"))[:30]]
    wanted = sorted(near, key=lambda row: -match_of(square(row), "two cats"))[:10]
    assert ids(hits) == [row["id"] for row in wanted]
    np.testing.assert_allclose(hits.table["itm_query"], [match_of(square(row), "two cats") for row in wanted])
    assert hits.table["fetch_error"].null_count == 10


def test_rerank_encodes_each_picture_once(lake: FakeLake) -> None:
    hits = lake.search("two cats", limit=100, rerank="itm", one_per_image=False)
    assert len(hits) == 100
    assert len(lake.encoder.matched) == len(set(lake.encoder.matched)) == 60
    scores = {}
    for row in hits.to_list():
        assert scores.setdefault(row["sha256"], row["itm_query"]) == row["itm_query"]


def test_rerank_keeps_what_cannot_be_fetched_below_the_others(lake: FakeLake) -> None:
    (lake.folder / "laion" / "00001.tar").unlink()
    hits = lake.search("two cats", limit=60, rerank="itm", candidates=60).to_list()
    good, bad = hits[:40], hits[40:]
    assert all(row["fetch_error"] is None and row["itm_query"] is not None for row in good)
    assert all(row["shard"] == "00001.tar" and row["itm_query"] is None for row in bad)
    assert all("00001.tar" in row["fetch_error"] and "no such file" in row["fetch_error"] for row in bad)
    assert [row["_distance"] for row in bad] == sorted(row["_distance"] for row in bad)


def test_rerank_finds_the_shards_of_every_dataset_at_its_own_root(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path)
    lake.add("00000.tar", captioned(5))
    lake.add("00000.tar", captioned(5, start=5), dataset="second")
    lake.write()
    hits = lake.search("two cats", rerank="itm")
    assert hits.table["fetch_error"].null_count == 10
    assert hits.images() == [image_of(row) for row in hits.to_list()]
    ledger = lake.database.path("shards")
    lance.write_dataset(lance.dataset(ledger).to_table().slice(0, 1), ledger, mode="overwrite")
    lost = [a for a in hits.images() if isinstance(a, FetchError)]
    assert len(lost) == 5
    assert "the ledger does not tell where the shards of dataset second lie" in str(lost[0])


def test_hits_are_json_whatever_their_numbers(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path)
    lake.add("00000.tar", captioned(3))
    for row, value in zip(lake.rows, (float("nan"), float("inf"), 0.5), strict=True):
        row |= {"similarity": value, "fetch_error": "of the crawler"}
    hits = lake.write(keep=(Keep("similarity", "float64"), Keep("fetch_error", "string"))).search("two cats")
    found = json.loads(json.dumps(hits.to_json(), allow_nan=False))
    assert sorted((h["similarity"] for h in found["hits"]), key=str) == [0.5, None, None]
    assert all("fetch_error" not in h for h in found["hits"])


def test_hits_repr_is_one_safe_line_a_hit_whatever_the_captions(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path)
    lake.add("00000.tar", [(picture(i), [caption]) for i, caption in enumerate(HOSTILE)])
    hits = lake.write().search("two cats \x1b[31m")
    lines = repr(hits).splitlines()
    assert len(lines) == 1 + len(HOSTILE)
    assert all(line.isprintable() or "👩" in line for line in lines)
    assert max(map(len, lines)) < 250
    page = hits._repr_html_()
    assert "<script" not in page
    assert "onerror=alert(1)&gt;" in page
    assert sorted(row["caption"] for row in hits.to_list()) == sorted(HOSTILE)
