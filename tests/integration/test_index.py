import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ConfigError, TableError
from pipeline.index import Tuned, keep_tuned, tuned, way
from pipeline.indexes.build import described, fold
from pipeline.indexes.centroids import kmeans, nearest_centre, vectors_of
from pipeline.indexes.exact import exact
from pipeline.indexes.kinds import choose
from pipeline.indexes.measure import Asked, Measured, ask, measure
from pipeline.indexes.report import Report, Request
from pipeline.indexes.tune import tune, widen
from pipeline.indexes.work import index
from pipeline.retrieval.nearest import nearest
from pipeline.retrieval.question import Query
from pipeline.runs import record_work
from pipeline.upkeep.verify import verify
from tests.ingest import Lake
from tests.vectors import WIDTH, VectorLake, drawn, unit


@pytest.fixture
def lake(tmp_path: Path) -> VectorLake:
    return VectorLake(tmp_path).add(600, 1).add(600, 2)


def request(**options: Any) -> Request:
    return Request(**{"kind": "ivf_rq", "partitions": 8, "queries": 40, "scalars": False, "fulltext": False, **options})


def built(lake: VectorLake, **options: Any) -> Report:
    return index(lake.database, request(**options))


def found(dataset: lance.LanceDataset, vector: np.ndarray, **options: Any) -> list[str]:
    names: list[str] = nearest(dataset, vector.astype(np.float32), Query("-", **options), 10)["sha256"].to_pylist()
    return names


# which kind


@pytest.mark.parametrize(
    ("rows", "dimension", "kind", "partitions"),
    [
        (1, 512, "exact", 0),
        (49_999, 512, "exact", 0),
        (50_000, 512, "ivf_rq", 512),
        (1_000_000, 512, "ivf_rq", 2048),
        (1_000_000_000, 512, "ivf_rq", 16384),
        (60_000, 12, "ivf_sq", 512),
    ],
)
def test_kind_is_chosen_from_the_rows(rows: int, dimension: int, kind: str, partitions: int) -> None:
    choice = choose("auto", None, rows, dimension)
    assert (choice.kind, choice.partitions) == (kind, partitions)
    assert f"{rows:,} rows" in choice.why


def test_kind_that_is_named_is_taken_with_its_partitions() -> None:
    assert choose("ivf_sq", 7, 1000, 64).partitions == 7
    assert choose("ivf_hnsw_sq", None, 3_000_000, 64).partitions == 3
    assert choose("exact", None, 10**9, 64).kind == "exact"


def test_product_quantisation_takes_sub_vectors_that_divide_the_width() -> None:
    assert [choose("ivf_pq", 1, 999, width).settings(width)["num_sub_vectors"] for width in (512, 12, 7)] == [64, 2, 1]


@pytest.mark.parametrize(
    ("kind", "partitions", "rows", "dimension", "said"),
    [
        ("ivf_pq", None, 255, 64, "the table has 255 rows, an index needs 256: use --kind exact"),
        ("ivf_sq", 500, 400, 64, "--partitions 500 is not valid: the table has 400 rows"),
        ("ivf_rq", None, 400, 12, "needs vectors whose width is a multiple of 8, not 12: use ivf_sq"),
        ("hnsw", None, 400, 12, "--kind 'hnsw' is not valid: allowed is auto, exact, ivf_flat"),
        ("ivf_sq", 0, 400, 12, "--partitions 0 is not valid"),
    ],
)
def test_kind_that_cannot_be_is_refused(kind: str, partitions: int, rows: int, dimension: int, said: str) -> None:
    with pytest.raises((TableError, ConfigError), match=said):
        choose(kind, partitions, rows, dimension)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"columns": ("picture",)}, "--column 'picture' is not valid: allowed is image, text, cross"),
        ({"columns": ()}, "--column names none"),
        ({"kind": "flat"}, "--kind 'flat'"),
        ({"min_recall": 1.5}, "--min-recall 1.5 is not valid: allowed is 0 to 1"),
        ({"queries": 0}, "--queries 0"),
        ({"optimize": True}, "leave --kind and --partitions out"),
    ],
)
def test_request_that_is_not_valid_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        request(**options)


# centres and exact search


def test_centres_are_those_that_the_vectors_were_drawn_around() -> None:
    centres = 10 * np.eye(6, 16, dtype=np.float32)
    rng = np.random.default_rng(0)
    vectors = centres[np.arange(600) % 6] + rng.normal(size=(600, 16)).astype(np.float32)
    found = kmeans(vectors.astype(np.float32), 12, rng)
    nearest = nearest_centre(vectors, found)
    assert found.shape == (12, 16)
    assert all(len({i % 6 for i in np.flatnonzero(nearest == c)}) == 1 for c in set(nearest.tolist()))


def test_centres_are_no_more_than_the_vectors() -> None:
    vectors = np.eye(3, 8, dtype=np.float32)
    assert sorted(kmeans(vectors, 5, np.random.default_rng(0)).argmax(axis=1).tolist()) == [0, 1, 2]


def test_exact_search_is_the_brute_force_answer_over_distinct_pictures(lake: VectorLake) -> None:
    queries = drawn(20, 3).astype(np.float32)
    best = exact(lake.dataset(), "image_embedding", queries, [None] * 20, 10)
    assert [list(one) for one in best] == [lake.nearest(query) for query in queries]


def test_exact_search_leaves_the_own_picture_out(lake: VectorLake) -> None:
    own = lake.names[5]
    with_it, without = (exact(lake.dataset(), "image_embedding", lake.images[5:6], [w], 10)[0] for w in (None, own))
    assert next(iter(with_it)) == own
    assert list(without) == lake.nearest(lake.images[5], 11)[1:]


# measuring and tuning


def test_queries_are_pictures_and_captions_and_the_text_column_is_asked_by_captions_alone(lake: VectorLake) -> None:
    assert [(a.sort, len(a.vectors)) for a in ask(lake.dataset(), "image", 30)] == [("pictures", 30), ("captions", 30)]
    assert [(a.sort, len(a.vectors)) for a in ask(lake.dataset(), "text", 30)] == [("captions", 30)]


def test_recall_is_one_where_every_row_is_compared_and_counts_what_is_missed(lake: VectorLake) -> None:
    asked = ask(lake.dataset(), "image", 30)
    assert [m.recall for m in measure(lake.dataset(), "image", asked, None)] == [1, 1]
    queries = drawn(4, 3).astype(np.float32)
    wrong = [dict.fromkeys([*lake.nearest(q)[:6], "a", "b", "c", "d"], -1.0) for q in queries]
    one = Asked("pictures", queries, [None] * 4, wrong)
    assert [m.recall for m in measure(lake.dataset(), "image", [one], None)] == [0.6]


def test_another_picture_just_as_near_is_as_good(lake: VectorLake) -> None:
    query = drawn(1, 3).astype(np.float32)
    best = exact(lake.dataset(), "image_embedding", query, [None], 10)
    twins = [{f"twin of {name}": distance for name, distance in one.items()} for one in best]
    assert measure(lake.dataset(), "image", [Asked("pictures", query, [None], twins)], None)[0].recall == 1


def answers(recalls: dict[tuple[int, int], float]) -> Any:
    """A fake index: what it finds at least, for nprobes and refine."""

    def asked(how: Tuned) -> list[Measured]:
        good = max((r for (n, f), r in recalls.items() if n <= how.nprobes and f <= how.refine), default=0.1)
        return [Measured("pictures", 9, 1.0, 1, 1), Measured("captions", 9, good, 1, 1)]

    return asked


def test_tuning_looks_into_as_few_partitions_as_the_worst_sort_of_query_needs_and_then_refines_less() -> None:
    how, measured = tune(answers({(1, 1): 0.5, (20, 10): 0.97, (60, 1): 1.0}), 100, 0.95)
    assert how == Tuned(20, 10)
    assert [m.recall for m in measured] == [1.0, 0.97]


def test_tuning_that_finds_too_little_gives_the_best_there_is() -> None:
    how, measured = tune(answers({(1, 1): 0.5, (28, 5): 0.9}), 100, 0.95)
    assert how.nprobes == 28
    assert measured[1].recall == 0.9


def test_tuning_reaches_for_all_partitions_and_takes_what_is_just_enough() -> None:
    how, _ = tune(answers({(33, 5): 0.95}), 33, 0.95)
    assert how == Tuned(33, 5)


@pytest.mark.parametrize(
    ("recalls", "how"),
    [
        ({(1, 1): 0.5, (30, 5): 0.97}, Tuned(4, 5, 32)),
        ({(1, 1): 0.5, (26, 5): 0.97}, Tuned(4, 5, 26)),
        ({(1, 1): 0.5, (64, 5): 0.97}, Tuned(4, 5, 64)),
        ({(1, 1): 0.5, (64, 20): 0.97}, Tuned(4, 20, 64)),
        ({(1, 1): 0.5}, Tuned(4, 50, 64)),
    ],
)
def test_behind_a_filter_more_partitions_are_looked_into_and_then_more_is_refined(
    recalls: dict[tuple[int, int], float], how: Tuned
) -> None:
    assert widen(answers(recalls), Tuned(4, 5), 64, 0.95)[0] == how


# building


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_pq", "ivf_sq", "ivf_rq", "ivf_hnsw_sq", "ivf_hnsw_flat"])
def test_every_kind_is_built_measured_and_answers_with_the_tuned_defaults(lake: VectorLake, kind: str) -> None:
    (one,) = built(lake, kind=kind, min_recall=0.95).vectors
    assert (one.kind, one.partitions, one.enough) == (kind, 8, True)
    assert [m.sort for m in one.measured] == ["pictures", "captions"]
    assert all(m.count == 40 and m.recall >= 0.95 and 0 < m.p50_ms <= m.p95_ms for m in one.measured)
    assert one.bytes > 0
    assert tuned(lake.dataset(), "image") == one.tuned
    queries = drawn(100, 3)  # others than it was tuned on, so its recall on them scatters around the 0.95
    same = [len({*found(lake.dataset(), q)} & {*lake.nearest(q)}) for q in queries]
    assert sum(same) >= 0.85 * 1000


def test_index_is_by_cosine_and_is_used(lake: VectorLake) -> None:
    built(lake)
    plan = lake.dataset().scanner(nearest={"column": "image_embedding", "q": lake.images[0], "k": 5}).explain_plan()
    assert "metric=Cosine" in plan
    assert "ANN" in plan


def test_large_table_is_also_measured_behind_a_filter(lake: VectorLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.indexes.measure.FEW", 10)
    (one,) = built(lake).vectors
    assert [m.sort for m in one.measured[2:]] == [
        "pictures behind a filter that keeps 1 in 100",
        "captions behind a filter that keeps 1 in 100",
    ]
    assert [m.count for m in one.measured] == [40, 40, 10, 10]
    assert all(m.recall >= 0.95 for m in one.measured)
    kept = tuned(lake.dataset(), "image")
    assert kept is not None
    assert kept.filtered is not None
    assert kept.filtered >= kept.nprobes


def test_small_table_is_left_to_exact_search_and_its_index_goes(lake: VectorLake) -> None:
    built(lake)
    report = built(lake, kind="auto", partitions=None)
    (one,) = report.vectors
    assert (one.kind, one.tuned, report.enough) == ("exact", None, True)
    assert described(lake.dataset(), "image_embedding") is None
    assert tuned(lake.dataset(), "image") is None
    assert (
        report.lines()[1]
        == "image: exact search, no index: 2,400 rows are fewer than 50,000, and comparing each is quick"
    )


@pytest.mark.parametrize(("least", "outcome"), [(0.9, "done"), (0.91, "incomplete")])
def test_index_that_finds_too_little_says_so_and_is_recorded_as_incomplete(
    lake: VectorLake, monkeypatch: pytest.MonkeyPatch, least: float, outcome: str
) -> None:
    poor = [Measured("pictures", 40, 1.0, 1, 2), Measured("captions", 40, 0.9, 1, 2)]
    monkeypatch.setattr("pipeline.indexes.work.tune", lambda *_: (Tuned(8, 50), poor))
    report = built(lake, kind="ivf_pq", min_recall=least)
    assert report.enough == (outcome == "done")
    assert any("too little is found: --min-recall is 0.91" in line for line in report.lines()) == (least == 0.91)
    record = lake.database.open("runs").to_table().to_pylist()[0]
    assert record["run_id"].startswith("build_index-")
    assert record["outcome"] == outcome
    assert json.loads(record["configuration"])["kind"] == "ivf_pq"
    assert json.loads(record["summary"]) == json.loads(json.dumps(report.to_json()))


def test_columns_are_indexed_each_with_its_own_defaults(lake: VectorLake) -> None:
    report = built(lake, columns=("image", "text"))
    assert [one.column for one in report.vectors] == ["image", "text"]
    assert tuned(lake.dataset(), "text") == report.vectors[1].tuned
    assert [m.sort for m in report.vectors[1].measured] == ["captions"]


def test_table_without_captions_vectors_is_measured_by_pictures(tmp_path: Path) -> None:
    lake = VectorLake(tmp_path, ("image",)).add(400, 1)
    assert [m.sort for m in built(lake).vectors[0].measured] == ["pictures"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"columns": ("cross",)}, "holds no cross_embedding: index another --column, which is image, text, or embed"),
        ({"partitions": 9999}, "--partitions 9999 is not valid: the table has 2400 rows"),
    ],
)
def test_build_that_cannot_be_says_why_and_leaves_nothing(lake: VectorLake, options: dict[str, Any], said: str) -> None:
    before = lake.dataset().version
    with pytest.raises((TableError, ConfigError), match=said):
        built(lake, scalars=True, **options)
    assert lake.dataset().version == before


def test_table_that_is_empty_or_not_there_is_refused(tmp_path: Path) -> None:
    lake = VectorLake(tmp_path)
    with pytest.raises(TableError, match=r"there is no table laion in .*: embed shards into it first"):
        built(lake)
    lake.database.create("", lake.layout.with_metadata)
    with pytest.raises(TableError, match="holds no rows yet"):
        built(lake)


def test_scores_and_captions_are_indexed_and_a_second_build_brings_them_up_to_date(lake: VectorLake) -> None:
    first = built(lake, scalars=True, fulltext=True)
    kinds = {"id": "btree", "shard": "bitmap", "sha256": "btree", "itc_score": "btree", "itm_score": "btree"}
    assert {one.column: one.kind for one in first.others} == kinds | {"caption": "inverted"}
    assert "ScalarIndexQuery" in lake.dataset().scanner(filter="itm_score > 0.99").explain_plan()
    lake.add(100, 7)
    built(lake, scalars=True, fulltext=True)
    dataset = lake.dataset()
    indexed = {one.field_names[0]: one.num_rows_indexed for one in dataset.describe_indices()}
    assert set(indexed.values()) == {2600}
    assert dataset.to_table(filter="shard = '7.tar'").num_rows == 200
    assert (
        dataset.to_table(full_text_query="199", columns=["caption"])["caption"].to_pylist()[0] == "a thing number 199"
    )


# new rows, and what moves rows


def test_new_rows_are_found_before_they_are_folded_in_and_after(lake: VectorLake) -> None:
    built(lake)
    lake.add(50, 9)
    new = lake.images[-1]
    assert found(lake.dataset(), new)[0] == lake.names[-1]
    report = index(lake.database, Request(optimize=True, queries=20, scalars=False, fulltext=False))
    assert report.vectors[0].why == "new rows were folded in"
    assert described(lake.dataset(), "image_embedding").num_rows_indexed == 2500
    assert found(lake.dataset(), new)[0] == lake.names[-1]


def test_folding_keeps_the_partitions_and_few_parts(lake: VectorLake) -> None:
    built(lake)
    for seed in range(20, 26):
        lake.add(30, seed)
        fold(lake.database, "image_embedding")
        statistics = lake.dataset().stats.index_stats("image_embedding_idx")
        assert statistics["num_unindexed_rows"] == 0
        assert len(statistics["indices"]) <= 2
        assert {part["num_partitions"] for part in statistics["indices"]} == {8}
    lake.add(900, 30)
    fold(lake.database, "image_embedding")
    assert lake.dataset().stats.index_stats("image_embedding_idx")["num_indexed_rows_per_delta"] == [4560]


def test_folding_where_there_is_no_index_builds_what_the_rows_call_for(lake: VectorLake) -> None:
    report = index(lake.database, Request(optimize=True, queries=5, scalars=False, fulltext=False))
    assert report.vectors[0].kind == "exact"
    assert described(lake.dataset(), "image_embedding") is None


def test_removed_rows_are_no_longer_found(lake: VectorLake) -> None:
    built(lake)
    gone = lake.names[3]
    lake.dataset().delete(f"sha256 = '{gone}'")
    assert gone not in found(lake.dataset(), lake.images[3])


def test_defaults_are_kept_in_the_table_and_forgotten(lake: VectorLake) -> None:
    assert tuned(lake.dataset(), "image") is None
    keep_tuned(lake.database, "image", Tuned(3, 4))
    keep_tuned(lake.database, "text", Tuned(5, 6))
    assert (tuned(lake.dataset(), "image"), tuned(lake.dataset(), "text")) == (Tuned(3, 4), Tuned(5, 6))
    keep_tuned(lake.database, "image", None)
    assert (tuned(lake.dataset(), "image"), tuned(lake.dataset(), "text")) == (None, Tuned(5, 6))


def test_vectors_are_read_as_unit_vectors() -> None:
    stored = np.arange(1, 2 * WIDTH + 1, dtype=np.float16)
    array = pa.FixedSizeListArray.from_arrays(pa.array(stored), WIDTH)
    assert np.allclose(vectors_of(array), unit(stored.astype(np.float64).reshape(2, WIDTH)), atol=1e-6)


# beside runs


def test_verify_is_content_with_an_indexed_table_and_its_records(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.write("a.tar", 0, 6, 2)
    lake.run("a.tar")
    record_work(lake.database, "build_index", datetime.now(UTC), "done", {}, {"rows": 999})
    index(lake.database, Request(queries=3))
    lake.write("b.tar", 10, 5)
    lake.run("b.tar")
    found = verify(lake.database)
    assert (found.ok, found.checked["rows"], found.checked["runs"]) == (True, 11, 2)


# how a search asks


def test_filter_that_keeps_few_rows_is_answered_by_comparing_each_of_them(lake: VectorLake) -> None:
    built(lake, kind="ivf_pq")
    keep_tuned(lake.database, "image", Tuned(1, 1))
    assert way(lake.dataset(), "image") == {"nprobes": 1, "refine_factor": 1}
    assert way(lake.dataset(), "image", "itm_score > 0.9") == {"use_index": False}
    kept = {*lake.dataset().to_table(filter="itm_score > 0.9")["sha256"].to_pylist()}
    for query in drawn(10, 3):
        wanted = [name for name in lake.nearest(query, 1200) if name in kept][:10]
        assert found(lake.dataset(), query, where="itm_score > 0.9") == wanted


@pytest.mark.parametrize(
    ("kept", "nprobes"), [(1.0, 20), (0.91, 20), (0.5, 400), (0.01, 400), (0.001, 799), (1e-4, 1593), (0.0, 50358)]
)
def test_filter_is_answered_from_as_many_partitions_as_were_measured_and_more_where_it_keeps_fewer(
    kept: float, nprobes: int
) -> None:
    assert Tuned(20, 5, 400).probes(kept) == nprobes


def test_filter_that_was_not_measured_is_answered_from_more_partitions_all_the_same() -> None:
    assert [Tuned(20, 5).probes(kept) for kept in (1.0, 0.1, 0.01)] == [20, 40, 80]


def test_way_is_empty_without_an_index(lake: VectorLake) -> None:
    assert way(lake.dataset(), "image", "width = 1") == {}
