"""Lines of cron, as cron means them."""

from datetime import UTC, datetime

import pytest

from pipeline.errors import ConfigError
from pipeline.ticks.cron import Cron

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)  # a Thursday


@pytest.mark.parametrize(
    ("line", "timezone", "then"),
    [
        ("0 */6 * * *", "UTC", "2026-01-01 06:00:00"),
        ("*/15 * * * *", "UTC", "2026-01-01 00:15:00"),
        ("0 3 * * 0", "UTC", "2026-01-04 03:00:00"),  # Sunday, which APScheduler takes for Monday
        ("0 3 * * 7", "UTC", "2026-01-04 03:00:00"),
        ("0 3 13 * 5", "UTC", "2026-01-02 03:00:00"),  # the 13th, and each Friday
        ("0 3 * * *", "Asia/Kolkata", "2026-01-01 21:30:00"),
        ("30 0 0 * * *", "UTC", "2026-01-01 00:00:30"),  # with seconds
    ],
)
def test_cron_comes_next_when_cron_would(line: str, timezone: str, then: str) -> None:
    assert Cron(line, timezone).after(NEW_YEAR) == datetime.fromisoformat(f"{then}+00:00")


def test_cron_comes_strictly_after_the_moment() -> None:
    six = NEW_YEAR.replace(hour=6)
    assert Cron("0 */6 * * *").after(six) == NEW_YEAR.replace(hour=12)


@pytest.mark.parametrize("line", ["", "daily", "* * * *", "61 * * * *", "0 0 31 2 *"])
def test_cron_that_is_none_is_refused_with_what_is_allowed(line: str) -> None:
    with pytest.raises(ConfigError, match=r"--cron .* is not valid: .*: allowed are five fields, minute, hour, day"):
        Cron(line)


def test_cron_that_never_comes_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no such day"):
        Cron("0 0 */30 * 1#2")


@pytest.mark.parametrize("name", ["Mars/Base", "../../etc/passwd", ""])
def test_timezone_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--timezone .* is not valid: allowed is a name such as UTC"):
        Cron("* * * * *", name)
