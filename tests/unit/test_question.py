"""What a query may ask, and what it refuses before anything is opened."""

from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.retrieval.question import Query


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "nothing to search for"),
        ({"words": "  "}, "nothing to search for"),
        ({"like": ""}, "nothing to search for"),
        ({"words": "a", "like": "x"}, "--like stands alone"),
        ({"image": b"x", "like": "x"}, "--like stands alone"),
        ({"words": "a", "column": "vision"}, "--column 'vision' is not valid: allowed is image or text or cross"),
        ({"words": "a", "mode": "sql"}, "--mode 'sql' is not valid: allowed is vector or fulltext or hybrid"),
        ({"image": b"x", "mode": "hybrid"}, "it needs words"),
        ({"like": "x", "mode": "fulltext"}, "it needs words"),
        ({"words": "a", "image": b"x", "mode": "fulltext"}, "leave --image out"),
        ({"words": "a", "limit": 0}, "--limit 0 is not valid: allowed is a number from 1"),
        ({"words": "a", "offset": -1}, "--offset -1"),
        ({"words": "a", "nprobes": 0}, "--nprobes 0"),
        ({"words": "a", "refine": 0}, "--refine 0"),
        ({"words": "a", "min_itm": 1.1}, "--min-itm 1.1 is not valid: allowed is 0 to 1"),
        ({"words": "a", "min_itm": float("nan")}, "--min-itm nan"),
        ({"words": "a", "max_distance": -0.1}, "--max-distance -0.1"),
        ({"words": "a", "max_distance": 0.5, "mode": "fulltext"}, "--max-distance is of a search by vectors"),
        ({"words": "a", "nprobes": 4, "mode": "fulltext"}, "--nprobes is of a search by vectors"),
        ({"words": "a", "exact": True, "nprobes": 4}, "--exact compares every row"),
        ({"words": "a", "exact": True, "refine": 4}, "--exact compares every row"),
        ({"words": "a", "rerank": "mlm"}, "--rerank 'mlm' is not valid: allowed is itm"),
        ({"image": b"x", "rerank": "itm"}, "it needs words"),
        ({"like": "x", "rerank": "itm"}, "it needs words"),
        ({"words": "a", "candidates": 60}, "--candidates .* goes with --rerank itm"),
        ({"words": "a", "rerank": "itm", "candidates": 9}, "--candidates 9"),
        ({"words": "a", "rerank": "itm", "candidates": 14, "offset": 5}, "--offset and --limit, 15 together"),
        ({"words": "a", "select": ()}, "--select .* name one column or more"),
        ({"words": "a", "select": "id"}, "--select 'id'"),
    ],
)
def test_question_refuses_options_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Query(**options)


def test_question_looks_at_as_many_candidates_as_it_must() -> None:
    assert Query("a", limit=7).depth == 7
    assert Query("a", limit=7, offset=5).depth == 12
    assert Query("a", limit=7, rerank="itm").depth == 50
    assert Query("a", limit=40, offset=30, rerank="itm").depth == 70
    assert Query("a", limit=7, rerank="itm", candidates=9).depth == 9


def test_question_filters_by_the_stored_score_unless_a_rerank_gives_another() -> None:
    assert Query("a").filter == ""
    assert Query("a", where=" \n ").filter == ""
    assert Query("a", where="width > 3 -- x", min_itm=0.25).filter == "(width > 3 -- x\n) AND itm_score >= 0.25"
    assert Query("a", min_itm=0.25).filter == "itm_score >= 0.25"
    assert Query("a", where="width > 3", min_itm=0.25, rerank="itm").filter == "width > 3"


def test_question_says_what_and_how_it_asks() -> None:
    assert Query("two cats").title == "two cats"
    assert Query("two cats", image=b"x").title == "two cats, in pictures like this one"
    assert Query(image=b"x").title == "pictures like this one"
    assert Query(like="0a").title == "pictures like that of row 0a"
    how = Query("a", mode="hybrid", column="text", where="width > 3", offset=10, version="live", rerank="itm").detail
    assert how == "hybrid, text vectors, where width > 3, version live, from hit 11, itm rerank of the best 50"
