"""What is wrong with a statement is told at its place, in the user's words."""

import re

import pytest

from pipeline.errors import ConfigError
from tests.lakes import FakeLake
from tests.statements import sql


@pytest.mark.parametrize(
    ("statement", "place", "said"),
    [
        ("SELECT nope FROM samples", (1, 8), "there is no column nope; the columns here are id, dataset, shard, key"),
        ("SELECT id\nFROM samples s\nWHERE s.widht > 3", (3, 7), "there is no column s.widht"),
        (
            "SELECT 'nope', root -- nope\n, nope FROM shards",
            (2, 3),
            "there is no column nope; the columns here are data",
        ),
        ("SELECT h.x FROM search('a') h", (1, 8), "_distance"),
        ("SELECT search.id FROM search('a')", (1, 8), "name its rows to prefix their columns, as in FROM search(…) h"),
        ('SELECT Similarity FROM samples WHERE "Similarity" > 1', (1, 38), "there is no column Similarity"),
        ("SELECT id FROM samples a, samples b", (1, 8), "several tables have a column id: write which"),
        (
            "SELECT * FROM nope",
            (1, 15),
            "there is no table nope; the tables are samples, rejects, shards, runs, duplicates",
        ),
        ("SELECT * FROM 'a.parquet'", (1, 15), "files and other tables cannot be named"),
        ("SELECT * FROM serch('a')", (1, 15), "there is no function serch that gives a table; there are search('wo"),
        ("SELECT lowwer(caption) FROM samples", (1, 8), "there is no function lowwer; there are lower"),
        ("SELECT row_number() FROM samples", (1, 8), "write which, as in row_number() OVER (ORDER BY id)"),
        ("SELECT lower(1, 2)", (1, 8), "'lower' expects 1 arguments"),
        ("SELECT id, sum(caption) FROM samples", (1, 12), "Function 'sum' requires Decimal, but received String"),
        ("SELECT search('a')", (1, 8), "search gives a table: it stands in FROM"),
        ("SELECT id FORM samples x", (1, 16), "expected end of statement, found samples"),
        ("SELEC 1", (1, 1), "expected an SQL statement, found SELEC"),
        ("SELECT (1", (1, 10), "expected ), found its end"),
        ("SELECT 'abc", (1, 8), "unterminated string literal"),
        ("SELECT *\nFROM search('a', 0)", (2, 6), "search takes as k a whole number from 1 to 8192, not 0"),
        ("SELECT * FROM search('a', 9999)", (1, 15), "1 to 8192, not 9999"),
        ("SELECT * FROM rerank('a', 9999)", (1, 15), "1 to 1000, not 9999"),
        ("SELECT * FROM search('a', 2.5)", (1, 15), "a whole number"),
        ("SELECT * FROM search('a', NULL)", (1, 15), "a whole number"),
        ("SELECT * FROM search(5)", (1, 15), "search takes its words as a text, not 5: search('words', k, 'filter'"),
        ("SELECT * FROM search()", (1, 15), "search takes 1 to 4 arguments, not 0"),
        ("SELECT * FROM search(' ')", (1, 15), "search has nothing to search for"),
        ("SELECT * FROM search('a', 3, '', 'sound')", (1, 15), "takes as column image or text or cross, not 'sound'"),
        ("SELECT * FROM samples s, search(s.caption, 3)", (1, 26), "takes its arguments as they are written"),
        ("SELECT * FROM search('b') b, search('a', 3, 'nope > 3') a", (1, 30), "there is no column nope; the columns"),
        ("SELECT * FROM search('a', 3, 'width >')", (1, 15), "search cannot filter: "),
        ("SELECT id FROM search('a', 3, 'width / 0 > 1')", (1, 16), "search cannot be made: Divide by zero"),
        ("DROP TABLE samples", (1, 1), "SQL here only reads: SELECT, WITH, VALUES, EXPLAIN or DESCRIBE"),
        ("SELECT 1; SELECT 2", (1, 11), "one statement at a time"),
    ],
)
def test_sql_error_points_at_the_place(wide: FakeLake, statement: str, place: tuple[int, int], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        sql(wide, statement)
    first, line, caret = str(refused.value).splitlines()
    assert first.startswith(f"the SQL is not valid at line {place[0]}, column {place[1]}: ")
    assert said in first
    assert line[2:] == statement.splitlines()[place[0] - 1]
    assert caret == " " * (place[1] + 1) + "^"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("", "there is no statement in it"),
        ("-- nothing", "there is no statement in it"),
        ("SELECT " + "(" * 99 + "1" + ")" * 99, "nested too deeply"),
        ("SELECT 1 + 'a'", "Cannot coerce arithmetic expression"),
        ("SELECT id, count(*) FROM samples", "must be in GROUP BY"),
        ("SELECT width / 0 FROM samples", "Divide by zero"),
        ("SELECT CAST(caption AS INT) FROM samples", "Cannot cast string 'caption"),
        ("SELECT regexp_like('a', '(')", "unclosed group"),
        ("SELECT $1", "Placeholder '$1'"),
    ],
)
def test_sql_error_without_a_place_is_one_plain_line(wide: FakeLake, statement: str, said: str) -> None:
    with pytest.raises(ConfigError, match="the SQL is not valid") as refused:
        sql(wide, statement)
    text = str(refused.value)
    assert said in text
    assert not re.search(
        r"(?i)datafusion|error (during|applying)|(in|ex)ternal error|caused|\.rs|search\(\)|Int64\(", text
    )


def test_sql_error_shows_a_part_of_a_long_line(wide: FakeLake) -> None:
    padding = ", ".join(f"'{i}\t\x1b👩'" for i in range(900))
    with pytest.raises(ConfigError) as refused:
        sql(wide, f"SELECT {padding}, nope, {padding} FROM samples")
    _, line, caret = str(refused.value).splitlines()
    assert line[caret.index("^") :].startswith("nope")
    assert (len(line) < 110, line.isprintable()) == (True, True)
