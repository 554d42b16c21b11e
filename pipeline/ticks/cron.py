"""A line of cron, as Debian's cron means it: when it comes next.

APScheduler's own `from_crontab` takes 0 for Monday, and wants both a day of the month and a day of the week to fit.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Cron:
    """Five fields, or six with the seconds first; the times are those of a time zone."""

    text: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.timezone)
        except (LookupError, ValueError, OSError) as error:
            raise ConfigError(
                f"--timezone {self.timezone!r} is not valid: allowed is a name such as UTC or Europe/London, of those "
                "that this machine has"
            ) from error
        try:
            self.after(datetime.now(UTC))
        except CronSimError as error:
            raise ConfigError(
                f"--cron {self.text!r} is not valid: {error}: allowed are five fields, minute, hour, day, month and "
                "weekday, such as '0 */6 * * *'"
            ) from error
        except StopIteration as error:
            raise ConfigError(f"--cron {self.text!r} is not valid: there is no such day") from error

    def after(self, moment: datetime) -> datetime:
        """The first time after a moment."""
        return next(CronSim(self.text, moment.astimezone(ZoneInfo(self.timezone)))).astimezone(UTC)
