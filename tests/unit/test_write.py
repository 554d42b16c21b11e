"""Blocks -> fragments and reports; and with `Gather` before it: every position exactly once, whatever Ray does."""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import database
from pipeline.gather import Gather, check_coverage, inspect_block
from pipeline.schema import REJECTS
from pipeline.stores import retry
from pipeline.stores.retry import Tries
from pipeline.table import open_or_create
from pipeline.write import Job, Report, row_id, write_jobs
from tests.blocks import LAYOUT, Row, block, call, end, job, pair, reject, target


@dataclass
class FakeDatabase:
    """Keeps what is written to it."""

    written: list[pa.Table] = field(default_factory=list)

    def write(self, suffix: str, rows: pa.Table, tries: Tries) -> list[str]:
        self.written.append(rows)
        return [f"fragment {len(self.written)}"]


def write(job: Job, *blocks: pa.Table) -> tuple[Report, list[pa.Table]]:
    database = FakeDatabase()
    (made,) = write_jobs(replace(target(Path("db")), database=database), [job], *blocks)
    return made, database.written


def test_write_takes_one_attempts_rows_in_order_of_position() -> None:
    rows = block(pair("a", 2), pair("b", 0), end("a", 3), pair("a", 0), call(3), pair("a", 1))
    report, (written,) = write(job("a", 0, 1, 2), rows)
    assert written["key"].to_pylist() == ["00000", "00001", "00002"]
    assert (sorted(report.positions), report.embedded, report.fragments) == ([0, 1, 2], 3, ("fragment 1",))
    assert (len(report.rejects), report.parts, report.attempt) == (0, 1, "a")


def test_write_reports_how_often_it_asked_the_store_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors, real = [OSError("503 Slow Down"), TimeoutError("no answer")], database.write_fragments
    monkeypatch.setattr(retry, "FIRST_CONFLICT_WAIT", 0.001)

    def write_fragments(*arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return real(*arguments, **options)

    monkeypatch.setattr(database, "write_fragments", write_fragments)
    rows = block(pair("a", 0), pair("b", 0), pair("b", 1))
    first, second = write_jobs(target(tmp_path), [job("a", 0), job("b", 0, 1)], rows)
    assert [(r.attempt, r.asked_again, len(r.fragments)) for r in (first, second)] == [("a", 2, 1), ("b", 0, 1)]


def test_write_splits_rejects_off_and_counts_cut_captions() -> None:
    rows = block(pair("a", 0, truncated=True), reject("a", 1), pair("a", 2, truncated=False), pair("a", 3))
    report, (written,) = write(job("a", 0, 1, 2, 3), rows)
    assert (len(written), report.embedded, report.truncated) == (3, 3, 1)
    assert sorted(report.positions) == [0, 1, 2, 3]
    (rejected,) = report.rejects.to_pylist()
    assert report.rejects.schema == REJECTS
    known = {k: rejected[k] for k in ("dataset", "slice", "attempt", "position", "reason", "run_id")}
    assert known == {
        "dataset": "laion",
        "slice": "a",
        "attempt": "a",
        "position": 1,
        "reason": "undecodable",
        "run_id": "run",
    }


def test_write_takes_only_the_wanted_positions_each_once() -> None:
    blocks = [block(pair("a", 0, key="first"), pair("a", 1)), block(pair("a", 0, key="again"), pair("a", 2))]
    report, (written,) = write(job("a", 0, 2, blocks=(0, 1)), *blocks)
    assert written["key"].to_pylist() == ["first", "00002"]
    assert report.positions.tolist() == [0, 2]


def test_write_of_a_position_doubled_within_a_block_takes_it_once() -> None:
    report, (written,) = write(job("a", 0, 1), block(pair("a", 1), pair("a", 0), pair("a", 1)))
    assert (written["key"].to_pylist(), report.positions.tolist()) == (["00000", "00001"], [0, 1])


def test_write_reports_only_what_it_found() -> None:
    report, _ = write(job("a", 0, 1, 5), block(pair("a", 0), pair("b", 5)))
    assert (report.positions.tolist(), report.embedded) == ([0], 1)


@pytest.mark.parametrize("blocks", [(), (block(call(1)),), (block(pair("b", 0), end("a", 0)),)])
def test_write_without_rows_writes_no_fragment(blocks: tuple[pa.Table, ...]) -> None:
    report, written = write(job("a", blocks=tuple(range(len(blocks)))), *blocks)
    assert (report.fragments, report.embedded, report.truncated, written) == ((), 0, 0, [])
    assert (len(report.positions), report.rejects.schema, len(report.rejects)) == (0, REJECTS, 0)


def test_write_of_only_rejects_writes_no_fragment() -> None:
    report, written = write(job("a", 0, 1), block(reject("a", 0), reject("a", 1)))
    assert (report.fragments, len(report.rejects), report.positions.tolist(), written) == ((), 2, [0, 1], [])


def test_write_adds_id_dataset_and_run() -> None:
    _, (written,) = write(job("a", 0), block(pair("a", 0, key="k", caption_index=2)))
    assert written.schema == LAYOUT.schema
    row = written.to_pylist()[0]
    assert (row["id"], row["dataset"], row["run_id"]) == (row_id("laion", "a.tar", "k", 2), "laion", "run")


def test_write_makes_fragments_of_one_attempt_each(tmp_path: Path) -> None:
    where = target(tmp_path)
    table = open_or_create(where.database, LAYOUT)
    reports = write_jobs(where, [job("a", 0), job("b", 0, 1)], block(pair("b", 1), pair("a", 0), pair("b", 0)))
    assert [len(r.fragments) for r in reports] == [1, 1]
    assert [r.embedded for r in reports] == [1, 2]
    assert table.dataset.checkout_version(table.version).count_rows() == 0  # nothing is committed


def test_row_id_tells_its_four_parts_apart_and_is_known() -> None:
    ids = {row_id("d", "s", "k", 0), row_id("d", "sk", "", 0), row_id("ds", "", "k", 0), row_id("d", "s", "k", 1)}
    assert len(ids) == 4
    assert row_id("laion", "00000.tar", "000000001", 0) == "8d7f9624bd48cb5f417e42e391ee5391"


def test_row_id_takes_names_that_are_not_utf8() -> None:
    assert len(row_id("d", "\udcff.tar", "k", 0)) == 32


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[dict[str, list[bool]], list[list[Row]], int]:
    """Slices (of each pair: was it embedded?), the blocks as Ray may send them, and rows of a fragment."""
    sizes = draw(st.lists(st.lists(st.booleans(), max_size=12), min_size=1, max_size=4))
    slices = {f"s{i}": embedded for i, embedded in enumerate(sizes)}
    rows = [
        pair(name, p) if embedded[p] else reject(name, p)
        for name, embedded in slices.items()
        for p in range(len(embedded))
    ]
    rows = draw(st.permutations([*rows, *(end(name, len(e)) for name, e in slices.items()), call(3)]))
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=8)))
    blocks = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    again = draw(st.lists(st.sampled_from(blocks), max_size=6))  # a retry: the same rows in another block
    blocks = draw(st.permutations([*blocks, *(b[: len(b) // 2 + 1] for b in again)]))
    return slices, blocks, draw(st.integers(1, 8))


def deliver(blocks: list[list[Row]], fragment_rows: int) -> tuple[Gather, dict[str, list[Report]], Counter[Any]]:
    gather, reports = Gather(fragment_rows), {}
    database, tables = FakeDatabase(), [block(*rows) for rows in blocks]
    where = replace(target(Path("db")), database=database)
    for number, table in enumerate(tables):
        for ready in gather.add(number, inspect_block(table)[0]):
            one = Job(ready.attempt, tuple(range(len(ready.refs))), ready.positions, ready.parts)
            reports.setdefault(ready.attempt, []).extend(write_jobs(where, [one], *(tables[r] for r in ready.refs)))
    written = Counter((r["shard"], r["key"]) for t in database.written for r in t.select(["shard", "key"]).to_pylist())
    return gather, reports, written


@settings(max_examples=80, deadline=None)
@given(deliveries())
def test_every_position_is_written_or_rejected_exactly_once_whatever_comes(
    delivery: tuple[dict[str, list[bool]], list[list[Row]], int],
) -> None:
    slices, blocks, fragment_rows = delivery
    gather, reports, written = deliver(blocks, fragment_rows)
    assert gather.unfinished() == {}
    for name, embedded in slices.items():
        mine = reports[name]
        check_coverage(name, len(embedded), [r.positions for r in mine])
        assert [r.parts for r in mine] == [0] * (len(mine) - 1) + [len(mine)]
        rejected = sorted(p for r in mine for p in r.rejects["position"].to_pylist())
        assert rejected == [p for p, ok in enumerate(embedded) if not ok]
        assert sum(r.embedded for r in mine) == sum(embedded)
    expected = [(f"{n}.tar", f"{p:05d}") for n, embedded in slices.items() for p, ok in enumerate(embedded) if ok]
    assert written == Counter(expected)


@settings(max_examples=40, deadline=None)
@given(deliveries(), st.data())
def test_a_slice_of_which_a_row_is_lost_is_never_whole(
    delivery: tuple[dict[str, list[bool]], list[list[Row]], int], data: st.DataObject
) -> None:
    slices, blocks, fragment_rows = delivery
    everything = [(n, p) for n, embedded in slices.items() for p in [*range(len(embedded)), None]]
    name, position = data.draw(st.sampled_from(everything))
    kept = [[r for r in b if (r.get("attempt"), r.get("position")) != (name, position)] for b in blocks]
    gather, reports, _ = deliver(kept, fragment_rows)
    assert set(gather.unfinished()) <= {name}
    assert not any(r.parts for r in reports.get(name, []))
