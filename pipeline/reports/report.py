"""After a run: its report is gathered from the tables and written beside them. What fails here fails no run."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.config import RunConfig
from pipeline.database import Database
from pipeline.reports.curve import Curve
from pipeline.reports.examples import examples
from pipeline.reports.pictures import Album
from pipeline.reports.place import write_report
from pipeline.reports.scores import ITC_EDGES, ITM_EDGES, Scores, scores
from pipeline.reports.shards import shards
from pipeline.stores.storage import explain, redact
from pipeline.summary import Summary

if TYPE_CHECKING:
    from pipeline.cluster import Placement
    from pipeline.reports.page import Page, Strip
    from pipeline.reports.plots import Plot


@dataclass(frozen=True, slots=True)
class Ran:
    """A run that has ended: where its rows are, and what only its driver knows."""

    database: Database
    root: str  # of the dataset's shards
    config: RunConfig
    after: int  # the table's highest fragment when the run began
    placement: "Placement | None"
    curve: Curve


def reported(ran: Ran, summary: Summary, say: Callable[[str], None]) -> Summary:
    """The summary, with the place of the report that was written; without one where none could be."""
    if not (summary.pairs or summary.failures):
        return summary
    try:
        return replace(summary, report=write_report(ran.database, summary.run_id, _page(ran, summary).html()))
    except Exception as error:  # noqa: BLE001 - the rows are committed: no fault of a page may hide that
        say(f"no report was written: {explain(error)}")
        return summary


def _page(ran: Ran, summary: Summary) -> "Page":
    began = time.monotonic()
    from pipeline.reports.page import Page, facts  # matplotlib, which a run without a report does without

    found = scores(ran.database, summary.run_id, ran.after)
    table = shards(ran.database, summary.run_id, summary.failures, summary.quarantined)
    plots, strips = _plots(ran, summary, found, table.seconds), _strips(ran, summary, found)
    now, seconds = datetime.now(UTC), time.monotonic() - began
    return Page(
        table=summary.table,
        when=f"ended {now:%Y-%m-%d %H:%M:%S} UTC · this page took {seconds:.1f} s",
        summary=summary,
        facts=facts(summary, ran.placement),
        plots=plots,
        strips=strips,
        shards=table,
        details=_details(ran, summary),
    )


def _plots(ran: Ran, summary: Summary, found: Scores, seconds: list[float]) -> "list[Plot]":
    from pipeline.reports import plots

    drawn = [
        plots.throughput(ran.curve.points),
        plots.stages(summary.busy),
        plots.rejects(summary.rejects),
        plots.histogram("ITC score", "cosine of picture and caption", found.itc, ITC_EDGES),
        plots.histogram("ITM score", "probability that picture and caption match", found.itm, ITM_EDGES),
        plots.shards(seconds),
    ]
    return [plot for plot in drawn if plot is not None]


def _strips(ran: Ran, summary: Summary, found: Scores) -> "list[Strip]":
    from pipeline.reports.page import Group, Strip

    album, strips = Album(ran.root, ran.config.read.max_pixels), []
    if found.rows:
        what = "all rows" if found.rows == summary.rows else f"{found.rows:,} rows, spread evenly over the run's"
        how = f"of {what}, by ITM, among equals by ITC; a picture once"
        strips.append(Strip("Best matching pairs", how, album.pairs(found.best)))
        strips.append(Strip("Worst matching pairs", how, album.pairs(found.worst)))
    if summary.rejects:
        met = examples(ran.database, summary.run_id, summary.rejects)
        counts = sorted(summary.rejects.items(), key=lambda each: -each[1])
        none = "; none of them among the newest that were looked at"
        groups = [
            Group(reason, f"{n:,}" + ("" if reason in met else none), album.rejects(met.get(reason, ())))
            for reason, n in counts
        ]
        how = f"two of each reason at most; {ran.database.table}_rejects has all"
        strips.append(Strip("Rejects", how, groups=groups))
    return strips


def _details(ran: Ran, summary: Summary) -> dict[str, str]:
    details = {
        "What it said at its end": redact("\n".join(summary.lines())),
        "Configuration": redact(json.dumps(json.loads(ran.config.to_json()), indent=2)),
    }
    if ran.placement is not None:
        details["Compute"] = json.dumps(asdict(ran.placement), indent=2)
    return details
