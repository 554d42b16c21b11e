"""What the pulse makes of the workers' words."""

import pytest

from pipeline.watch import pulse
from pipeline.watch.pulse import Beat, Last, Pulse


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(pulse.time, "monotonic", lambda: now[0])
    return now


def beat(work: str, done: int, slice: str = "a.tar", stage: str = pulse.READING, node: str = "n1") -> Beat:
    return Beat(stage, work, done, slice, node)


def test_pulse_is_idle_while_work_goes_no_further(clock: list[float]) -> None:
    heart = Pulse()
    clock[0] += 5
    heart.beat(beat("w", 0))
    clock[0] += 5
    heart.beat(beat("w", 0))
    assert heart.look().idle == 5
    heart.beat(beat("w", 64))
    assert heart.look().idle == 0


def test_pulse_does_not_take_work_that_is_begun_again_for_progress(clock: list[float]) -> None:
    """A worker that is killed each time at the same place."""
    heart = Pulse()
    heart.beat(beat("w", 3))
    for _ in range(4):
        for done in (0, 1, 3):
            clock[0] += 10
            heart.beat(beat("w", done, node="another"))
    assert heart.look().idle == 120
    heart.beat(beat("w", 4))
    assert heart.look().idle == 0


def test_pulse_takes_other_work_for_progress_also_of_another_stage(clock: list[float]) -> None:
    heart = Pulse()
    heart.beat(beat("w", 3))
    clock[0] += 10
    heart.beat(beat("w", 0, stage=pulse.EMBEDDING))
    assert heart.look().idle == 0


def test_pulse_knows_the_last_that_each_stage_told(clock: list[float]) -> None:
    heart = Pulse()
    heart.beat(beat("w", 3, "a.tar"))
    heart.beat(beat("v", 1, "b.tar", node="n2"))
    clock[0] += 7
    heart.beat(beat("u", 1, "c.tar", pulse.EMBEDDING, "n3"))
    last = {pulse.READING: Last("b.tar", "n2", 7), pulse.EMBEDDING: Last("c.tar", "n3", 0)}
    assert heart.look().last == last


def test_pulse_takes_the_first_actor_that_starts_for_progress_and_no_later_one(clock: list[float]) -> None:
    heart = Pulse()
    clock[0] += 50
    heart.started("n1", "n", None)
    assert (heart.look().idle, heart.look().actors) == (0, 1)
    clock[0] += 50
    heart.started("n2", "n", None)
    assert (heart.look().idle, heart.look().actors) == (50, 2)
    assert heart.look().homes == {"n1", "n2"}
    heart.lost("n2", "n2", "out of luck")  # until an actor has started there anew
    assert heart.look().homes == {"n1"}


def test_pulse_knows_how_long_the_first_actor_of_a_node_took_to_compile() -> None:
    heart = Pulse()
    for node, seconds in (("n1", 34.0), ("n2", None), ("n1", 40.0), ("n3", 0.0)):
        heart.started(node, node, seconds)
    assert heart.look().compiled == {"n1": 34.0, "n3": 0.0}


def test_pulse_collects_lost_gpus_by_node() -> None:
    heart = Pulse()
    for node, error in (("n1", "a"), ("n2", "b"), ("n1", "c")):
        heart.lost("id", node, error)
    assert heart.look().lost == {"n1": ["a", "c"], "n2": ["b"]}


def test_pulse_remembers_only_recent_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "_REMEMBERED", 10)
    heart = Pulse()
    for i in range(100):
        heart.beat(beat(str(i), 1))
    assert len(heart._furthest) == 10
