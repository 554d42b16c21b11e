"""The whole run on Ray, with a small random checkpoint loaded as any other is."""

import json
from pathlib import Path

import lance
import lancedb
import numpy as np
import pandas as pd
import pytest

from bridgelake import Lake
from model.hardware import best_dtype
from pipeline import stages
from pipeline.config import EmbedConfig, Keep, ReadConfig, RunConfig, WriteConfig
from pipeline.errors import ContractError
from pipeline.summary import Summary
from tests import checkpoints
from tests.fakes import Quiet
from tests.shards import members, picture, tar_bytes, write_parquet, write_tar

pytestmark = pytest.mark.usefixtures("ray_session")


def run(
    folder: Path, checkpoint: Path, *inputs: Path, read: dict | None = None, told: Quiet | None = None, **write: object
) -> Summary:
    config = RunConfig(
        ReadConfig(tuple(str(i) for i in inputs), **(read or {})),
        WriteConfig(str(folder / "lake"), **write),  # type: ignore[arg-type]
        EmbedConfig(batch_size=16),
    )
    return Lake(config.write.db, config.write.table, model=str(checkpoint)).run(config, told or Quiet())


def table(folder: Path, name: str = "laion") -> pd.DataFrame:
    return lancedb.connect(folder / "lake").open_table(name).to_pandas()


def write_shards(folder: Path) -> Path:
    """One that is whole, one with rejects, and one that is cut."""
    folder.mkdir()
    broken = [(n, d[:200] if n == "00013.jpg" else d) for n, d in members(10, start=10)]
    several = json.dumps({"caption": ["one", "two", "three"]}).encode()
    write_tar(folder / "00000.tar", [*members(10), ("extra.png", picture(99, kind="PNG")), ("extra.json", several)])
    write_tar(folder / "00001.tar", [m for m in broken if m[0] not in ("00015.txt", "00015.json")])
    (folder / "00002.tar").write_bytes(tar_bytes(members(10, start=20))[:8000])
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, ray_session: None) -> Path:
    """A folder of shards, the first two of them in a lake whose rows no test changes."""
    folder = tmp_path_factory.mktemp("embedded")
    shards = write_shards(folder / "shards")
    run(folder, checkpoint, shards / "00000.tar", shards / "00001.tar")
    return folder


def test_run_counts_add_up_and_a_second_run_does_only_what_is_left(
    tmp_path: Path, shards: Path, checkpoint: Path
) -> None:
    first = run(tmp_path, checkpoint, shards)
    assert (first.rows, first.rejects) == (13 + 8, {"truncated": 1, "no_caption": 1})
    assert (first.outcome, list(first.failures)) == ("incomplete", ["00002.tar"])
    assert {stage: 0 < one.share <= 1 for stage, one in first.at_work.items()} == {"read": True, "infer": True}
    rows, rejects, ledger = table(tmp_path), table(tmp_path, "laion_rejects"), table(tmp_path, "laion_shards")
    assert rows["id"].is_unique
    assert len(rows) == 21
    assert sorted(rejects["key"]) == ["00013", "00015"]
    assert (ledger["read"] == ledger["embedded"] + ledger["rejected"] + ledger["taken_down"]).all()
    assert list(ledger[ledger["outcome"] == "failed"]["slice"]) == ["00002.tar"]
    extra = rows[rows["key"] == "extra"]
    assert (sorted(extra["caption"]), extra["sha256"].nunique()) == (["one", "three", "two"], 1)

    write_tar(shards / "00002.tar", members(10, start=20))
    second = run(tmp_path, checkpoint, shards)
    assert (second.skipped, second.committed, second.rows, second.outcome) == (2, 1, 10, "done")
    third = run(tmp_path, checkpoint, shards)
    assert (third.skipped, third.committed, third.rows, third.outcome) == (3, 0, 0, "done")
    assert table(tmp_path)["id"].nunique() == len(table(tmp_path)) == 31
    runs = table(tmp_path, "laion_runs")
    assert list(runs["outcome"]) == ["incomplete", "done"]
    # What was computed in, not "auto": verify goes by it.
    assert json.loads(runs["compute"][0])["dtype"] == best_dtype("cpu")


def test_run_ids_are_the_same_whatever_the_order_of_the_inputs(
    embedded: Path, tmp_path: Path, checkpoint: Path
) -> None:
    run(tmp_path, checkpoint, embedded / "shards" / "00001.tar", embedded / "shards" / "00000.tar")
    a, b = (table(folder).set_index("id").sort_index() for folder in (embedded, tmp_path))
    assert list(a.index) == list(b.index)
    for column in ("image_embedding", "text_embedding", "cross_embedding"):
        np.testing.assert_allclose(np.stack(a[column]), np.stack(b[column]), atol=2e-3)


def test_run_vectors_are_of_unit_length_and_scores_belong_to_them(embedded: Path) -> None:
    rows = table(embedded)
    image, text = (np.stack(rows[c]).astype(np.float32) for c in ("image_embedding", "text_embedding"))
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1, atol=2e-3)
    np.testing.assert_allclose((image * text).sum(axis=1), rows["itc_score"], atol=2e-3)
    assert rows["itm_score"].between(0, 1).all()


def test_run_keeps_typed_columns_and_reads_a_parquet_in_slices(tmp_path: Path, checkpoint: Path) -> None:
    count = 40
    columns = {
        "key": [f"k{i}" for i in range(count)],
        "jpg": [picture(i) for i in range(count)],
        "caption": [f"caption {i}" for i in range(count)],
        "Similarity": [i / 8 for i in range(count)],
    }
    write_parquet(tmp_path / "part.parquet", columns, group_rows=10)
    read = {"keep": (Keep("similarity"),), "slice_bytes": 20_000}
    told = Quiet()
    summary = run(tmp_path, checkpoint, tmp_path / "part.parquet", read=read, told=told, fragment_rows=8)
    rows = table(tmp_path).sort_values("similarity")
    assert (summary.shards, summary.committed) == (1, 2)
    assert (told.counts.shards, told.counts.of_shards) == (1, 1)
    assert list(rows["similarity"]) == columns["Similarity"]
    assert list(rows["key"]) == columns["key"]


def test_run_writes_a_large_slice_in_several_fragments_exactly_once(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "_BLOCK_BYTES", 200_000)  # some 15 pictures
    monkeypatch.setattr(stages, "_CALLS", 4)  # 64 rows, or an actor might be given all of them at once
    write_tar(tmp_path / "large.tar", members(150))
    summary = run(tmp_path, checkpoint, tmp_path / "large.tar", fragment_rows=64)
    assert summary.rows == 150
    assert sorted(table(tmp_path)["key"]) == [f"{i:05d}" for i in range(150)]
    assert 1 < len(lance.dataset(f"{tmp_path}/lake/laion.lance").get_fragments()) <= 3


def test_run_fills_the_models_batches_from_small_shards(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "small").mkdir()
    for i in range(20):
        write_tar(tmp_path / "small" / f"{i:05d}.tar", members(10, start=i * 10))
    summary = run(tmp_path, checkpoint, tmp_path / "small")
    assert summary.rows == 200
    assert summary.pairs_per_call >= 0.8 * 16  # the batch size


def test_run_refuses_another_model_and_shows_both(embedded: Path, tmp_path: Path) -> None:
    other = checkpoints.write(tmp_path / "other", checkpoints.config(contrastive_hidden_size=32))
    with pytest.raises(ContractError, match="dimension: the table has 48, this model 32"):
        run(embedded, other, embedded / "shards" / "00002.tar")
