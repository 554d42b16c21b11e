"""What a run leaves behind however it ends: its report and its record."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pipeline.cluster import Placement
from pipeline.config import RunConfig
from pipeline.datasets import Place
from pipeline.errors import ClusterError, RejectRateError, StalledError, TableError
from pipeline.reports.curve import Curve
from pipeline.reports.report import Ran, reported
from pipeline.reports.scores import last_fragment
from pipeline.runs import record_run
from pipeline.summary import Summary

_WHOLE = ("done", "incomplete")


@dataclass(frozen=True, slots=True)
class Ending:
    """What only the run itself knows of it."""

    config: RunConfig
    started: datetime
    placement: Placement | None  # None: it did not come so far
    curve: Curve
    say: Callable[[str], None]

    def keep(self, place: Place, summary: Summary, failure: Exception | None) -> Summary:
        """Write the report and the record, the latter also if nobody waits for the report.

        Args:
            place: of the dataset.
            summary: of the run.
            failure: by which it ended, if it did.

        Returns:
            The summary, with the place of its report.

        Raises:
            TableError: the record cannot be written; after a failure that is only said.
        """
        try:
            if self.config.write.report and reports(summary.outcome, failure):
                ran = Ran(
                    place.database, place.blank.root, self.config, last_fragment(place.rows), self.placement, self.curve
                )
                summary = reported(ran, summary, self.say)
                if failure and summary.report:
                    self.say(f"report: {summary.report}")  # its summary will not be shown
        finally:
            self._record(place, summary)
        return summary

    def _record(self, place: Place, summary: Summary) -> None:
        """Where the run has failed already, its own error is worth more than this one's."""
        try:
            record_run(place.database, self.config, self.started, self.placement, summary)
        except TableError as error:
            if summary.outcome in _WHOLE:
                raise
            self.say(f"nor could the run record be written: {error}")


def reports(outcome: str, failure: Exception | None) -> bool:
    """Whether a run that ended so has a report.

    None after a signal, whose sender waits for the end; nor where the store may not answer, or makes the run fail.
    """
    told = isinstance(failure, RejectRateError | ClusterError) and not isinstance(failure, StalledError)
    return outcome in _WHOLE or told
