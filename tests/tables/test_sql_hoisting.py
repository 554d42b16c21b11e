"""What of a WHERE is asked before a search: where it may be, and that Lance means the same by it."""

import re

import lance
import pyarrow as pa
import pytest
from datafusion import SessionContext

from pipeline.database import Database
from pipeline.sql.functions import searchable
from pipeline.sql.limits import Limits
from pipeline.sql.session import _RULES, survey
from pipeline.sql.tables import Tables
from tests.lakes import FakeLake
from tests.statements import hoists, sql

WIDE = "(`width` > 99)"
KEY = "(`key` != 'x')"


@pytest.mark.parametrize(
    ("statement", "conditions"),
    [
        ("SELECT * FROM search('a') WHERE width > 99", [[WIDE]]),
        ("SELECT * FROM search('a') h WHERE h.width > 99 AND key <> 'x' AND _distance < 1", [[WIDE, KEY]]),
        ("SELECT h.width * 2 AS w FROM search('a') h WHERE width > 99 ORDER BY w LIMIT 3", [[WIDE]]),
        ("SELECT * FROM search('a') WHERE width > 99 OR key <> 'x'", [[f"({WIDE} OR {KEY})"]]),
        ("SELECT * FROM search('a') WHERE width > 99 OR _distance < 1", [[]]),
        ("SELECT * FROM rerank('a') WHERE itm_query > 0.5 AND fetch_error IS NULL", [[]]),
        ("SELECT * FROM search('a') WHERE width > 99 AND random() < 0.5", [[WIDE]]),
        ("SELECT * FROM search('a') WHERE true AND 1 < 2", [[]]),
        # Names
        ("SELECT * FROM (SELECT width AS w, id FROM search('a')) q WHERE q.w > 99", [[WIDE]]),
        ("SELECT * FROM (SELECT height AS width FROM search('a')) q WHERE width > 99", [["(`height` > 99)"]]),
        ("SELECT * FROM (SELECT width + 1 AS width FROM search('a')) q WHERE width > 99", [[]]),
        ("SELECT * FROM (SELECT _distance AS width FROM search('a')) q WHERE width > 99", [[]]),
        ("SELECT * FROM search('a') WHERE \"Odd Name\" = 'o'", [["(`Odd Name` = 'o')"]]),
        ("WITH h AS (SELECT * FROM search('a')) SELECT * FROM h WHERE width > 99", [[WIDE]]),
        ("WITH h(w) AS (SELECT width FROM search('a')) SELECT * FROM h WHERE w > 99", [[WIDE]]),
        ("SELECT * FROM (SELECT * FROM search('a') ORDER BY key) WHERE width > 99", [[WIDE]]),
        ("SELECT * FROM (SELECT * FROM (SELECT * FROM search('a') WHERE key <> 'x')) WHERE width > 99", [[KEY, WIDE]]),
        # What lies between a WHERE and its search
        ("SELECT * FROM (SELECT * FROM search('a') LIMIT 5) WHERE width > 99", [[]]),
        ("SELECT * FROM (SELECT DISTINCT width FROM search('a')) WHERE width > 99", [[]]),
        ("SELECT width FROM search('a') WHERE key <> 'x' GROUP BY width HAVING width > 99", [[KEY]]),
        ("SELECT * FROM (SELECT width, count(*) FROM search('a') GROUP BY width) WHERE width > 99", [[]]),
        ("SELECT * FROM (SELECT *, rank() OVER (PARTITION BY width) FROM search('a')) WHERE width > 99", [[]]),
        ("SELECT * FROM search('a') WHERE key <> 'x' QUALIFY row_number() OVER (ORDER BY id) < 3", [[KEY]]),
        ("SELECT * FROM (SELECT unnest([width]) AS width FROM search('a')) WHERE width > 99", [[]]),
        # Joins
        ("SELECT * FROM search('a') h JOIN samples s ON h.id = s.id WHERE h.width > 99 AND s.key <> 'x'", [[WIDE]]),
        ("SELECT * FROM samples s JOIN search('a') h ON h.id = s.id AND h.width > 99", [[WIDE]]),
        ("SELECT * FROM search('a') h JOIN samples s USING (id) WHERE s.width > 99", [[]]),
        ("SELECT * FROM search('a') h, shards s WHERE h.shard = s.shard AND h.width > 99", [[WIDE]]),
        ("SELECT * FROM search('a') h LEFT JOIN samples s ON h.id = s.id WHERE h.width > 99", [[WIDE]]),
        ("SELECT * FROM search('a') h LEFT JOIN samples s ON h.id = s.id AND h.width > 99", [[]]),
        ("SELECT * FROM samples s LEFT JOIN search('a') h ON h.id = s.id WHERE h.width > 99", [[]]),
        ("SELECT * FROM samples s RIGHT JOIN search('a') h ON h.id = s.id WHERE h.width > 99", [[WIDE]]),
        ("SELECT * FROM samples s FULL JOIN search('a') h ON h.id = s.id WHERE h.width > 99", [[]]),
        (
            "SELECT * FROM search('a') a, search('b') b WHERE a.width > 99 AND b.key <> 'x' AND a.id = b.id",
            [[WIDE], [KEY]],
        ),
        ("SELECT * FROM search('a') a, search('a') b WHERE a.width > 99 AND b.key <> 'x'", [[WIDE], [KEY]]),
        ("SELECT * FROM search('a') a, search('b') b WHERE a.width > b.width OR a.width > 99", [[], []]),
        (
            "SELECT * FROM samples s, LATERAL (SELECT * FROM search('a') h WHERE h.id = s.id AND h.width > 99) l",
            [[WIDE]],
        ),
        # Unions, and searches that several places read
        (
            "SELECT * FROM (SELECT id, width AS w FROM search('a') UNION ALL SELECT id, height FROM search('b'))"
            " WHERE w > 99",
            [[WIDE], ["(`height` > 99)"]],
        ),
        (
            "SELECT width FROM search('a') WHERE width > 99 UNION SELECT width FROM search('b') WHERE key <> 'x'",
            [[WIDE], [KEY]],
        ),
        (
            "SELECT * FROM (SELECT width FROM search('a') UNION SELECT width FROM search('b')) WHERE width > 99",
            [[], []],
        ),
        (
            "SELECT * FROM search('a') WHERE width > 99 EXCEPT SELECT * FROM search('b') WHERE key <> 'x'",
            [[WIDE], [KEY]],
        ),
        (
            "WITH h AS (SELECT * FROM search('a')) SELECT * FROM h WHERE width > 99 UNION ALL SELECT * FROM h",
            [[]],
        ),
        (
            "WITH h AS (SELECT * FROM search('a') WHERE key <> 'x') SELECT * FROM h JOIN h AS g ON h.id = g.id"
            " WHERE h.width > 99",
            [[KEY]],
        ),
        ("WITH h AS (SELECT * FROM search('a')) SELECT * FROM h WHERE width > 99 AND id IN (SELECT id FROM h)", [[]]),
        # Subqueries
        ("SELECT * FROM samples WHERE id IN (SELECT id FROM search('a') WHERE width > 99)", [[WIDE]]),
        (
            "SELECT * FROM samples s WHERE EXISTS (SELECT 1 FROM search('a') h WHERE h.id = s.id AND h.width > 99)",
            [[WIDE]],
        ),
        ("SELECT * FROM samples WHERE id NOT IN (SELECT id FROM search('a') WHERE width > 99)", [[WIDE]]),
        ("SELECT * FROM search('a') WHERE width > 99 AND id IN (SELECT id FROM samples)", [[WIDE]]),
        ("SELECT * FROM samples WHERE width > (SELECT max(width) FROM search('a') WHERE width > 99)", [[]]),
        ("SELECT (SELECT max(width) FROM search('a') WHERE width > 99)", [[]]),
        ("EXPLAIN SELECT * FROM search('a') WHERE width > 99", [[WIDE]]),
    ],
)
def test_hoisting_follows_the_statement(wide: FakeLake, statement: str, conditions: list[list[str]]) -> None:
    assert hoists(wide, statement) == conditions


@pytest.mark.parametrize(
    ("said", "condition"),
    [
        ("width >= 99", "(`width` >= 99)"),
        ("99 <= width", "(`width` >= 99)"),
        ("width > 5.5", "(CAST(`width` AS DOUBLE) > CAST(5.5 AS DOUBLE))"),
        ("width < 3000000000", "(CAST(`width` AS BIGINT) < CAST(3000000000 AS BIGINT))"),
        ("itm_score > 0.5", "(`itm_score` > 0.5)"),
        ("itm_score > 0.8", "(`itm_score` > 0.7999999523162842)"),
        ("itm_score >= 0.8", "(`itm_score` > 0.7999999523162842)"),
        ("itm_score < 0.8", "(`itm_score` <= 0.7999999523162842)"),
        ("itm_score = 0.8", "(CAST(`itm_score` AS DOUBLE) = CAST(0.8 AS DOUBLE))"),
        ("similarity > 0.8", "(`similarity` > 0.8)"),
        ("width BETWEEN 3 AND 5", "((`width` >= 3) AND (`width` <= 5))"),
        ("width NOT IN (1, NULL)", "(`width` NOT IN (1, NULL))"),
        ("itm_score IN (0.5, 0.8)", "(CAST(`itm_score` AS DOUBLE) IN (CAST(0.5 AS DOUBLE), CAST(0.8 AS DOUBLE)))"),
        ("caption = 'it''s \"x\" `y`'", "(`caption` = 'it''s \"x\" `y`')"),
        ("caption ILIKE '%a\\_b%'", "(`caption` ILIKE '%a\\_b%')"),
        ("url IS NOT NULL", "(`url` IS NOT NULL)"),
        ("NOT safe", "(NOT `safe`)"),
        ("safe IS NOT TRUE", "(`safe` IS NOT TRUE)"),
        ("lower(caption) || 'x' = 'ax'", "((lower(`caption`) || 'x') = 'ax')"),
        ("length(caption) > 5", "(CAST(character_length(`caption`) AS BIGINT) > 5)"),
        ("regexp_like(caption, '^a')", "regexp_like(`caption`, '^a')"),
        ("width % 2 = 1", "((CAST(`width` AS BIGINT) % CAST(2 AS BIGINT)) = 1)"),
        # What may fail on a row, or is not known to mean the same
        ("width / height > 1", None),
        ("CAST(key AS INT) > 3", None),
        ("key > 3", None),
        ("regexp_like('a', caption)", None),
        ("caption LIKE 'a$%' ESCAPE '$'", None),
        ("caption SIMILAR TO 'a'", None),
        ("CASE WHEN width > 3 THEN true ELSE false END", None),
        ("width > 3 AND uuid() = 'x'", "(`width` > 3)"),
        ("md5(caption) = 'x'", None),
        ("width IS DISTINCT FROM 3", None),
        ("caption > X'6162'", None),
        ("similarity > 'NaN'::DOUBLE", None),
    ],
)
def test_hoisting_says_it_in_lances_words(wide: FakeLake, said: str, condition: str | None) -> None:
    found = hoists(wide, f"SELECT * FROM search('a') WHERE {said}")
    assert found == [[condition] if condition else []]
    assert all(searchable(lance.dataset(wide.database.path()), c) for c in found[0])


NAN, INF = float("nan"), float("inf")
ADVERSE = pa.table(
    {
        "id": [str(i) for i in range(12)],
        "width": pa.array([None, 0, 1, 2, 3, -3, 5, 2**31 - 1, -(2**31), 7, 8, 640], pa.int32()),
        "big": pa.array([0, 1, -1, None, 2**62, 2**62 + 1, -(2**63), 2**63 - 1, 2**53 + 1, 5, 6, 640], pa.int64()),
        "score": pa.array([0.8, 0.5, NAN, None, INF, -INF, 0.1, 0.3, 1.0, 0.9, 0.0, 0.79999995], pa.float32()),
        "sim": pa.array([0.8, 0.5, NAN, None, INF, -INF, 0.1, 0.3, 1.0, 1e300, 0.0, -1e-300], pa.float64()),
        "flag": pa.array([True, False, None] * 4),
        "caption": [
            "a_b",
            "a%b",
            "ab",
            "AB",
            "O'Hara",
            'say "x"',
            "back\\slash",
            "new\nline",
            "naïve",
            "👩\u200d👧",
            None,
            "",
        ],
        "tags": pa.array([["x"], ["y", "x"], [], None, ["a'b"], [None]] * 2, pa.list_(pa.string())),
        "odds": pa.array([[0.8], [0.5, 0.1], [], None, [NAN, 0.3], [None]] * 2, pa.list_(pa.float32())),
    }
)


@pytest.fixture(scope="module")
def adverse(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """NULL, NaN, infinity, the largest numbers and awkward captions."""
    folder = tmp_path_factory.mktemp("adverse")
    lance.write_dataset(ADVERSE, f"{folder}/laion.lance")
    return Tables.open(Database(str(folder), "laion"), None)


NUMBERS = (
    "0",
    "3",
    "-3",
    "5.5",
    "0.8",
    "0.1",
    "0.3",
    "2147483647",
    "2147483648",
    "-1e300",
    "1e300",
    "0.79999998",
    "NULL",
)
SIGNS = ("=", "<>", "<", "<=", ">", ">=")
CONDITIONS = [
    *(f"{c} {sign} {n}" for c in ("width", "big", "score", "sim") for sign in SIGNS for n in NUMBERS),
    *(f"NOT {n} {sign} {c}" for c in ("width", "score") for sign in SIGNS[:3] for n in NUMBERS),
    *(f"{c} {no} IN (0.8, 3, NULL, 0.1)" for c in ("width", "big", "score", "sim") for no in ("", "NOT")),
    *(f"{c} {no} BETWEEN 0.1 AND 5" for c in ("width", "big", "score", "sim") for no in ("", "NOT")),
    *(f"({c}) IS {no} {t}" for c in ("flag", "width > 3") for no in ("", "NOT") for t in ("TRUE", "FALSE", "NULL")),
    *(
        f"caption {like} {p}"
        for like in ("LIKE", "NOT LIKE", "ILIKE")
        for p in ("'a_b'", "'a\\_b'", "'%''%'", "'%\n%'", "''")
    ),
    *(
        f"caption {sign} {t}"
        for sign in SIGNS
        for t in ("'ab'", "'O''Hara'", "'back\\slash'", "'👩\u200d👧'", "''", "NULL")
    ),
    *(
        f"{f}(caption, '{t}')"
        for f in ("starts_with", "ends_with", "contains", "regexp_like")
        for t in ("a", 'x"', "e$")
    ),
    *(
        "array_has(tags, 'x')",
        "'a''b' = ANY(tags)",
        "NOT array_has(tags, 'y')",
        "tags IS NULL",
        *(f"tags[{i}] {sign} 'x'" for i in range(3) for sign in ("=", "<>", "<")),
        *(f"odds[{i}] {sign} {n}" for i in (1, 2) for sign in SIGNS for n in ("0.8", "0.1", "0.5", "1", "NULL")),
        "tags[1] IN ('x', 'y') OR NOT odds[2] > 0.2",
        "strpos(caption, 'b') > 1",
    ),
    *("score * 2 > 1.6", "score + score >= 1.6", "width + 1 > 3", "width * width > 9", "sim / 0 > 1", "big % 7 = 5"),
    *("width = 3 OR (flag AND NOT score < 0.8)", "upper(caption) = 'AB' OR caption IS NULL", "length(caption) < 3"),
]


def test_lance_means_by_a_condition_what_datafusion_does(adverse: Tables) -> None:
    context, seen = SessionContext(), 0
    context.register_record_batches("samples", [ADVERSE.to_batches()])
    for said in CONDITIONS:
        wanted = context.sql(f"SELECT id FROM samples WHERE {said}").to_pydict()["id"]
        (found,) = survey(f"SELECT * FROM search('a') WHERE {said}", adverse, Limits()).found
        for condition in found.conditions:
            assert searchable(adverse.samples, condition), said
            assert adverse.samples.to_table(columns=["id"], filter=condition)["id"].to_pylist() == wanted, said
            seen += 1
    assert seen == len(CONDITIONS)


def test_hoisting_of_long_chains_ends_well(wide: FakeLake) -> None:
    chain = " OR ".join(f"key = 'x{i}'" for i in range(300))
    assert len(sql(wide, f"SELECT id FROM search('a', 5) WHERE width = 4096 AND ({chain} OR key = '37')")) == 1
    assert len(hoists(wide, f"SELECT id FROM search('a', 5) WHERE {chain.replace('OR', 'AND')}")[0]) == 300
    both = " AND ".join(f"key <> 'x{i}'" for i in range(200))
    answer = sql(wide, f"SELECT id FROM search('a', 5, '{chain.replace(chr(39), chr(39) * 2)} OR true') WHERE {both}")
    assert (len(answer), len(answer.notes)) == (5, 6)
    assert "95 conditions more" in answer.notes[-1]
    deep = " || ".join(["caption"] * 300)
    assert hoists(wide, f"SELECT id FROM search('a', 5) WHERE {deep} = 'x'") == [[]]


def test_survey_leaves_out_every_rule_of_the_optimiser_that_moves_conditions() -> None:
    rows = SessionContext().sql("EXPLAIN VERBOSE SELECT 1").to_pylist()
    after = [m[1] for row in rows if (m := re.match(r"logical_plan after (\w+)", row["plan_type"]))]
    kept = {"decorrelate_predicate_subquery", "scalar_subquery_to_join", "decorrelate_lateral_join"}
    analysing = {"resolve_grouping_function", "type_coercion", "resolve_lambda_variables"}
    assert set(after) - kept - analysing == set(_RULES)


def test_hoisted_rows_are_those_of_the_search_with_that_filter(wide: FakeLake) -> None:
    for where in ("width = 4096", "itm_score >= 0.97 AND safe", "similarity IS NULL AND url IS NOT NULL"):
        hits = wide.search("two cats", limit=6, where=where)
        assert len(hits) == 6
        assert sql(wide, f"SELECT * FROM search('two cats', 6) WHERE {where}").to_list() == hits.to_list()
