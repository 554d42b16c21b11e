"""Queries over a table that the real job made, with a small random checkpoint; and the job as a person types it."""

import json
from pathlib import Path

import lance
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import model
from bridgelake import Lake
from model.encoder import Encoder
from pipeline.decode import decode
from pipeline.errors import ContractError
from pipeline.fetch import fetch_image
from tests import checkpoints
from tests.shards import members, picture, write_parquet, write_tar
from tests.typed import Done, typed


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, ray_session: None) -> Lake:
    """Two tars and a parquet, 40 pictures."""
    folder = tmp_path_factory.mktemp("query")
    (folder / "shards").mkdir()
    for i in range(2):
        write_tar(folder / "shards" / f"{i:05d}.tar", members(15, start=15 * i))
    columns = {"image": [picture(i) for i in range(30, 40)], "text": [f"caption {i}" for i in range(30, 40)]}
    write_parquet(folder / "shards" / "00002.parquet", columns, group_rows=4)
    lake = Lake(str(folder / "lake"), model=str(checkpoint))
    assert lake.embed(str(folder / "shards")).rows == 40
    return lake


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> Encoder:
    return model.load(model.resolve(str(checkpoint)))


def root(lake: Lake) -> str:
    return str(Path(lake.db).parent / "shards")


def query(lake: Lake, *arguments: str, model: str | None = None) -> Done:
    return typed("query", *arguments, "--db", lake.db, "--model", model or lake.spec.source)


def test_search_by_words_equals_the_text_tower_against_the_stored_vectors(lake: Lake, encoder: Encoder) -> None:
    import lancedb

    rows = lancedb.connect(lake.db).open_table("laion").to_pandas()
    stored = np.stack(rows["image_embedding"]).astype(np.float32)
    wanted = rows["key"].to_numpy()[np.argsort(-(stored @ encoder.embed_texts(["two cats"])[0]), kind="stable")]
    hits = lake.search("two cats", limit=40)
    assert [h["key"] for h in hits.to_list()] == list(wanted)


def test_search_reranked_equals_the_itm_head_on_every_picture(lake: Lake, encoder: Encoder) -> None:
    hits = lake.search("two cats", limit=40, rerank="itm")
    assert {h["shard"] for h in hits.to_list()} == {"00000.tar", "00001.tar", "00002.parquet"}
    pictures = [decode(fetch_image(h, root(lake)), 10**6).picture for h in hits.to_list()]
    assert hits.images() == [fetch_image(h, root(lake)) for h in hits.to_list()]
    alone = [encoder.match(encoder.preparer.picture(picture)[None], ["two cats"])[0, 0] for picture in pictures]
    np.testing.assert_allclose(hits.table["itm_query"], alone, atol=1e-5)
    assert alone == sorted(alone, reverse=True)


def test_search_by_a_picture_of_the_table_finds_it_first(lake: Lake) -> None:
    for number, shard in ((3, "00000.tar"), (22, "00001.tar"), (35, "00002.parquet")):
        best = lake.search(image=picture(number), limit=1).to_list()[0]
        assert (best["shard"], best["caption"]) == (shard, f"caption {number}")
        assert best["_distance"] < 1e-3


def test_search_with_another_model_is_refused(lake: Lake, tmp_path: Path) -> None:
    other = checkpoints.write(tmp_path / "other", checkpoints.config(contrastive_hidden_size=32))
    with pytest.raises(ContractError, match="dimension: the table has 48, this model 32"):
        Lake(lake.db, model=str(other)).search("two cats")


def test_job_prints_one_json_object_and_writes_both_sheets(lake: Lake, tmp_path: Path) -> None:
    sheets = ("--html", f"{tmp_path}/a.html", "--png", f"{tmp_path}/a.png")
    done = query(lake, "two cats", "--where", "width >= 48", "--limit", "3", "--rerank", "itm", "--json", *sheets)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["query"], len(answer["hits"])) == ("two cats", 3)
    assert answer["hits"][0]["itm_query"] >= answer["hits"][1]["itm_query"]
    assert (tmp_path / "a.html").read_text("utf-8").count("data:image/jpeg") == 3
    with Image.open(tmp_path / "a.png") as sheet:
        sheet.verify()


def test_job_prints_a_table_for_people(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(7))
    done = query(lake, "--image", f"{tmp_path}/a.jpg", "--limit", "2")
    assert (done.returncode, done.stderr) == (0, "")
    first = next(line for line in done.stdout.splitlines() if line.startswith(" 1 "))
    assert all(word in first for word in ("caption 7", "00007", "00000.tar", "48×32"))


def test_job_asks_in_every_way_and_gives_the_columns_that_are_selected(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(7))
    first = lake.search("caption", mode="fulltext", where="key = '00004'").to_list()[0]["id"]
    version = str(lance.dataset(f"{lake.db}/laion.lance").version)
    ways = (
        ("caption 4", "--mode", "fulltext", "--offset", "1", "--version", version),
        ("caption 4", "--mode", "hybrid", "--rerank", "itm", "--min-itm", "0.0001", "--candidates", "20"),
        ("caption", "--image", f"{tmp_path}/a.jpg", "--column", "cross", "--max-distance", "1.9", "--exact"),
        ("--like", first, "--column", "text", "--nprobes", "4", "--refine", "2", "--no-one-per-image"),
    )
    scores = (["_score"], ["_distance", "_score", "_relevance_score", "itm_query", "fetch_error"], *[["_distance"]] * 2)
    for way, expected in zip(ways, scores, strict=True):
        done = query(lake, *way, "--limit", "2", "--select", "id, key", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        hits = json.loads(done.stdout)["hits"]
        assert len(hits) == 2
        assert [*hits[0]] == ["id", "key", *expected]
        assert hits[0]["id"] != first or way[0] != "--like"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "error: nothing to search for"),
        (("two cats", "--where", "nope = 1"), 2, "there is no column nope; the columns are id, dataset"),
        (("two cats", "--limit", "many"), 2, "many"),
        (("two cats", "--table", "other"), 1, "there is no table other"),
        (("--image", "/nowhere.jpg"), 1, "error: --image /nowhere.jpg: gone"),
        (("two cats", "--device", "tpu"), 2, "allowed is cpu or gpu"),
        (("two cats", "--select", "id,nope"), 2, "error: --select: there is no column nope; the columns are id"),
        (("two cats", "--version", "live"), 1, "has no version 'live': the versions are 1 to"),
        (("--like", "none"), 1, "error: --like 'none': the table has no row with this id"),
        (("two cats", "--column", "vision"), 2, "image"),
        (("two cats", "--where", "width < 0"), 0, ""),
    ],
)
def test_job_ends_with_the_code_and_one_line(lake: Lake, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = query(lake, *arguments)
    assert done.returncode == code
    assert said in done.stderr
    if code == 1 or "error: " in said:
        assert done.stderr.count("\n") == 1
    assert ("no hits" in done.stdout) == (code == 0)
    assert "Traceback" not in done.stderr


def test_job_asks_with_sql_and_writes_every_format(lake: Lake, tmp_path: Path) -> None:
    statement = "SELECT key, round(itm_query, 4) AS itm FROM rerank('two cats', 5) WHERE width >= 48 ORDER BY itm DESC"
    hits = lake.search("two cats", rerank="itm", limit=5, where="width >= 48").to_list()
    wanted = [(h["key"], pytest.approx(h["itm_query"], abs=1e-4)) for h in hits]
    done = query(lake, "--sql", statement, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["columns"], answer["notes"]) == (["key", "itm"], [])
    assert [(row["key"], row["itm"]) for row in answer["rows"]] == wanted
    done = query(lake, "--sql", statement, "--format", "jsonl")
    assert [(row["key"], row["itm"]) for row in map(json.loads, done.stdout.splitlines())] == wanted
    done = query(lake, "--sql", statement, "--format", "parquet", "--output", f"{tmp_path}/a.parquet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert pq.read_table(tmp_path / "a.parquet")["key"].to_pylist() == [h["key"] for h in hits]
    shown = query(lake, "--sql", "EXPLAIN " + statement).stdout
    assert "rerank('two cats', 5)" in shown
    assert "before it: (`width` >= 48)" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--sql", "SELECT nope FROM samples"), 2, "column 8: there is no column nope; the columns here are id, data"),
        (("--sql", "DROP TABLE samples"), 2, "SQL here only reads"),
        (("two cats", "--sql", "SELECT 1"), 2, "error: words does not go with --sql"),
        (("--sql", "SELECT 1", "--where", "width > 3"), 2, "error: --where does not go with --sql"),
        (("two cats", "--format", "csv"), 2, "error: --format goes with --sql"),
        (("--sql", "SELECT 1", "--format", "parquet"), 2, "name a file with --output"),
        (("--sql", "SELECT 1", "--version", "live"), 1, "has no version 'live'"),
        (("--sql", "SELECT count(*) FROM generate_series(1, 99999999999)", "--timeout", "1"), 1, "longer than 1 s"),
        (("--sql", "SELECT 1 WHERE false"), 0, ""),
    ],
)
def test_job_ends_sql_with_the_code_and_the_reason(
    lake: Lake, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = query(lake, *arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert ("no rows" in done.stdout) == (code == 0)
    assert "Traceback" not in done.stderr
