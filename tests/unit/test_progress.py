"""What a person sees while a run goes on."""

import io

import pytest

from pipeline.watch.progress import Counts, Lines, LiveDisplay, duration, observer


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m00s"), (185, "3m05s"), (3599, "59m59s"), (3600, "1h00m"), (7800, "2h10m")],
)
def test_duration_reads_as_a_person_says_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts_tell_rate_and_time_left() -> None:
    counts = Counts(shards=2, of_shards=10, pairs=300, rejects=3, failed=0, seconds=20)
    assert (counts.rate, counts.left) == (15.0, "1m20s")


@pytest.mark.parametrize("shards", [0, 10])
def test_counts_do_not_guess_before_the_first_shard_or_after_the_last(shards: int) -> None:
    counts = Counts(shards, 10, 0, 0, 0, seconds=0)
    assert (counts.left, counts.rate) == ("-", 0.0)


def test_lines_prints_at_once_and_then_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("pipeline.watch.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    lines = Lines(stream)
    for at in (1000, 1005, 1009.9, 1010, 1015, 1025):
        now[0] = at
        lines.update(Counts(1, 4, 100, 2, 1, at - 990))
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["1/4"] * 3
    first = stream.getvalue().splitlines()[0]
    assert first == "shards 1/4  pairs 100  10.0 pairs/s  rejects 2  failed 1  left 30s"


def test_observer_is_live_on_a_terminal_and_plain_elsewhere() -> None:
    assert isinstance(observer(io.StringIO()), Lines)
    live = observer(Terminal())
    assert isinstance(live, LiveDisplay)
    live.close()


def test_live_display_shows_counts_and_prints_lines_as_they_are() -> None:
    stream = Terminal()
    live = LiveDisplay(stream)
    live.update(Counts(3, 9, 1234, 5, 0, 10))
    live.say("found [red] shards")
    live.update(Counts(4, 9, 1300, 5, 0, 11))
    live.close()
    shown = stream.getvalue()
    assert "found [red] shards" in shown
    assert "4/9" in shown
    assert "1300" in shown
