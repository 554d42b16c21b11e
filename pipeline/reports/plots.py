"""A run's plots as SVG that takes its colours and letters from the page around it; drawn by matplotlib."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.watch.progress import duration

_SIZE = (4.2, 2.6)  # inches, as large as a phone shows them
_BARS = 50
_STEPS = 60  # of the throughput
_REASONS = 12
_ROUND = [1, 2, 5, 10]  # between two ticks, or ten times as much
# Stand for the page's own colours, which are light or dark.
_INK, _SOFT, _LINE, _MARK, _BAD, _CARD = (f"#0{i}0{i}0{i}" for i in range(1, 7))
_NAMES = {_INK: "ink", _SOFT: "soft", _LINE: "line", _MARK: "mark", _BAD: "bad", _CARD: "card"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib; the page shows its own, which is not wider
    "font.size": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
}
_STAGES = {"read": "read and\nprepare", "infer": "embed", "write": "write and\ncommit"}

Edges = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot; `alt` says the same in words."""

    title: str
    svg: str
    alt: str


def throughput(points: Sequence[tuple[float, int]]) -> Plot | None:
    """Pairs a second over time, from (seconds, pairs done)."""
    seconds, pairs = np.array(points, dtype=float).T
    if len(points) < 3 or seconds[-1] <= 0:
        return None
    edges = np.linspace(0, seconds[-1], min(_STEPS, len(points) - 1) + 1)
    rates = np.diff(np.interp(edges, seconds, pairs)) / np.diff(edges)
    mean = pairs[-1] / seconds[-1]
    unit, width = next(
        (u, w) for u, w in (("hours", 3600), ("minutes", 60), ("s", 1)) if seconds[-1] >= 2 * w or w == 1
    )

    def draw(axes: Axes) -> None:
        axes.stairs(rates, edges / width, fill=True, color=_MARK, alpha=0.25)
        axes.stairs(rates, edges / width, color=_MARK, linewidth=1.2, baseline=None)
        axes.axhline(mean, color=_SOFT, linewidth=0.8, linestyle="--")
        label = axes.annotate(f"mean {mean:,.0f}", (1, mean), (-3, 5), ("axes fraction", "data"), "offset points")
        label.set(ha="right", bbox={"facecolor": _CARD, "edgecolor": "none", "pad": 1.5, "alpha": 0.8})
        axes.set(xlim=(0, edges[-1] / width), ylim=(0, None), ylabel="pairs/s")
        axes.set_xlabel(f"time since the stages were started ({unit})")
        axes.grid(axis="y")

    alt = (
        f"{pairs[-1]:,.0f} pairs in {duration(seconds[-1])}: {mean:,.1f} pairs/s on average, {rates.max():,.1f} at most"
    )
    return _plot("Throughput", draw, alt)


def stages(busy: Mapping[str, float]) -> Plot:
    """Busy seconds by stage."""
    named = {_STAGES.get(stage, stage): seconds for stage, seconds in busy.items()}
    total = sum(busy.values()) or 1.0
    told = [f"{seconds:,.1f} s, {seconds / total:.0%}" for seconds in busy.values()]
    draw = _bars(named, told, "busy seconds, all workers added up", _MARK)
    return _plot("Time by stage", draw, "; ".join(f"{s} {t}" for s, t in zip(busy, told, strict=True)))


def rejects(counts: Mapping[str, int]) -> Plot | None:
    """Pairs by reject reason, the most frequent first."""
    if not counts:
        return None
    top = dict(sorted(counts.items(), key=lambda each: -each[1])[:_REASONS])
    told = [f"{n:,}" for n in top.values()]
    more = f"; {len(counts) - len(top)} more reasons" if len(top) < len(counts) else ""
    alt = ", ".join(f"{r} {t}" for r, t in zip(top, told, strict=True)) + more
    return _plot("Rejects by reason", _bars(top, told, f"pairs{more}", _BAD), alt)


def histogram(title: str, name: str, counts: Counts, edges: Edges) -> Plot | None:
    """How often each score occurs, over the scores that do."""
    there = np.flatnonzero(counts)
    if not len(there):
        return None
    counts, edges = _coarser(counts[there[0] : there[-1] + 1], edges[there[0] : there[-1] + 2])

    def draw(axes: Axes) -> None:
        axes.stairs(counts, edges, fill=True, color=_MARK, alpha=0.75)
        axes.set(xlabel=name, ylabel="pairs", ylim=(0, None), xlim=(edges[0], edges[-1]))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=_ROUND, integer=True))
        axes.grid(axis="y")

    top = int(np.argmax(counts))
    peak = edges[top : top + 2].mean()
    alt = f"{counts.sum():,} pairs from {edges[0]:.2f} to {edges[-1]:.2f}, most of them near {peak:.2f}"
    return _plot(title, draw, alt)


def shards(seconds: Sequence[float]) -> Plot | None:
    """How many shards took how long."""
    if len(seconds) < 2:
        return None
    counts, edges = np.histogram(seconds, min(30, 2 * len(seconds)))

    def draw(axes: Axes) -> None:
        axes.stairs(counts, edges, fill=True, color=_MARK, alpha=0.75)
        axes.set(xlabel="seconds of workers for one: read, prepare, write", ylabel="shards", ylim=(0, None))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=_ROUND, integer=True))
        axes.grid(axis="y")

    middle = np.median(seconds)
    alt = f"{len(seconds):,} shards took {min(seconds):.1f} to {max(seconds):.1f} s each, {middle:.1f} s in the middle"
    return _plot("Shards", draw, alt)


def _coarser(counts: Counts, edges: Edges) -> tuple[Counts, Edges]:
    """At most `_BARS` bars, each of as many of the given ones."""
    step = -(-len(counts) // _BARS)
    padded = np.pad(counts, (0, -len(counts) % step))
    last = edges[-1] + (edges[1] - edges[0]) * (len(padded) - len(counts))
    return padded.reshape(-1, step).sum(axis=1), np.append(edges[:-1:step], last)


def _bars(values: Mapping[str, float], told: Sequence[str], label: str, color: str) -> Callable[[Axes], None]:
    """Horizontal bars, the first at the top, each with its number behind it."""

    def draw(axes: Axes) -> None:
        bars = axes.barh([*values], [*values.values()], color=color, alpha=0.75, height=0.6)
        axes.bar_label(bars, [*told], padding=3)
        axes.set(xlabel=label)
        whole = all(isinstance(value, int) for value in values.values())
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=_ROUND, integer=whole))
        axes.margins(x=0.3)
        axes.invert_yaxis()
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)

    return draw


def _plot(title: str, draw: Callable[[Axes], None], alt: str) -> Plot:
    nothing: dict[str, None] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        draw(figure.add_subplot())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=nothing)
    return Plot(title, _inline(out.getvalue(), re.sub(r"\W", "", title)), alt)


def _inline(text: str, prefix: str) -> str:
    """The element alone, in the page's colours; its ids are no other plot's."""
    svg = text[text.index("<svg") :]
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", svg)
    return re.sub("|".join(_NAMES), lambda found: f"var(--{_NAMES[found[0]]})", svg)
