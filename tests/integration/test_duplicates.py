"""Groups of near-identical pictures, against every pair compared by hand."""

from itertools import combinations
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

import pipeline.duplicates
from pipeline.contract import Layout
from pipeline.database import Database
from pipeline.duplicates import Found, find_duplicates
from pipeline.errors import ConfigError, TableError
from pipeline.schema import rows_schema
from pipeline.upkeep.delete import delete
from pipeline.upkeep.orders import Order
from pipeline.upkeep.verify import verify
from tests.ingest import Lake
from tests.lakes import CONTRACT, DIMENSION, unit
from tests.shards import members, write_tar

Row = dict[str, Any]


def made(folder: Path, rows: list[Row], fragments: int = 3) -> Database:
    database = Database(str(folder), "laion")
    layout = Layout(rows_schema((), ("image",), DIMENSION, "float16"), CONTRACT)
    for part in np.array_split(np.arange(len(rows)), fragments):
        table = pa.Table.from_pylist([rows[i] for i in part], schema=layout.schema)
        if len(part):
            database.append("", table.replace_schema_metadata(layout.with_metadata.metadata))
    return database


def clustered(pictures: int, seed: int = 0) -> list[Row]:
    """Samples of pictures in clusters, some in several samples, some with several captions; in no order of ids."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(pictures // 4, DIMENSION))
    vectors = unit(centres[rng.integers(0, len(centres), pictures)] + 0.25 * rng.normal(size=(pictures, DIMENSION)))
    rows = []
    for number, vector in enumerate(vectors):
        for copy in range(1 + (number % 5 == 0)):
            for caption in range(1 + (number % 3 == 0)):
                row = {"id": f"{rng.integers(2**63):032x}", "dataset": "laion", "shard": f"{copy}.tar"}
                row |= {"key": f"{number:05d}", "caption_index": caption, "sha256": f"{number:064x}"}
                rows.append(row | {"image_embedding": vector.astype(np.float16)})
    return [rows[i] for i in rng.permutation(len(rows))]


def by_hand(rows: list[Row], threshold: float) -> dict[str, tuple[str, float]]:
    """id -> duplicate_of and cosine."""
    vectors = {r["sha256"]: unit(r["image_embedding"].astype(np.float32)) for r in rows}
    groups = {sha: {sha} for sha in vectors}
    for a, b in combinations(vectors, 2):
        if vectors[a] @ vectors[b] >= threshold and groups[a] is not groups[b]:
            groups[a] |= groups[b]
            for sha in groups[b]:
                groups[sha] = groups[a]
    found = {}
    for row in rows:
        leader = min((r for r in rows if r["sha256"] in groups[row["sha256"]]), key=lambda r: r["id"])
        if (row["shard"], row["key"]) != (leader["shard"], leader["key"]):
            found[row["id"]] = leader["id"], float(vectors[row["sha256"]] @ vectors[leader["sha256"]])
    return found


def written(database: Database) -> dict[str, tuple[str, float]]:
    dataset = database.open("duplicates")
    assert dataset is not None
    return {r["id"]: (r["duplicate_of"], r["cosine"]) for r in dataset.to_table().to_pylist()}


def assert_same(found: dict[str, tuple[str, float]], wanted: dict[str, tuple[str, float]]) -> None:
    assert {i: of for i, (of, _) in found.items()} == {i: of for i, (of, _) in wanted.items()}
    np.testing.assert_allclose([found[i][1] for i in wanted], [cosine for _, cosine in wanted.values()], atol=1e-5)


@pytest.mark.parametrize("threshold", [0.8, 0.9, 0.97, 0.9999])
@pytest.mark.parametrize("block", [7, 8192])
def test_groups_are_those_of_every_pair_compared(
    tmp_path: Path, threshold: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.duplicates, "_BLOCK", block)
    rows = clustered(120)
    database = made(tmp_path, rows)
    found, wanted = find_duplicates(database, threshold), by_hand(rows, threshold)
    assert_same(written(database), wanted)
    assert found == Found(120, len({of for of, _ in wanted.values()}), len(wanted), threshold, by_index=False)


def test_rows_that_were_deleted_are_none(tmp_path: Path) -> None:
    rows = clustered(60)
    database = made(tmp_path, rows)
    gone = {row["id"] for row in rows[::7]}
    dataset = database.open()
    assert dataset is not None
    dataset.delete(f"id IN ({', '.join(repr(i) for i in gone)})")
    find_duplicates(database, 0.9)
    assert_same(written(database), by_hand([row for row in rows if row["id"] not in gone], 0.9))


def test_an_index_finds_what_lies_near_each_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.duplicates, "EXACT_BELOW", 10)
    rows = clustered(600)
    database = made(tmp_path, rows)
    dataset = database.open()
    assert dataset is not None
    dataset.create_index("image_embedding", "IVF_FLAT", num_partitions=16, metric="cosine")
    found, wanted = find_duplicates(database, 0.97), by_hand(rows, 0.97)
    assert (found.by_index, found.line().startswith("600 pictures, compared near their own partition")) == (True, True)
    near = written(database)
    assert sum(near.get(i, ("",))[0] == of for i, (of, _) in wanted.items()) >= 0.98 * len(wanted)
    assert near.keys() <= wanted.keys()
    assert not find_duplicates(database, 0.97, exact=True).by_index
    assert_same(written(database), wanted)


def test_the_same_again_gives_the_same_and_takes_the_place_of_what_was_found_before(tmp_path: Path) -> None:
    database = made(tmp_path, clustered(80))
    find_duplicates(database, 0.8)
    many = written(database)
    find_duplicates(database, 0.99)
    few = written(database)
    assert len(few) < len(many)
    find_duplicates(database, 0.8)
    assert written(database) == many


def test_a_chain_of_pictures_is_one_group(tmp_path: Path) -> None:
    angles = [0.0, 0.2, 0.4, 0.6]
    rows = [
        {"id": f"{9 - i:032d}", "dataset": "d", "shard": "s", "key": str(i), "caption_index": 0, "sha256": f"{i:064d}"}
        | {"image_embedding": np.array([np.cos(a), np.sin(a), *[0] * (DIMENSION - 2)], np.float16)}
        for i, a in enumerate(angles)
    ]
    database = made(tmp_path, rows)
    find_duplicates(database, 0.97)
    found = written(database)
    assert {of for of, _ in found.values()} == {f"{6:032d}"}
    assert found[f"{9:032d}"][1] == pytest.approx(np.cos(0.6), abs=1e-3)  # of the leader's picture, however far


def test_a_table_without_rows_has_none(tmp_path: Path) -> None:
    database = made(tmp_path, clustered(8))
    dataset = database.open()
    assert dataset is not None
    dataset.delete("true")
    assert find_duplicates(database, 0.9) == Found(0, 0, 0, 0.9, by_index=False)
    assert written(database) == {}


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.1, float("nan")])
def test_a_threshold_that_is_no_cosine_is_refused(tmp_path: Path, threshold: float) -> None:
    with pytest.raises(ConfigError, match="--threshold"):
        find_duplicates(Database(str(tmp_path), "laion"), threshold)


def test_without_a_table_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"there is no table laion in .*: embed shards into it first"):
        find_duplicates(Database(str(tmp_path), "laion"), 0.9)


def test_a_table_without_image_vectors_says_what_to_do(tmp_path: Path) -> None:
    database = Database(str(tmp_path), "laion")
    lance.write_dataset(pa.table({"id": ["a"]}), database.path())
    with pytest.raises(TableError, match=r"laion.lance holds no image_embedding, .*: embed with image in --vectors"):
        find_duplicates(database, 0.9)


def test_copies_are_found_whatever_their_vectors_and_a_takedown_removes_them_from_the_list(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for name in ("a.tar", "b.tar", "c.tar"):
        write_tar(lake.root / name, members(2))
    lake.run("a.tar", "b.tar", "c.tar")
    found = find_duplicates(lake.database, 1.0)
    assert (found.pictures, found.duplicates) == (2, 4)
    leader = min(lake.rows().to_table(filter="key = '00000'")["id"].to_pylist())
    delete(lake.database, Order(ids=(leader,)))
    assert all(leader not in (i, of) for i, (of, _) in written(lake.database).items())
    assert len(written(lake.database)) == 2
    assert verify(lake.database).ok
