"""Plain LanceDB code after `import bridgelake`, over a table made with the demo's checkpoint."""

import asyncio
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.embeddings import get_registry
from lancedb.index import FTS
from PIL import Image

import bridgelake.wiring
import model
from bridgelake import DEFAULT_MODEL, ITMReranker, Lake
from bridgelake.wiring import as_model
from demo.pack import pack
from model.bridgetower import BridgeTower
from model.encoder import Encoder
from pipeline.contract import FUNCTIONS_KEY, PLACE_KEY
from pipeline.decode import decode
from pipeline.errors import ConfigError, ContractError, TableError
from tests import checkpoints
from tests.conftest import REPOSITORY
from tests.ingest import Lake as Ingest

WORDS = "a small red ring"
IMAGE = "image_embedding"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of the demo's tars, 120 pairs, embedded as a run does it."""
    folder = tmp_path_factory.mktemp("plugins")
    lake = Ingest(folder, model=as_model(model.resolve(DEFAULT_MODEL)))
    pack(folder / "packed", 120, 0)
    for tar in (folder / "packed").glob("*.tar"):
        tar.rename(lake.root / tar.name)
    lake.run(*sorted(tar.name for tar in lake.root.glob("*.tar")))
    return folder


@pytest.fixture
def table(folder: Path) -> lancedb.table.Table:
    return lancedb.connect(str(folder / "lake")).open_table("laion")


@pytest.fixture
def lake(folder: Path) -> Lake:
    return Lake(str(folder / "lake"))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return model.load(model.resolve(DEFAULT_MODEL))


@pytest.fixture
def registry() -> Iterator[Any]:
    """LanceDB's, whose variables are forgotten again."""
    registry = get_registry()
    before = dict(registry._variables)
    yield registry
    registry._variables = before


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(checkpoints.write(tmp_path_factory.mktemp("other"), checkpoints.config(contrastive_hidden_size=64)))


def copied(folder: Path, to: Path) -> str:
    """The lake as if it had been made there by an older version: without what the plug-ins read."""
    shutil.copytree(folder / "lake", to)
    dataset = lance.dataset(f"{to}/laion.lance")
    kept = {k: v for k, v in dataset.schema.metadata.items() if k not in (FUNCTIONS_KEY, PLACE_KEY)}
    dataset.replace_schema_metadata({k.decode(): v.decode() for k, v in kept.items()})
    return str(to)


def test_import_of_bridgelake_is_light_and_registers_the_function() -> None:
    code = """
import sys, bridgelake
from lancedb.embeddings import get_registry
get_registry().get("bridgetower")
assert not {"torch", "transformers", "ray", "datafusion"} & set(sys.modules), "heavy"
"""
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=120)


def test_table_that_names_the_function_opens_and_searches_by_vector_without_bridgelake(folder: Path) -> None:
    code = f"""
import sys, lancedb, numpy as np
table = lancedb.connect({str(folder / "lake")!r}).open_table("laion")
assert table.search(np.ones(64, "f4"), vector_column_name="image_embedding").limit(3).to_arrow().num_rows == 3
assert "bridgelake" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("column", ["image", "text", "cross"])
def test_plain_search_by_words_equals_ours(table: Any, lake: Lake, column: str) -> None:
    query = table.search(WORDS, vector_column_name=f"{column}_embedding").distance_type("cosine")
    plain = query.limit(20).to_arrow()
    ours = lake.search(WORDS, column=column, limit=20, one_per_image=False)
    np.testing.assert_allclose(plain["_distance"], ours.table["_distance"], atol=1e-6)


def test_query_by_words_runs_no_vision_and_no_fusion_and_loads_the_model_once(
    table: Any, lake: Lake, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[object] = []
    real = model.load
    monkeypatch.setattr(model, "load", lambda *arguments: loads.append(arguments) or real(*arguments))
    bridgelake.wiring.asker.cache_clear()
    for name in ("encode_images", "fuse"):
        monkeypatch.setattr(BridgeTower, name, lambda *_, name=name, **__: pytest.fail(f"{name} was run"))
    for _ in range(3):
        table.search(WORDS, vector_column_name=IMAGE).limit(3).to_list()
        lake.search(WORDS, limit=3)
    assert len(loads) == 1
    (vector,) = table.embedding_functions[IMAGE].function.compute_query_embeddings(WORDS)
    np.testing.assert_allclose(vector, encoder.embed_texts([WORDS])[0], atol=1e-6)


def test_query_by_a_picture_finds_it(table: Any, lake: Lake, tmp_path: Path) -> None:
    hit = lake.search(WORDS, limit=1)
    (image,) = hit.images()
    assert isinstance(image, bytes)
    (tmp_path / "a.jpg").write_bytes(image)
    for asked in (image, tmp_path / "a.jpg", Image.open(io.BytesIO(image))):
        (found,) = table.search(asked, vector_column_name=IMAGE).limit(1).to_list()
        assert found["sha256"] == hit.to_list()[0]["sha256"]
        assert found["_distance"] < 1e-3


def test_words_and_a_picture_together_are_fused_for_the_cross_column(lake: Lake, encoder: Encoder, table: Any) -> None:
    (image,) = lake.search(WORDS, limit=1).images()
    assert isinstance(image, bytes)
    pixels = encoder.preparer.picture(decode(image, 10**6).picture)[None]
    ids = [ids for ids, _ in encoder.preparer.captions([WORDS])]
    vectors = {"cross": encoder.embed(pixels, ids, [0]).cross[0]}
    both = encoder.embed_texts([WORDS])[0] + encoder.embed_images(pixels)[0]
    vectors |= dict.fromkeys(("image", "text"), both / np.linalg.norm(both))
    rows = table.to_arrow()
    for column, vector in vectors.items():
        hits = lake.search(WORDS, image=image, column=column, limit=200, one_per_image=False)
        stored = np.stack(rows[f"{column}_embedding"].to_pylist()).astype(np.float32)
        by_id = dict(zip(rows["id"].to_pylist(), stored @ vector / np.linalg.norm(stored, axis=1), strict=True))
        cosines = [by_id[row["id"]] for row in hits.to_list()]
        np.testing.assert_allclose(hits.table["_distance"], 1 - np.array(cosines), atol=1e-4)
        assert len(hits) == rows.num_rows


def matched(lake: Lake, encoder: Encoder, rows: list[dict[str, Any]]) -> list[float]:
    """The ITM probability of the words with each row's picture, one by one."""
    hits = lake.search(WORDS, limit=1000, one_per_image=False)
    pictures = dict(zip(hits.table["sha256"].to_pylist(), hits.images(), strict=True))
    squares = [encoder.preparer.picture(decode(pictures[row["sha256"]], 10**6).picture) for row in rows]  # type: ignore[arg-type]
    return [float(encoder.match(square[None], [WORDS])[0, 0]) for square in squares]


def test_itm_reranker_looks_at_the_pictures_of_a_vector_search(table: Any, lake: Lake, encoder: Encoder) -> None:
    before = table.search(WORDS, vector_column_name=IMAGE).limit(10).to_arrow()
    after = table.search(WORDS, vector_column_name=IMAGE).rerank(ITMReranker()).limit(10).to_arrow()
    assert sorted(after["id"].to_pylist()) == sorted(before["id"].to_pylist())
    assert "_distance" not in after.column_names
    scores = after["_relevance_score"].to_pylist()
    assert scores == sorted(scores, reverse=True)
    np.testing.assert_allclose(scores, matched(lake, encoder, after.to_pylist()), atol=1e-5)
    assert after["itm_query"] == after["_relevance_score"]
    assert after["fetch_error"].null_count == 10


def test_itm_reranker_looks_at_hits_of_full_text_and_of_hybrid_search(
    folder: Path, tmp_path: Path, lake: Lake, encoder: Encoder
) -> None:
    shutil.copytree(folder / "lake", tmp_path / "lake")
    table = lancedb.connect(str(tmp_path / "lake")).open_table("laion")
    table.create_index("caption", config=FTS())
    found = table.search("red ring", query_type="fts").rerank(ITMReranker()).limit(5).to_list()
    assert len(found) == 5
    hybrid = table.search(query_type="hybrid", vector_column_name=IMAGE).text(WORDS)
    hybrid = hybrid.vector(encoder.embed_texts([WORDS])[0])
    for score in ("relevance", "all"):
        rows = hybrid.rerank(ITMReranker(return_score=score)).limit(8).to_list()
        assert len({row["id"] for row in rows}) == len(rows) == 8
        scores = [row["_relevance_score"] for row in rows]
        assert scores == sorted(scores, reverse=True)
        np.testing.assert_allclose(scores, matched(lake, encoder, rows), atol=1e-5)
        assert ("_distance" in rows[0]) == ("_score" in rows[0]) == (score == "all")
    nowhere = table.search(query_type="hybrid", vector_column_name=IMAGE).text("xylophone")
    nowhere = nowhere.vector(encoder.embed_texts([WORDS])[0]).rerank(ITMReranker(), normalize="rank")
    assert len(nowhere.limit(4).to_list()) == 4


def test_itm_reranker_works_in_the_asynchronous_interface(folder: Path, encoder: Encoder) -> None:
    async def search() -> pa.Table:
        table = await (await lancedb.connect_async(str(folder / "lake"))).open_table("laion")
        query = table.vector_search(encoder.embed_texts([WORDS])[0]).column(IMAGE)
        return await query.rerank(ITMReranker(), query_string=WORDS).limit(5).to_arrow()

    scores = asyncio.run(search())["_relevance_score"].to_pylist()
    assert scores == sorted(scores, reverse=True)


def test_itm_reranker_keeps_hits_whose_picture_is_gone_below_the_others(folder: Path, table: Any) -> None:
    shard = folder / "laion" / "00001.tar"
    shard.rename(shard.with_suffix(".away"))
    try:
        rows = table.search(WORDS, vector_column_name=IMAGE).rerank(ITMReranker()).limit(60).to_list()
    finally:
        shard.with_suffix(".away").rename(shard)
    lost = [row["shard"] == "00001.tar" for row in rows]
    assert 0 < sum(lost) < 60
    assert lost == sorted(lost)
    assert all((row["_relevance_score"] is None) == gone for row, gone in zip(rows, lost, strict=True))
    assert all(("no such file" in (row["fetch_error"] or "")) == gone for row, gone in zip(rows, lost, strict=True))


def test_itm_reranker_of_no_hits_gives_none(table: Any) -> None:
    query = table.search(WORDS, vector_column_name=IMAGE).where("width < 0", prefilter=True)
    assert query.rerank(ITMReranker()).limit(5).to_list() == []


def test_itm_reranker_says_what_it_lacks(table: Any, folder: Path, tmp_path: Path) -> None:
    few = table.search(WORDS, vector_column_name=IMAGE).select(["id", "caption", "shard"])
    with pytest.raises(ConfigError, match=r"select dataset, key, sha256, image_offset.* too, or leave select out"):
        few.rerank(ITMReranker()).limit(5).to_list()
    with pytest.raises(ConfigError, match="allowed is cpu or gpu"):
        ITMReranker(device="tpu")
    lance.write_dataset(pa.table({"v": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))}), f"{tmp_path}/x.lance")
    foreign = lancedb.connect(str(tmp_path)).open_table("x").search([1.0, 2.0])
    with pytest.raises(ConfigError, match="looks at pictures: select dataset"):
        foreign.rerank(ITMReranker(), query_string=WORDS).to_list()


def test_plugins_refuse_another_model(folder: Path, table: Any, registry: Any, other: str) -> None:
    with pytest.raises(ContractError, match="the table was made with another model"):
        table.search(WORDS, vector_column_name=IMAGE).rerank(ITMReranker(checkpoint=other)).limit(5).to_list()
    registry.set_var("bridgetower", other)
    table = lancedb.connect(str(folder / "lake")).open_table("laion")
    with pytest.raises(ContractError, match="weights: the table has"):
        table.search(WORDS, vector_column_name=IMAGE)
    vector = np.ones(64, np.float32)
    with pytest.raises(ContractError, match="weights: the table has"):
        table.search(vector, vector_column_name=IMAGE).rerank(ITMReranker(), query_string=WORDS).to_list()


def test_plugins_find_a_checkpoint_and_a_database_that_moved(
    folder: Path, table: Any, registry: Any, tmp_path: Path
) -> None:
    shutil.copytree(DEFAULT_MODEL, tmp_path / "moved")
    expected = table.search(WORDS, vector_column_name=IMAGE).rerank(ITMReranker()).limit(5).to_arrow()
    registry.set_var("bridgetower", str(tmp_path / "moved"))
    table = lancedb.connect(str(folder / "lake")).open_table("laion")
    assert table.search(WORDS, vector_column_name=IMAGE).rerank(ITMReranker()).limit(5).to_arrow() == expected
    home = folder / "lake"
    home.rename(tmp_path / "lake")
    try:
        moved = lancedb.connect(str(tmp_path / "lake")).open_table("laion").search(WORDS, vector_column_name=IMAGE)
        with pytest.raises(TableError, match=r"not at .*plugins0/lake/laion.lance: give ITMReranker\(db, table\)"):
            moved.rerank(ITMReranker()).limit(5).to_arrow()
        found = moved.rerank(ITMReranker(str(tmp_path / "lake"))).limit(5).to_arrow()
    finally:
        (tmp_path / "lake").rename(home)
    assert found["id"] == expected["id"]


def test_table_from_before_the_plugins_is_still_searched_and_added_to(folder: Path, tmp_path: Path, lake: Lake) -> None:
    older = copied(folder, tmp_path / "lake")
    assert Lake(older).search(WORDS, rerank="itm").table["id"] == lake.search(WORDS, rerank="itm").table["id"]
    table = lancedb.connect(older).open_table("laion")
    assert table.embedding_functions == {}
    vector = np.ones(64, np.float32)
    query = table.search(vector, vector_column_name=IMAGE).limit(5)
    with pytest.raises(TableError, match="nowhere that the table tells"):
        query.rerank(ITMReranker(), query_string=WORDS).to_list()
    assert len(query.rerank(ITMReranker(older), query_string=WORDS).to_list()) == 5
    ingest = Ingest(tmp_path, model=as_model(model.resolve(DEFAULT_MODEL)))
    ingest.write("00009.tar", 500, 3)
    rows = table.count_rows()
    ingest.run("00009.tar")
    assert lance.dataset(f"{older}/laion.lance").count_rows() == rows + 3


def test_rows_are_not_added_by_hand(table: Any) -> None:
    rows = table.count_rows()
    with pytest.raises(Exception, match="rows are not added by hand"):  # LanceDB wraps it
        table.add([{"id": "x", "caption": "two cats"}])
    assert table.count_rows() == rows
