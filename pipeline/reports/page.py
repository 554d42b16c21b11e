"""The page of a report: what stands on it, and the HTML, in which all text is escaped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.reports.plots import Plot
from pipeline.reports.shards import Shards
from pipeline.retrieval.panels import Tile
from pipeline.retrieval.sheet import templates
from pipeline.summary import Summary
from pipeline.watch.progress import duration

if TYPE_CHECKING:
    from pipeline.cluster import Placement


@dataclass(frozen=True, slots=True)
class Fact:
    """A headline number."""

    name: str
    value: str
    note: str
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Some pictures of a strip, under their own heading."""

    title: str
    how: str
    tiles: Sequence[Tile]


@dataclass(frozen=True, slots=True)
class Strip:
    """Pictures under one heading: in a row, or in groups."""

    title: str
    how: str
    tiles: Sequence[Tile] = ()
    groups: Sequence[Group] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """All that a report shows; the text is safe to print, not yet escaped."""

    table: str
    when: str
    summary: Summary
    facts: Sequence[Fact]
    plots: Sequence[Plot]
    strips: Sequence[Strip]
    shards: Shards
    details: Mapping[str, str]

    def html(self) -> str:
        """One file that needs no other."""
        given = {name: getattr(self, name) for name in Page.__slots__}
        title = f"bridgelake · {self.table} · run {self.summary.run_id}"
        return templates(Path(__file__).parent).get_template("page.html").render(title=title, **given)


def facts(summary: Summary, placement: "Placement | None") -> list[Fact]:
    """The headline numbers, the most wanted first."""
    lost, pairs = sum(summary.rejects.values()), summary.pairs
    of_pairs = f"{lost / pairs:.2%} of {pairs:,} pairs" if pairs else "no pairs were read"
    failed = len(summary.failures)
    found = [
        Fact("rows", f"{summary.rows:,}", f"captions cut {summary.truncated:,}, taken down {summary.taken_down:,}"),
        Fact("rejects", f"{lost:,}", of_pairs),
        Fact("pairs/s", f"{summary.pairs_per_second:,.1f}", "over the whole run, its start included"),
        Fact("took", duration(summary.seconds), f"{summary.commits:,} commits, table at version {summary.version:,}"),
    ]
    if placement is not None:
        share = summary.busy["infer"] / ((summary.seconds or 1.0) * placement.actors)
        actors = "1 actor" if placement.actors == 1 else f"{placement.actors:,} actors"
        found.append(Fact("model busy", f"{share:.0%}", f"of the time of {actors} on {placement.device}"))
    calls = f"{summary.calls:,} model calls of {summary.pairs_per_call:,.1f} pairs"
    found.append(Fact("slices committed", f"{summary.committed:,}", calls))
    if failed or summary.quarantined:
        found.append(Fact("slices failed", f"{failed:,}", f"shards quarantined {len(summary.quarantined):,}", bad=True))
    return found
