"""The state of a lake as tables on a terminal. Names and errors may hold anything: none of it is taken for markup."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.plain import plain
from pipeline.status import Status
from pipeline.terminal import console
from pipeline.versions import ranges
from pipeline.watch.progress import duration

_TEXT = 300


def show_status(status: Status) -> None:
    """Print it on standard output."""
    here = console()
    _facts(here, status)
    ticks = ([_when(t["started"]), t["outcome"], duration(t["seconds"]), t["live"], t["why"]] for t in status.ticks)
    _table(here, ["tick (UTC)", "outcome", "took", "live", "why"], ticks)
    runs = (
        [_when(r["started"]), r["outcome"], r["rows"], r["rejects"], f"{r['pairs_per_second'] or 0:.1f}", r["run_id"]]
        for r in status.runs
    )
    _table(here, ["run (UTC)", "outcome", "rows", "rejects", "pairs/s", "id"], runs)
    indexes = (
        [i.column, i.kind, i.indexed, i.left, ", ".join(f"{s} {r:.3f}" for s, r in i.recall.items())]
        for i in status.indexes
    )
    _table(here, ["index", "kind", "rows in it", "not yet", "recall@10"], indexes)
    _table(here, ["rejected for", "pairs"], status.rejects.items())
    _table(here, ["quarantined", "error"], status.quarantined.items())


def _facts(here: Console, status: Status) -> None:
    live = status.tags.get("live")
    at = f"live is version {live}, {status.live_rows:,} rows" if live is not None else "no tag live"
    others = ", ".join(f"{name} {version}" for name, version in sorted(status.tags.items()) if name != "live")
    last = next((t for t in status.ticks if t["outcome"] != "running"), None)
    facts = {
        "table": f"{status.table}: {status.rows:,} rows at version {status.version}",
        "versions": f"{ranges(status.versions) or 'none'}; {at}" + (f"; {others}" if others else ""),
        "last tick": f"{_when(last['started'])} UTC, {last['outcome']}" if last else "none",
        "next tick": f"{_when(status.next)} UTC, by {status.cron}" if status.next else "no cron line is known",
    }
    for name, text in facts.items():
        here.print(Text.assemble((f"{name:10}", "bold"), plain(text, _TEXT)), soft_wrap=True)


def _table(here: Console, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Nothing if there are no rows."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown = [*rows]
    for i, name in enumerate(columns):
        numbers = bool(shown) and isinstance(shown[0][i], int | float)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in shown:
        table.add_row(*(Text(_cell(value)) for value in row))
    if shown:
        here.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else plain(str(value), _TEXT)


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
