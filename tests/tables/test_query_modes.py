"""Every way to search against brute force: by words, picture, both or a row, in three columns; full text; hybrid."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest

from pipeline import index
from pipeline.errors import ConfigError, InputError, TableError
from pipeline.index import Tuned, keep_tuned
from pipeline.retrieval import fulltext, nearest
from tests.lakes import FakeLake, captioned, decoded, image_vector, jpeg, match_of, pair_vector, text_vector, unit
from tests.moulds import Moulds
from tests.shards import Squares, picture

Row = dict[str, Any]
ALL = ("image", "text", "cross")
COLOURS = ("red", "green", "blue", "black", "white")


def square(i: int) -> np.ndarray:
    return Squares().picture(decoded(jpeg(i)))


def said(i: int, c: int) -> str:
    """A caption of picture `i`; no two of a picture are equally long."""
    return f"{COLOURS[i % 5]} cat {i}" + " and dog" * (i % 3 == 0) + " again" * c


def forty(folder: Path) -> FakeLake:
    """40 pictures, the second half with three captions each; two files hold one picture."""
    lake = FakeLake(folder)
    lake.add("00000.tar", [(jpeg(i), [said(i, 0)]) for i in range(20)])
    lake.add("00001.tar", [(jpeg(i), [said(i, c) for c in range(3)]) for i in range(20, 40)])
    lake.add("00002.tar", [(jpeg(7), ["the seventh again"])])
    return lake.write(vectors=ALL)


@pytest.fixture
def lake(moulds: Moulds) -> FakeLake:
    return moulds.cast(forty)


def ids(hits: Any) -> list[str]:
    return [row["id"] for row in hits.to_list()]


def of(ranked: list[tuple[float, Row]]) -> list[str]:
    return [row["id"] for _, row in ranked]


SUBJECTS: dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]] = {
    "words": ({"words": "two cats"}, dict.fromkeys(ALL, text_vector("two cats"))),
    "picture": ({"image": jpeg(3)}, dict.fromkeys(ALL, image_vector(square(3)))),
    "words and picture": (
        {"words": "two cats", "image": jpeg(3)},
        dict.fromkeys(("image", "text"), unit(text_vector("two cats") + image_vector(square(3))))
        | {"cross": pair_vector(square(3), "two cats")},
    ),
}


@pytest.mark.parametrize("one_per_image", [True, False])
@pytest.mark.parametrize("column", ALL)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_vector_search_equals_brute_force(lake: FakeLake, subject: str, column: str, one_per_image: bool) -> None:
    asked, vectors = SUBJECTS[subject]
    hits = lake.search(**asked, column=column, limit=25, one_per_image=one_per_image)
    wanted = lake.nearest(vectors[column], column=column, one_per_image=one_per_image)[:25]
    assert ids(hits) == of(wanted)
    np.testing.assert_allclose(hits.table["_distance"], [d for d, _ in wanted], atol=1e-3)


@pytest.mark.parametrize("column", ALL)
def test_search_for_the_like_of_a_row_uses_its_own_vector_and_leaves_its_picture_out(
    lake: FakeLake, column: str
) -> None:
    row = lake.rows[7]
    hits = lake.search(like=row["id"], column=column, limit=60, one_per_image=False)
    stored = np.asarray(row[f"{column}_embedding"], np.float16).astype(np.float32)
    other = lake.nearest(stored, lambda r: r["sha256"] != row["sha256"], column, one_per_image=False)
    assert ids(hits) == of(other)[:60]
    assert lake.rows[-1]["id"] not in ids(hits)  # the same picture in another file
    assert lake.loaded == 0


def test_search_for_the_like_of_no_row_is_refused(lake: FakeLake) -> None:
    for wrong in ("none", "' OR true OR id = '", "x" * 10_000):
        with pytest.raises(InputError, match="the table has no row with this id"):
            lake.search(like=wrong)


@pytest.mark.parametrize("one_per_image", [True, False])
@pytest.mark.parametrize("mode", ["vector", "fulltext", "hybrid"])
def test_pages_of_an_answer_are_the_answer(lake: FakeLake, mode: str, one_per_image: bool) -> None:
    options = {"mode": mode, "one_per_image": one_per_image}
    whole = ids(lake.search("red cat", limit=30, **options))
    assert len(whole) == len(set(whole)) == 30
    pages = [ids(lake.search("red cat", limit=7, offset=start, **options)) for start in range(0, 28, 7)]
    assert [i for page in pages for i in page] == whole[:28]
    assert ids(lake.search("red cat", limit=7, offset=1000, **options)) == []


def tied(folder: Path) -> FakeLake:
    """Twelve of 30 pictures have one vector."""
    lake = FakeLake(folder)
    lake.add("00000.tar", captioned(30, captions=2))
    for row in lake.rows[20:44]:
        row["image_embedding"] = lake.rows[20]["image_embedding"]
    lake.rows.reverse()  # of a picture, the first caption lies last
    return lake.write()


@pytest.mark.parametrize("limit", [1, 2, 5, 11, 12, 13, 20])
def test_ties_are_in_the_order_of_sha256_whatever_the_limit(moulds: Moulds, limit: int) -> None:
    lake = moulds.cast(tied)
    vector = text_vector("x")
    assert len({d for d, _ in lake.nearest(vector)}) == 19
    assert ids(lake.search("x", limit=limit)) == of(lake.nearest(vector)[:limit])
    several = of(lake.nearest(vector, one_per_image=False)[:limit])
    assert ids(lake.search("x", limit=limit, one_per_image=False)) == several


@pytest.mark.parametrize("column", ALL)
def test_rows_without_a_vector_or_with_nulls_are_no_obstacle(tmp_path: Path, column: str) -> None:
    lake = FakeLake(tmp_path)
    lake.add("00000.tar", captioned(30))
    for row in lake.rows[::3]:
        row[f"{column}_embedding"] = None
    for row in lake.rows[1::3]:
        row |= {"caption": None, "url": None, "width": None, "itc_score": None, "itm_score": None, "key": None}
    lake.write(vectors=ALL)
    hits = lake.search("two cats", column=column, limit=30)
    assert ids(hits) == of(lake.nearest(text_vector("two cats"), column=column))
    assert len(hits) == 20
    assert "20 hits" in repr(hits)
    assert hits._repr_html_().count("<tr>") == 21
    assert hits.to_pandas()["caption"].isna().sum() == 10
    reranked = lake.search("two cats", column=column, limit=30, rerank="itm")
    assert reranked.table["itm_query"].null_count == 0
    with pytest.raises(InputError, match=f"has no {column}_embedding"):
        lake.search(like=lake.rows[0]["id"], column=column)
    found = lake.search("caption", mode="fulltext", limit=30)
    assert set(ids(found)) == {row["id"] for row in lake.rows if row["caption"] is not None}


FILTERS = {
    "width >= 64": "width >= 64",
    "width BETWEEN 40 AND 70 AND caption_index = 1": "40 <= width <= 70 and caption_index == 1",
    "shard <> '00001.tar'": "shard != '00001.tar'",
    "caption LIKE 'red%' OR itm_score > 0.75": "caption.str.startswith('red') or itm_score > 0.75",
    "key IN ('00003', '00004', 'none')": "key in ('00003', '00004', 'none')",
    "url IS NULL AND NOT (width = 32)": "url.isna() and not width == 32",
    "width > 10000": "width > 10000",
}


@pytest.mark.parametrize("mode", ["vector", "fulltext", "hybrid"])
@pytest.mark.parametrize("where", FILTERS)
def test_filters_keep_what_pandas_keeps_and_search_the_rest(lake: FakeLake, where: str, mode: str) -> None:
    frame = lance.dataset(lake.database.path()).to_table().to_pandas()
    kept = set(frame.query(FILTERS[where], engine="python")["id"])
    hits = lake.search("cat dog seventh", mode=mode, where=where, limit=100, one_per_image=False)
    assert set(ids(hits)) == kept
    few = lake.search("cat dog seventh", mode=mode, where=where, limit=3, one_per_image=False)
    assert ids(few) == ids(hits)[:3]


def test_search_takes_the_least_score_before_the_search_and_the_largest_distance(lake: FakeLake) -> None:
    hits = lake.search("two cats", min_itm=0.7, limit=100)
    wanted = lake.nearest(text_vector("two cats"), lambda row: row["itm_score"] >= np.float32(0.7))
    assert ids(hits) == of(wanted)
    both = lake.search("two cats", min_itm=0.7, where="width > 40 OR true", limit=100)
    assert ids(both) == ids(hits)
    edge = wanted[4][0]
    assert ids(lake.search("two cats", min_itm=0.7, limit=100, max_distance=edge + 1e-4)) == of(wanted[:5])
    assert len(lake.search("two cats", max_distance=0.0)) == 0
    words = lake.search("two cats", mode="hybrid", max_distance=0.0, limit=100)  # of the vector half
    assert set(ids(words)) == set(ids(lake.search("two cats", mode="fulltext", limit=100)))


def test_rerank_takes_the_least_probability_of_the_words(lake: FakeLake) -> None:
    hits = lake.search("two cats", rerank="itm", min_itm=0.5, limit=40)
    scores = [match_of(Squares().picture(decoded(image)), "two cats") for image in hits.images()]
    assert min(scores) >= 0.5
    assert len(hits) == sum(match_of(square(i), "two cats") >= 0.5 for i in range(40))
    (lake.folder / "laion" / "00001.tar").unlink()
    left = lake.search("two cats", rerank="itm", min_itm=0.5, limit=40)
    assert set(left.table["shard"].to_pylist()) == {"00000.tar"}
    assert left.notes == ("the pictures of 20 candidates could not be looked at: --min-itm leaves them out",)


def test_rerank_of_a_page_passes_over_the_best_of_the_same_candidates(lake: FakeLake) -> None:
    options = {"rerank": "itm", "candidates": 30}
    whole = ids(lake.search("two cats", limit=20, **options))
    assert ids(lake.search("two cats", limit=8, offset=12, **options)) == whole[12:]


def test_search_selects_columns_and_still_shows_and_fetches_its_hits(lake: FakeLake) -> None:
    hits = lake.search("two cats", select=["id", "image_embedding", "_distance"], limit=3, rerank="itm")
    assert hits.table.column_names == ["id", "image_embedding", "_distance", "itm_query", "fetch_error"]
    plain = lake.search("two cats", limit=3, rerank="itm")
    assert hits.images() == plain.images()
    assert repr(hits) == repr(plain)
    assert len(hits.to_list()[0]["image_embedding"]) == 8
    with pytest.raises(ConfigError, match=r"--select: there is no column nope; the columns are id, dataset, shard"):
        lake.search("two cats", select=["id", "nope"])


def test_search_of_a_column_that_is_not_stored_names_those_that_are(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path)
    lake.add("00000.tar", captioned(2))
    lake.write(vectors=("text",))
    with pytest.raises(TableError, match="holds no image_embedding: search another --column, which is text, or embed"):
        lake.search("x")
    assert len(lake.search("x", column="text")) == 2
    assert len(lake.search("caption", mode="fulltext")) == 2


def test_search_of_an_older_version_finds_what_was_there(lake: FakeLake) -> None:
    dataset = lance.dataset(lake.database.path())
    dataset.tags.create("first", 1)
    half = (len(lake.rows) + 1) // 2
    for version in (1, "1", "first"):
        for mode in ("vector", "fulltext", "hybrid"):
            found = lake.search("cat", version=version, mode=mode, limit=100, one_per_image=False)
            assert set(ids(found)) == {row["id"] for row in lake.rows[:half]}
    with pytest.raises(TableError, match="has no version 'second': the versions are 1 to 2, the tags are first"):
        lake.search("two cats", version="second")


def partitioned(folder: Path) -> FakeLake:
    """1,200 rows of 400 pictures with an index of 16 partitions."""
    lake = FakeLake(folder)
    image = picture(0)
    lake.add("00000.tar", [(image, ["x"])])
    rng, base = np.random.default_rng(0), lake.rows.pop()
    for i in range(1200):
        own = {"id": f"{i:06d}", "sha256": f"{i // 3:064d}", "caption_index": i % 3, "width": i % 100}
        if i % 3 == 0:
            vector = unit(rng.normal(size=8))
        lake.rows.append(base | own | {"image_embedding": vector})
    lake.write()
    lance.dataset(lake.database.path()).create_index("image_embedding", "IVF_FLAT", metric="cosine", num_partitions=16)
    return lake


@pytest.fixture
def large(moulds: Moulds) -> FakeLake:
    return moulds.cast(partitioned)


def test_index_is_passed_over_by_exact_and_looked_into_as_deep_as_told(large: FakeLake) -> None:
    # Five, for which a partition has rows enough: where one has not, all are looked into.
    wanted = [of(large.nearest(text_vector(f"q{i}"))[:5]) for i in range(20)]

    def recall(**options: Any) -> float:
        found = [ids(large.search(f"q{i}", limit=5, **options)) for i in range(20)]
        return float(np.mean([len(set(f) & set(w)) / 5 for f, w in zip(found, wanted, strict=True)]))

    assert recall(exact=True) == 1
    assert recall(nprobes=16) == 1
    assert recall(nprobes=1) < 1


def test_index_gives_enough_hits_although_a_filter_keeps_few_and_pictures_repeat(large: FakeLake) -> None:
    hits = large.search("two cats", where="width = 7", nprobes=1, refine=2, limit=12)
    assert sorted(ids(hits)) == sorted(row["id"] for row in large.rows if row["width"] == 7)
    assert len(large.search("two cats", nprobes=1, limit=400)) == 400


def test_index_is_asked_as_its_build_found_best_and_deeper_behind_a_filter(
    large: FakeLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_tuned(large.database, "image", Tuned(nprobes=3, refine=5))
    monkeypatch.setattr(index, "FEW", 0)  # rows of a filter that are compared without an index
    asked: list[dict[str, Any]] = []
    real = nearest.scan
    monkeypatch.setattr(nearest, "scan", lambda *a, **how: asked.append(how["nearest"]) or real(*a, **how))

    def how(**options: Any) -> tuple[Any, Any]:
        asked.clear()
        large.search("two cats", limit=2, **options)
        return asked[0].get("nprobes"), asked[0].get("refine_factor")

    assert how() == (3, 5)
    assert how(where="width < 100") == (3, 5)
    assert how(where="width < 10") == (6, 5)  # a tenth of the rows: 3 * 10 ** 0.3
    assert how(nprobes=2, refine=1, where="width < 10") == (2, 1)
    assert how(exact=True) == (None, None)
    assert len(large.search("two cats", where="width = 7", limit=12)) == 12


def bm25(lake: FakeLake, words: str) -> list[tuple[float, Row]]:
    """Best caption of each picture, by hand; of words that neither stem nor stop."""
    texts = [Counter(re.findall(r"\w+", row["caption"])) for row in lake.rows]
    mean = sum(text.total() for text in texts) / len(texts)
    found = []
    for row, text in zip(lake.rows, texts, strict=True):
        score = 0.0
        for word in words.split():
            holding = sum(word in other for other in texts)
            idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            score += idf * text[word] * 2.2 / (text[word] + 1.2 * (0.25 + 0.75 * text.total() / mean))
        found += [(-round(score, 4), row["sha256"], row["caption_index"], row["id"], row)] if score else []
    best: dict[str, tuple[float, Row]] = {}
    for score, sha256, _, _, row in sorted(found, key=lambda f: f[:4]):
        best.setdefault(sha256, (-score, row))
    return [*best.values()]


def few_words(folder: Path) -> FakeLake:
    """Captions of which neither the index's stemming nor its stop words change anything."""
    lake = FakeLake(folder)
    tail = ("bar bar", "kumquat", "bar zoo kumquat")
    texts = [[f"{COLOURS[i % 5]} n{i} {tail[i % 3]}", f"n{i} n{i} kumquat"][: 1 + i % 2] for i in range(30)]
    lake.add("00000.tar", [(jpeg(i), captions) for i, captions in enumerate(texts)])
    return lake.write()


def few_words_indexed(folder: Path) -> FakeLake:
    lake = few_words(folder)
    lance.dataset(lake.database.path()).create_scalar_index("caption", "INVERTED")
    return lake


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("words", ["red", "red kumquat", "bar", "zoo n7 blue", "N7"])
def test_full_text_equals_bm25_by_hand(moulds: Moulds, words: str, indexed: bool) -> None:
    worded = moulds.cast(few_words_indexed if indexed else few_words)
    hits = worded.search(words, mode="fulltext", limit=40)
    wanted = bm25(worded, words.lower())
    assert len(hits) == len(wanted) > 0
    np.testing.assert_allclose(hits.table["_score"], [score for score, _ in wanted], atol=2e-3 if indexed else 1e-3)
    assert ids(hits) == of(wanted)
    assert ids(worded.search(words, mode="fulltext", limit=3)) == of(wanted)[:3]
    assert worded.loaded == 0


TEXTS = ["Two Cats on a couch", "a CAT!", "the café", "running dogs", "dogs run", "naïve cat-like dog", "", "Ünder"]


def eight_texts(folder: Path) -> FakeLake:
    lake = FakeLake(folder)
    lake.add("00000.tar", [(jpeg(i), [text]) for i, text in enumerate(TEXTS)])
    return lake.write()


@pytest.mark.parametrize("words", ["cats", "CAT", "cafe", "run", "under", "two dogs", "the", "!?", "cats " * 2000])
def test_full_text_is_the_same_with_and_without_an_index(moulds: Moulds, words: str) -> None:
    lake = moulds.cast(eight_texts)
    without = lake.search(words, mode="fulltext").table.select(["id", "_score"]).to_pydict()
    files = {str(p) for p in lake.folder.rglob("*")}
    lance.dataset(lake.database.path()).create_scalar_index("caption", "INVERTED")
    assert {str(p) for p in lake.folder.rglob("*")} > files
    indexed = lake.search(words, mode="fulltext").table.select(["id", "_score"]).to_pydict()
    assert without["id"] == indexed["id"]
    np.testing.assert_allclose(without["_score"], indexed["_score"], rtol=1e-3)


def test_full_text_finds_rows_that_came_after_the_index(lake: FakeLake) -> None:
    lance.dataset(lake.database.path()).create_scalar_index("caption", "INVERTED")
    lake.add("00003.tar", [(picture(100), ["Xylophones, two of them"])])
    late, lake.rows = lake.rows[-1], lake.rows[-1:]
    lake.write(vectors=ALL)
    assert ids(lake.search("xylophone", mode="fulltext")) == [late["id"]]


def test_full_text_of_a_large_table_asks_for_an_index(lake: FakeLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fulltext, "IN_MEMORY", 80)
    with pytest.raises(TableError, match=r"has 81 rows and no full-text index.*jobs/build_index\.py"):
        lake.search("cat", mode="fulltext")
    lance.dataset(lake.database.path()).create_scalar_index("caption", "INVERTED")
    assert len(lake.search("cat", mode="fulltext")) == 10


def test_full_text_is_of_the_table_that_is_there_now(tmp_path: Path) -> None:
    for words in ("apple", "pear"):
        lake = FakeLake(tmp_path)
        lake.add("00000.tar", [(jpeg(0), [words])])
        lake.write()
        assert len(lake.search(words, mode="fulltext")) == 1
        lance.write_dataset(
            lance.dataset(lake.database.path()).to_table().slice(0, 0), lake.database.path(), mode="overwrite"
        )
        for file in sorted((tmp_path / "lake").rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()


@pytest.mark.parametrize("one_per_image", [True, False])
def test_hybrid_equals_reciprocal_rank_fusion_by_hand(lake: FakeLake, one_per_image: bool) -> None:
    options: dict[str, Any] = {"limit": 100, "one_per_image": one_per_image}
    halves = [lake.search("red dog seventh", mode=mode, **options).to_list() for mode in ("fulltext", "vector")]
    key = "sha256" if one_per_image else "id"
    scores: Counter[str] = Counter()
    for half in halves:
        for rank, row in enumerate(half, start=1):
            scores[row[key]] += 1 / (60 + rank)  # type: ignore[assignment]
    hits = lake.search("red dog seventh", mode="hybrid", **options)
    assert len(hits) == len(scores)
    found = hits.to_list()
    np.testing.assert_allclose([scores[row[key]] for row in found], hits.table["_relevance_score"], rtol=1e-6)
    assert [row["_relevance_score"] for row in found] == sorted(
        hits.table["_relevance_score"].to_pylist(), reverse=True
    )
    distances = {row[key]: row["_distance"] for row in halves[1]}
    words = {row[key]: (row["id"], row["_score"]) for row in halves[0]}
    for row in found:
        assert row["_distance"] == distances[row[key]]
        assert (row["id"], row["_score"]) == words.get(row[key], (row["id"], None))
    assert any(row["_score"] is None for row in found)


def test_hybrid_can_be_reranked_and_shows_all_its_scores(lake: FakeLake) -> None:
    hits = lake.search("red dog", mode="hybrid", rerank="itm", limit=5)
    assert [*hits.shown()[0].scores] == ["itm", "rrf", "cosine", "bm25"]
    assert hits.table["itm_query"].to_pylist() == sorted(hits.table["itm_query"].to_pylist(), reverse=True)


@pytest.mark.parametrize("mode", ["vector", "fulltext", "hybrid"])
def test_query_of_ten_thousand_letters_is_answered(lake: FakeLake, mode: str) -> None:
    for words in ("red cat " * 1250, "x" * 10_000, "'; DROP TABLE laion; -- " * 400):
        hits = lake.search(words, mode=mode)
        assert len(hits) == 10 or mode == "fulltext"
        assert len(repr(hits).splitlines()[0]) < 200
