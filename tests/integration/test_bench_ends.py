"""The end-to-end benchmark's arithmetic: marks, the steady state they tell, milestones of a log, verdicts."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from bench.drawn import kept
from bench.ends import medians, verdict
from bench.marked import marked
from bench.marks import Mark, leave, left_in, steady
from bench.rounds import milestones
from tests.fakes import fake_model


def mark(at: float, cpu: float, pairs: int = 64, seconds: float = 1.0) -> Mark:
    return Mark(at, seconds, cpu, pairs, 1)


def test_steady_state_leaves_out_the_first_call_and_ends_with_the_last_committed_row() -> None:
    found = steady([[mark(10, 5, pairs=60), mark(12, 6), mark(14, 7)]], written=18)
    assert found.pairs == 128
    assert found.rate == 128 / 8
    assert found.cpu_rate == 128 / 2
    assert found.busy == 2 / 8


def test_steady_state_of_two_processes_begins_with_whichever_was_first() -> None:
    found = steady([[mark(11, 3), mark(13, 4)], [mark(10, 1), mark(12, 3)]], written=14)
    assert found.rate == 3 * 64 / 4
    assert found.cpu_rate == 2 * 64 / 3
    assert found.busy == 3 / 4


@pytest.mark.parametrize("processes", [[], [[]], [[mark(10, 1)]]])
def test_steady_state_needs_two_calls(processes: list[list[Mark]]) -> None:
    with pytest.raises(ValueError, match="no steady state"):
        steady(processes, written=20)


def test_steady_state_needs_a_commit_after_the_first_call() -> None:
    with pytest.raises(ValueError, match="no steady state"):
        steady([[mark(10, 1), mark(11, 2)]], written=10)


def test_marked_embedder_notes_every_call_but_the_one_that_tries_it_out(tmp_path: Path) -> None:
    model = marked(fake_model(), tmp_path / "marks")
    embedder, pixels = model.make_embedder("cpu", "float32", 64), np.zeros((2, 2, 2, 3), np.uint8)
    embedder.embed(pixels[:1], [[3]], [0])  # as an actor tries itself out
    list(embedder.embed_each([(pixels, [[3], [4], [5]], [0, 0, 1])]))
    ((noted,),) = left_in(tmp_path / "marks")
    assert noted.pairs == 3
    assert noted.seconds > 0


def test_marks_are_kept_by_process_and_in_order(tmp_path: Path) -> None:
    leave(tmp_path, 0.0, 1)
    leave(tmp_path, 0.0, 2)
    other = json.dumps(asdict(mark(10, 1, pairs=3)))
    (tmp_path / "1.jsonl").write_text(f"{other}\n")
    assert sorted([mark.pairs for mark in one] for one in left_in(tmp_path)) == [[1, 2], [3]]


def test_milestones_are_the_first_of_each_and_a_commit_without_rows_is_none() -> None:
    events = [
        {"event": "run_started"},
        {"event": "message", "message": "computing on cpu in float32"},
        {"event": "commit", "rows": 0},
        {"event": "commit", "rows": 5},
        {"event": "commit", "rows": 5},
    ]
    lines = [json.dumps(event | {"time": f"1970-01-01T00:00:0{i}Z"}) for i, event in enumerate(events)]
    log = "\n".join(["warning: of a library", *lines])
    assert milestones(log) == {"run begun": 0, "cluster joined": 1, "first rows": 3}


def test_what_was_drawn_is_drawn_once(tmp_path: Path) -> None:
    drawn: list[int] = []

    def two(folder: Path, count: int) -> Path:
        folder.mkdir()
        drawn.append(count)
        return folder

    assert kept(tmp_path, two, 5) == kept(tmp_path, two, 5)
    assert drawn == [5]


def test_a_verdict_is_of_the_medians() -> None:
    rounds = [{"ratio": 2.0}, {"ratio": 3.1}, {"ratio": 9.0}]
    assert medians(rounds) == {"ratio": 3.1}
    assert verdict("ray", medians(rounds))[1]
    line, reached = verdict("ray", {"ratio": 2.9})
    assert not reached
    assert line.endswith("MISSED")


@pytest.mark.parametrize(("seconds", "reached"), [(15.0, True), (15.1, False)])
def test_a_start_may_take_fifteen_seconds_more(seconds: float, reached: bool) -> None:
    assert verdict("start", {"seconds more": seconds})[1] is reached
