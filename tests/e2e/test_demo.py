"""End to end on the demo shards with the demo checkpoint, each value compared with transformers' own classes."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import lancedb
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bridgelake import DEFAULT_MODEL, Lake
from demo.pack import Packed, pack
from pipeline.fetch import fetch_image
from tests.conftest import REPOSITORY
from tests.stock import Stock

PAIRS = 240
PROMPT = "a picture of a <mask> and a"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return pack(tmp_path_factory.mktemp("shards"), pairs=PAIRS, seed=7)


def embed(packed: Packed, db: Path, *inputs: str, options: Sequence[str] = ()) -> dict[str, object]:
    command = [sys.executable, "jobs/embed_laion.py", "--db", str(db), "--keep", "distance", "--json"]
    command += ["--dtype", "float32"]  # as the stock classes compute
    command += [f"--input={packed.folder}/{name}" for name in inputs] + list(options)
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def table(db: Path, name: str = "laion") -> pd.DataFrame:
    return lancedb.connect(db).open_table(name).to_pandas()


@pytest.fixture(scope="module")
def lake(packed: Packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    db = tmp_path_factory.mktemp("lake")
    summary = embed(packed, db, "", options=("--tags", "5", "--tag-prompt", PROMPT))
    assert (summary["rows"], summary["truncated"]) == (packed.pairs, packed.long_captions)
    assert Path(str(summary["report"])).read_text(encoding="utf-8").count('class="plot"') == 6
    return db


def test_demo_counts_add_up_and_rejects_are_as_planted(packed: Packed, lake: Path) -> None:
    rows, rejects, ledger = table(lake), table(lake, "laion_rejects"), table(lake, "laion_shards")
    assert len(rows) == rows["id"].nunique() == packed.pairs
    planted = Counter({(p.shard, p.key, p.reason): p.pairs for p in packed.planted})
    assert Counter(zip(rejects["shard"], rejects["key"], rejects["reason"], strict=True)) == planted
    ledger = ledger[ledger["outcome"] == "committed"]
    assert sorted(ledger["shard"]) == packed.shards
    assert ledger["read"].sum() == len(rows) + len(rejects)
    assert rows["distance"].between(0, 1).all()


def test_demo_ids_are_stable_over_runs_and_shard_order(packed: Packed, lake: Path, tmp_path: Path) -> None:
    summary = embed(packed, tmp_path / "other", *reversed(packed.shards))
    assert summary["rows"] == packed.pairs
    assert set(table(tmp_path / "other")["id"]) == set(table(lake)["id"])
    again = embed(packed, lake, "")
    assert (again["skipped"], again["committed"], again["rows"], again["report"]) == (len(packed.shards), 0, 0, "")
    assert len(table(lake)) == packed.pairs


def test_demo_rows_equal_the_stock_classes_run_by_hand(packed: Packed, lake: Path) -> None:
    rows = table(lake).sort_values("id").head(40)
    stock = Stock(Path(DEFAULT_MODEL))
    by_id = {row["id"]: row for row in lancedb.connect(lake).open_table("laion").to_arrow().to_pylist()}
    fetched = [fetch_image(by_id[one], str(packed.folder)) for one in rows["id"]]
    pictures = [Image.open(BytesIO(data)).convert("RGB") for data in fetched]
    truth = stock(pictures, list(rows["caption"]))
    for name in ("image", "text", "cross"):
        wanted = getattr(truth, name)
        np.testing.assert_allclose(np.stack(rows[f"{name}_embedding"]).astype(np.float32), wanted, atol=1e-3)
    assert truth.image is not None
    assert truth.text is not None
    assert truth.itm is not None
    np.testing.assert_allclose(rows["itc_score"], (truth.image * truth.text).sum(axis=1), atol=1e-5)
    odds = np.exp(truth.itm - truth.itm.max(axis=1, keepdims=True))
    np.testing.assert_allclose(rows["itm_score"], odds[:, 1] / odds.sum(axis=1), atol=1e-5)
    for one, wanted in zip(rows.to_dict("records"), likeliest(stock, pictures), strict=True):
        assert list(one["tags"]) == list(wanted)
        np.testing.assert_allclose(one["tag_probabilities"], list(wanted.values()), atol=1e-5)


def likeliest(stock: Stock, pictures: list[Image.Image]) -> list[dict[str, float]]:
    """The five likeliest words for the prompt, by transformers' BridgeTowerForMaskedLM."""
    tokenizer = stock.processor.tokenizer
    place = tokenizer(PROMPT)["input_ids"].index(tokenizer.mask_token_id)
    tokens = [(i, tokenizer.decode([i])) for i in range(len(tokenizer))]
    found = []
    for logits in np.float64(stock(pictures, [PROMPT] * len(pictures)).mlm)[:, place]:
        odds = np.exp(logits - logits.max())
        words: Counter[str] = Counter()
        for i, text in tokens:
            if text.startswith(" ") and text[1:].isalpha() and len(text) > 2:
                words[text[1:].lower()] += odds[i] / odds.sum()
        found.append(dict(words.most_common(5)))
    return found


CONDITIONS = {
    "array_has(tags, 'red')": lambda r: "red" in r["tags"],
    "NOT array_has(tags, 'red')": lambda r: "red" not in r["tags"],
    "array_has(tags, 'blue') AND width > 200": lambda r: "blue" in r["tags"] and r["width"] > 200,
    "array_has_any(tags, ['red', 'blue'])": lambda r: bool({"red", "blue"} & set(r["tags"])),
    "array_has_all(tags, ['red', 'blue'])": lambda r: {"red", "blue"} <= set(r["tags"]),
    "tags[1] = 'green'": lambda r: r["tags"][0] == "green",
    "tag_probabilities[1] > 0.9": lambda r: r["tag_probabilities"][0] > np.float32(0.9),
    "tag_probabilities[CAST(array_position(tags, 'red') AS BIGINT)] > 0.2": lambda r: (
        "red" in r["tags"] and r["tag_probabilities"][list(r["tags"]).index("red")] > 0.2
    ),
}


@pytest.mark.parametrize("where", CONDITIONS)
def test_demo_is_filtered_by_tags_as_pandas_does(where: str, lake: Path) -> None:
    rows = table(lake)
    wanted = set(rows[rows.apply(CONDITIONS[where], axis=1)]["id"])
    assert 0 < len(wanted) < len(rows)
    asked = Lake(str(lake))
    found = asked.search("a red ring", where=where, limit=len(rows), one_per_image=False)
    assert {hit["id"] for hit in found.to_list()} == wanted
    assert set(asked.sql(f"SELECT id FROM samples WHERE {where}").to_pandas()["id"]) == wanted
    some = asked.sql(f"SELECT id, tags FROM search('a red ring', 5) WHERE {where}").to_pandas()
    assert set(some["id"]) <= wanted


def test_demo_where_over_a_search_asks_for_tags_before_it(lake: Path) -> None:
    """So that as many rows come as were asked for, of the few that have the word."""
    asked = Lake(str(lake))
    where = "array_has(h.tags, 'purple') AND NOT array_has(h.tags, 'red')"
    told = asked.sql(f"EXPLAIN SELECT id FROM search('a red ring', 5) h WHERE {where}").to_pandas().to_string()
    assert "before it: array_has(`tags`, 'purple') AND (NOT array_has(`tags`, 'red'))" in told
    assert len(asked.sql(f"SELECT id FROM search('a red ring', 5) h WHERE {where}").to_list()) == 5


def test_demo_exports_tell_tags_in_every_format(lake: Path, tmp_path: Path) -> None:
    rows = table(lake).set_index("id")
    one = rows.index[0]
    where, tags = f"id = '{one}'", list(rows.loc[one, "tags"])
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        assert Lake(str(lake)).export(str(tmp_path / name), where=where).rows == 1
    assert json.loads(pd.read_csv(tmp_path / "a.csv")["tags"][0]) == tags
    assert pd.read_json(tmp_path / "a.jsonl", lines=True)["tags"][0] == tags
    assert list(pd.read_parquet(tmp_path / "a.parquet")["tags"][0]) == tags


def test_scenes_script_prints_what_it_wrote(tmp_path: Path) -> None:
    script = REPOSITORY / "demo" / "scenes.py"
    command = [sys.executable, str(script), "--out", str(tmp_path / "out"), "--pairs", "50"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "6 shards (00000.tar to 00005.parquet)" in done.stdout
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_job_keeps_what_rays_daemons_say_off_standard_output() -> None:
    code = (
        "import jobs.outcome, sys; assert 'ray' not in sys.modules; import ray._private.ray_logging as r; "
        "print(r.stdout_deduplicator.deduplicate({'pid': 'raylet', 'lines': ['A worker died']}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert "A worker died" not in done.stdout
    assert "'lines': []" in done.stdout, done.stderr
