"""Hits as a table on a terminal. Captions may hold anything: none of it is taken for markup or control codes."""

from typing import TextIO

from rich import box
from rich.table import Table
from rich.text import Text

from pipeline.plain import plain
from pipeline.retrieval.hits import Hit, Hits
from pipeline.terminal import console

_CAPTION = 160


def show_hits(hits: Hits, stream: TextIO | None = None) -> None:
    """Print hits on standard output, or `stream`."""
    here = console(stream)
    asked = Text.assemble((plain(hits.title, 120), "bold"), (f"  {plain(hits.detail)}" if hits.detail else "", "dim"))
    here.print(asked)
    here.print(hits_table(hits) if len(hits) else Text("no hits"))


def hits_table(hits: Hits) -> Table:
    """The hits as a rich table."""
    found = hits.shown()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="right", style="dim")
    for i, name in enumerate(found[0].scores):
        table.add_column(name, justify="right", style="" if i else "bold")
    table.add_column("caption", ratio=1, min_width=24)
    table.add_column("key", overflow="fold", style="dim")
    table.add_column("shard", overflow="fold", style="dim")
    table.add_column("size", style="dim", no_wrap=True)
    for hit in found:
        scores = [Text("-" if value is None else f"{value:.3f}") for value in hit.scores.values()]
        names = (Text(hit.key), Text(hit.shard), Text(hit.size))
        table.add_row(Text(str(hit.rank)), *scores, _caption(hit), *names)
    return table


def _caption(hit: Hit) -> Text:
    text = Text(plain(hit.caption, _CAPTION))
    return text.append(f"\n{hit.error}", style="red") if hit.error else text
