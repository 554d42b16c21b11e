"""End to end on the demo shards with the demo checkpoint, each value compared with transformers' own classes."""

import json
import subprocess
import sys
from collections import Counter
from io import BytesIO
from pathlib import Path

import lancedb
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bridgelake import DEFAULT_MODEL
from demo.pack import Packed, pack
from pipeline.fetch import fetch_image
from tests.conftest import REPOSITORY
from tests.stock import Stock

PAIRS = 240


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return pack(tmp_path_factory.mktemp("shards"), pairs=PAIRS, seed=7)


def embed(packed: Packed, db: Path, *inputs: str) -> dict[str, object]:
    command = [sys.executable, "jobs/embed_laion.py", "--db", str(db), "--keep", "distance", "--json"]
    command += ["--dtype", "float32"]  # as the stock classes compute
    command += [f"--input={packed.folder}/{name}" for name in inputs]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def table(db: Path, name: str = "laion") -> pd.DataFrame:
    return lancedb.connect(db).open_table(name).to_pandas()


@pytest.fixture(scope="module")
def lake(packed: Packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    db = tmp_path_factory.mktemp("lake")
    summary = embed(packed, db, "")
    assert (summary["rows"], summary["truncated"]) == (packed.pairs, packed.long_captions)
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
    assert (again["skipped"], again["committed"], again["rows"]) == (len(packed.shards), 0, 0)
    assert len(table(lake)) == packed.pairs


def test_demo_rows_equal_the_stock_classes_run_by_hand(packed: Packed, lake: Path) -> None:
    rows = table(lake).sort_values("id").head(40)
    stock = Stock(Path(DEFAULT_MODEL), heads=("itc", "itm"))
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
