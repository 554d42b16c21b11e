"""What the watchdog finds wrong, and how it ends a run."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from pipeline.errors import StalledError
from pipeline.watch import watchdog
from pipeline.watch.pulse import EMBEDDING, READING, Last, Line, Look
from pipeline.watch.watchdog import Watchdog

STALL = 900.0


def dog(stall: float = STALL, line: Line | None = None) -> Watchdog:
    return Watchdog(line or Line(None, every=5.0), stall, "computing on cpu: up to 2 actors")


def look(idle: float = STALL, actors: int = 2, lost: dict[str, list[str]] | None = None, **last: Last) -> Look:
    return Look(idle, actors, last, lost or {})


def found(watch: Watchdog, idle: float, seen: Look | None) -> str:
    return str(watch.judge(idle, seen) or "")


READ, EMBED = Last("r.tar", "10.0.0.1 (aaaa)", 3), Last("e.tar", "10.0.0.2 (bbbb)", 4)
OLD_READ, OLD_EMBED = Last("r.tar", "10.0.0.1 (aaaa)", 300), Last("e.tar", "10.0.0.2 (bbbb)", 400)


@pytest.mark.parametrize(("driver", "workers"), [(899, 2000), (2000, 899), (0, 0)])
def test_watchdog_is_content_while_the_driver_or_the_workers_go_forward(driver: float, workers: float) -> None:
    assert found(dog(), driver, look(workers, reading=READ)) == ""


@pytest.mark.parametrize(
    ("seen", "where"),
    [
        (look(reading=READ, embedding=EMBED), "embedding: last on node 10.0.0.2 (bbbb), slice e.tar, heard of 4 s ago"),
        (look(reading=READ), "reading: last on node 10.0.0.1 (aaaa), slice r.tar, heard of 3 s ago"),
        (look(reading=READ, embedding=OLD_EMBED), "reading: last on node 10.0.0.1 (aaaa), slice r.tar"),
        (
            look(reading=OLD_READ, embedding=OLD_EMBED),
            "reading: last on node 10.0.0.1 (aaaa), slice r.tar, heard of 300",
        ),
        (
            look(actors=0, reading=READ),
            "embedding: no actor has started: computing on cpu: up to 2 actors; see `ray st",
        ),
        (look(), "reading: no reader has told anything; see `ray status`"),
        (None, "the cluster: the run's own actor there does not answer"),
    ],
)
def test_watchdog_names_the_stage_and_what_is_known_of_it(seen: Look | None, where: str) -> None:
    told = found(dog(), STALL, seen)
    assert told.startswith(f"no progress for 900 s in {where}")
    assert told.endswith("what was whole is committed, and the same command goes on from there")
    assert {READING, EMBEDDING} == {"reading", "embedding"}


def test_watchdog_names_what_the_driver_waits_for_before_what_the_workers_are_at() -> None:
    watch = dog()
    watch.doing = "writing: slice a.tar to /lake"
    assert "in writing: slice a.tar to /lake;" in found(watch, STALL, look(reading=READ))


def test_watchdog_does_not_take_busy_workers_for_progress_of_a_commit() -> None:
    watch = dog()
    with watch.committing():
        assert "in committing: the store does not answer" in found(watch, STALL, look(0, reading=READ))
    assert found(watch, STALL, look(0, reading=READ)) == ""


@pytest.mark.parametrize(("errors", "ends"), [(["a", "b"], False), (["a", "b", "ECC"], True)])
def test_watchdog_names_a_node_that_lost_its_gpu_three_times(errors: list[str], ends: bool) -> None:
    told = found(dog(), 0, look(0, lost={"fine": ["x"], "10.0.0.9 (cccc)": errors}))
    assert told.startswith("node 10.0.0.9 (cccc) lost its GPU 3 times, the last time by 'ECC'") == ends
    assert bool(told) == ends


def test_watchdog_tells_of_each_lost_gpu_once() -> None:
    watch = dog()
    watch._hear(None)
    assert watch.news() == []
    for _ in range(2):
        watch._hear(look(lost={"n1": ["ECC"], "n2": ["assert"]}))
    done = "what it was at is done again"
    assert watch.news() == [f"node n1 lost its GPU by 'ECC'; {done}", f"node n2 lost its GPU by 'assert'; {done}"]
    assert watch.news() == []
    watch._hear(look(lost={"n1": ["ECC", "illegal"], "n2": ["assert"]}))
    assert watch.news() == [f"node n1 lost its GPU by 'illegal'; {done}"]


def test_watchdog_says_of_each_node_once_how_long_compiling_took_and_where_it_cannot_be_done() -> None:
    said: list[str] = []
    watch = Watchdog(Line(None, every=5.0), STALL, "", said.append)
    watch.tell_compiled(None)
    for compiled in ({"n1": 34.2}, {"n1": 34.2, "n2": 0.0}):
        watch.tell_compiled(Look(0, 1, {}, {}, compiled=compiled))
    assert said == [
        "compiled the model in 34 s on node n1, which keeps it for the next start",
        "torch.compile does not work on node n2, so computing without; its actor's log says why",
    ]


class Deaf(Line):
    """To a pulse that does not answer."""

    def look(self, patience: float) -> None:
        return None

    def lost_nodes(self, patience: float) -> None:
        return None


@pytest.fixture
def exited(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the watchdog would end the process; its thread stops there."""
    event = threading.Event()

    def leave(code: int) -> None:
        assert code == 1
        event.set()
        threading.Event().wait()

    monkeypatch.setattr(watchdog, "leave", leave)
    return event


def until(check: Callable[[], None]) -> None:
    """Call it now and then, as the driver does, for as long as it raises nothing."""
    over = time.monotonic() + 5
    while time.monotonic() < over:
        check()
        time.sleep(0.01)


def watched(watch: Watchdog) -> threading.Thread:
    thread = threading.Thread(target=watch.watch, daemon=True)
    thread.start()
    return thread


def test_watchdog_lets_the_driver_end_the_run_by_itself(exited: threading.Event) -> None:
    watch = dog(0.1, Deaf(None, every=0.02))
    thread = watched(watch)
    with pytest.raises(StalledError, match="no progress"):
        until(watch.check)
    watch.close()
    thread.join(5)
    assert not thread.is_alive()
    assert not exited.is_set()


def test_watchdog_ends_a_process_whose_commit_hangs(
    exited: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = dog(0.1, Deaf(None, every=0.02))
    with watch.committing():
        watched(watch)
        assert exited.wait(5)
    told = capsys.readouterr().err
    assert told.startswith("error: no progress for 0 s in committing")
    assert told.count("\n") == 1


def test_watchdog_ends_a_process_whose_driver_does_not_see_that_it_is_over(
    exited: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_GRACE", 0.5)
    watch = dog(0.1, Deaf(None, every=0.02))
    watched(watch)
    assert not exited.wait(0.3)
    assert exited.wait(5)


def test_watchdog_waits_longer_for_the_last_commit_than_for_a_driver_that_hangs(
    exited: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_GRACE", 0.1)
    watch = dog(1.0, Deaf(None, every=0.02))
    watch.judge = lambda idle, seen: StalledError("at once")  # type: ignore[method-assign]
    with watch.committing():
        watched(watch)
        assert not exited.wait(0.5)
    watch.close()


def test_watchdog_says_once_that_the_head_is_away_and_that_it_is_back() -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        watch = Watchdog(Line(None, 5.0, address), STALL, "", said.append)
        watch.look_for_head()
        assert said == []
    watch.look_for_head()
    watch.look_for_head()
    assert len(said) == 1
    assert f"Ray's head at {address} does not answer" in said[0]
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        watch.look_for_head()
        watch.look_for_head()
    assert said[1:] == [f"Ray's head at {address} answers again"]


@pytest.mark.parametrize("over", [False, True])
def test_watchdog_says_that_ray_has_ended_on_this_node_unless_the_run_is_over(tmp_path: Path, over: bool) -> None:
    said: list[str] = []
    with socket.socket(socket.AF_UNIX) as raylet:
        raylet.bind(str(tmp_path / "raylet"))
        raylet.listen()
        watch = Watchdog(Line(None, 0.02, raylet=str(tmp_path / "raylet")), STALL, "", said.append)
        thread = threading.Thread(target=watch.watch_node, daemon=True)
        thread.start()
        stranger, _ = raylet.accept()
        thread.join(0.1)
        assert thread.is_alive()
        if over:
            watch.close()
        stranger.close()
        thread.join(5)
    assert not thread.is_alive()
    assert [line.partition(":")[0] for line in said] == ([] if over else ["error"])


def test_watchdog_that_cannot_reach_ray_on_this_node_says_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    Watchdog(Line(None, 0.02, raylet=str(tmp_path / "none")), STALL, "", said.append).watch_node()
    assert said == []


class Nodes(Line):
    """To a pulse that tells of these lost nodes."""

    answers: ClassVar[list[dict[str, str] | None]] = []

    def lost_nodes(self, patience: float) -> dict[str, str] | None:
        return self.answers.pop(0)


def test_watchdog_says_once_of_each_node_lost_in_the_run_and_names_it_at_a_stall() -> None:
    said: list[str] = []
    watch = Watchdog(Nodes(None, 5.0), STALL, "", said.append)
    old, new = {"10.0.0.1 (aaaa)": "taken away"}, {"10.0.0.2 (bbbb)": "no heartbeats"}
    Nodes.answers = [old, None, old, old | new, old | new]
    for _ in range(5):
        watch.look_for_nodes()
    assert said == ["node 10.0.0.2 (bbbb) is lost (no heartbeats); what it was at is done again on others"]
    assert "; lost meanwhile: node 10.0.0.2 (bbbb); what was whole" in found(watch, STALL, look(reading=READ))
