#!/usr/bin/env python
"""Embed what is new, keep the table up and check it, at the times of a cron line; `live` moves only if all holds."""

import sys
from dataclasses import dataclass
from functools import partial

from tyro.conf import Positional

from bridgelake import DEFAULT_MODEL, Lake
from bridgelake.wiring import as_model
from jobs.elsewhere import check
from jobs.options import EmbeddingCommand
from jobs.outcome import finish
from pipeline.errors import ConfigError
from pipeline.schedule import Retries, Schedule, launch
from pipeline.ticks.book import plan
from pipeline.ticks.command import Process
from pipeline.ticks.cron import Cron
from pipeline.ticks.report import Reporter
from pipeline.ticks.steps import Checks, tick


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `schedule.py` takes."""

    command: Positional[tuple[str, ...]] = ()
    """After --: the embedding command, such as -- python jobs/embed_laion.py --input ... --db ..."""
    cron: str = ""  # When, such as '0 */6 * * *'. With --once it is only written down, for status.py.
    timezone: str = "UTC"  # Of --cron.
    once: bool = False  # One tick now, and exit with 0 or 1, for cron, a CronJob or Airflow to call.
    submit: str = ""  # URL of a Ray dashboard: each tick is a Ray job there. Default: a process of this machine.
    retries: int = 3  # So often is a tick that failed run again.
    backoff: float = 60.0  # Seconds before the first of these runs; twice as many before each further one.
    webhook: str = ""  # URL that is told of runs that failed, by POST of JSON.
    min_recall: float = 0.95  # An index that finds less of the ten nearest pictures holds live back.
    sample: int = 0  # Rows that are embedded again and compared; for that the tick needs the model.


def main(options: Options) -> int:
    """One tick, or one at each time until a signal comes."""
    command = EmbeddingCommand(options.command)
    if options.submit:
        check(command.values())
    database = command.database()
    reporter, retries = Reporter(database, options.webhook), Retries(options.retries, options.backoff)
    lake = Lake(database.uri, model=command.option("--model") or DEFAULT_MODEL, revision=command.option("--revision"))
    checks = Checks(min_recall=options.min_recall, sample=options.sample, model=lambda: as_model(lake.spec))
    if not (options.cron or options.once):
        raise ConfigError("--cron is missing: name the times, such as '0 */6 * * *', or say --once")
    cron = Cron(options.cron, options.timezone) if options.cron else None
    if cron is not None:
        plan(database, cron)
    if options.once and not options.submit:
        return reporter.once(lambda: tick(database, partial(Process, options.command), checks))
    again = ["--once", f"--min-recall={checks.min_recall}", f"--sample={checks.sample}", "--", *options.command]
    start = partial(launch, [sys.executable, __file__, *again], ["python", "jobs/schedule.py", *again], options.submit)
    if options.once or cron is None:
        return reporter.follow(start)
    return Schedule(database, cron, retries, start, reporter).run()


if __name__ == "__main__":
    finish(Options, main, __doc__ or "")
