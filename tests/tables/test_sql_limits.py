"""A statement's time and memory: what passes them is ended, and nothing of it goes on."""

import asyncio
import subprocess
import sys
import threading
import time

import psutil
import pytest

from pipeline.errors import ConfigError, LimitError
from pipeline.sql import limits
from pipeline.sql.engine import Statement, reading
from pipeline.sql.limits import Limits, Timed
from tests.lakes import FakeLake
from tests.statements import rows, sql

ENDLESS = (
    "SELECT count(*) FROM samples a, samples b, samples c WHERE a.caption || b.caption <> c.caption",
    "SELECT count(*) FROM generate_series(1, 1000000000000)",
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
    "SELECT a.id FROM samples a, samples b, samples c ORDER BY a.caption LIMIT 3",
)
GREEDY = (
    "SELECT * FROM samples a, samples b ORDER BY a.caption || b.caption",
    "SELECT count(*) FROM (SELECT DISTINCT a.sha256 || b.sha256 FROM samples a, samples b)",
    "SELECT array_agg(a.sha256 || b.sha256) FROM samples a, samples b",
    "SELECT a.caption, b.caption FROM samples a, samples b",
)

MANY_ENDS = """
import os
from datafusion import SessionContext
from pipeline.sql.limits import Limits, Timed

for _ in range(60):
    if os.fork() == 0:  # a process that asks, and ends as any does
        with Timed(Limits()) as timed:
            assert sum(batch.num_rows for batch in timed.batches(SessionContext().sql("SELECT 1"))) == 1
        raise SystemExit(3)
print(*sorted({os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(60)}))
"""


@pytest.mark.parametrize("statement", ENDLESS)
def test_limits_end_a_statement_that_takes_too_long(wide: FakeLake, statement: str) -> None:
    started = time.monotonic()
    with pytest.raises(LimitError, match=r"took longer than 0.5 s: select less, or allow more with --timeout"):
        sql(wide, statement, limits=Limits(seconds=0.5))
    assert time.monotonic() - started < 5
    me, deadline = psutil.Process(), time.monotonic() + 20
    while True:  # what it began has ended once the processor rests
        before = sum(me.cpu_times()[:2])
        time.sleep(0.5)
        if sum(me.cpu_times()[:2]) - before < 0.2:
            return
        assert time.monotonic() < deadline


@pytest.mark.parametrize("statement", GREEDY)
def test_limits_end_a_statement_that_takes_too_much_memory(wide: FakeLake, statement: str) -> None:
    with pytest.raises(LimitError, match=r"needs more than 0.0195 GiB of memory: .* --memory"):
        sql(wide, statement, limits=Limits(memory=20 << 20))


def test_limits_allow_what_is_streamed_to_be_larger_than_memory(wide: FakeLake) -> None:
    statement = Statement("SELECT a.caption, b.caption FROM samples a, samples b", limits=Limits(memory=20 << 20))
    with reading(wide.database, statement, lambda: wide.model) as batches:
        assert sum(batch.num_rows for batch in batches) == 1_000_000


def test_limits_leave_nothing_behind_after_an_answer_that_was_not_read_to_its_end(wide: FakeLake) -> None:
    statement = Statement("SELECT a.caption FROM samples a, samples b, samples c")
    with reading(wide.database, statement, lambda: wide.model) as batches:
        assert next(iter(batches)).num_rows > 0
    assert list(batches) == []
    assert not any(t.name == "sql" for t in threading.enumerate())


def test_limits_refuse_functions_that_make_much_of_little(wide: FakeLake) -> None:
    for call in ("repeat('x', 9)", "lpad('x', 9)", "array_repeat(1, 9)", "range(1, 9)", "list_resize([1], 9)"):
        with pytest.raises(ConfigError, match=f"there is no function {call.partition('(')[0]}"):
            sql(wide, f"SELECT {call}")


def test_limits_refuse_a_statement_of_too_many_words(wide: FakeLake) -> None:
    with pytest.raises(ConfigError, match=r"has \d+ words and signs beside its literals, 1000 are allowed: use IN"):
        sql(wide, "SELECT 1" + " + 1" * 20_000)
    for where in ("width = 1 OR " * 9000 + "false", "width" + "+1" * 9000 + ">1"):
        with pytest.raises(ConfigError, match="search cannot filter: it joins 9001 parts"):
            sql(wide, f"SELECT * FROM search('a', 3, '{where}')")
    assert rows(sql(wide, "SELECT 1" + " + 1" * 700 + " AS n")) == [(701,)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seconds": 0}, "--timeout 0 is not valid"),
        ({"seconds": float("inf")}, "--timeout inf is not valid"),
        ({"memory": 0}, "--memory 0 is not valid"),
        ({"memory": float("nan")}, "--memory nan is not valid"),
    ],
)
def test_limits_refuse_what_makes_no_sense(options: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Limits(**options)


def test_limits_hold_for_what_cannot_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_ENDING", 0.2)
    started = time.monotonic()
    with pytest.raises(LimitError), Timed(Limits(seconds=0.2)) as timed:
        timed.run(lambda: time.sleep(3))
    assert time.monotonic() - started < 2.5


def test_sql_works_where_a_loop_is_running_as_in_a_notebook(wide: FakeLake) -> None:
    async def cell() -> list[tuple[int]]:
        return rows(sql(wide, "SELECT count(*) AS n FROM samples"))

    assert asyncio.run(cell()) == [(1000,)]


def test_sql_writes_nothing_to_disk(
    wide: FakeLake, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(folder))
    assert len(sql(wide, "SELECT a.id FROM samples a, samples b ORDER BY a.caption || b.caption")) == 1_000_000
    assert list(folder.iterdir()) == []


def test_processes_that_have_asked_end_with_their_own_code() -> None:
    # One in ten was aborted (-6, -11) while DataFusion's threads called Python.
    many = [sys.executable, "-W", "ignore", "-c", MANY_ENDS]  # newer Pythons warn of a fork beside threads
    ended = subprocess.run(many, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "3\n", "")
