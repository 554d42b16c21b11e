"""The pictures of a report: fetched in place, made small, and only as many as there is time for."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.errors import FetchError
from pipeline.fetch import Answer, Row, fetch_images
from pipeline.plain import plain
from pipeline.retrieval.hits import Hit
from pipeline.retrieval.panels import Tile, tile
from pipeline.shards import gzipped
from pipeline.stores.storage import redact

_SIDE = 224  # pixels
_PATIENCE = 20.0  # seconds for all pictures; those being fetched then are waited for
_AT_ONCE = 8


@dataclass(slots=True)
class Album:
    """Fetches for one report."""

    root: str  # of the dataset
    max_pixels: int
    _ends: float = field(default_factory=lambda: time.monotonic() + _PATIENCE)

    def pairs(self, rows: Sequence[Row]) -> list[Tile]:
        """Rows with both scores."""
        hits = [
            Hit(
                rank=rank,
                scores={"itm": row["itm_score"], "itc": row["itc_score"]},
                caption=plain(row["caption"] or ""),
                key=plain(row["key"] or "", 80),
                shard=plain(row["shard"] or "", 120),
                size=f"{row['width']}×{row['height']}",
                error="",
            )
            for rank, row in enumerate(rows, start=1)
        ]
        return self._tiles(hits, rows)

    def rejects(self, rows: Sequence[Row]) -> list[Tile]:
        """Rejects, each with its detail."""
        hits = [
            Hit(
                rank=rank,
                scores={},
                caption=plain(row["caption"] or "(no caption)"),
                key=plain(row["key"] or "", 80),
                shard=plain(row["shard"] or "", 120),
                size=plain(redact(row["detail"] or ""), 160),
                error="",
            )
            for rank, row in enumerate(rows, start=1)
        ]
        return self._tiles(hits, rows)

    def _tiles(self, hits: Sequence[Hit], rows: Sequence[Row]) -> list[Tile]:
        answers = self._fetched(rows)
        return [tile(hit, answer, _SIDE, self.max_pixels) for hit, answer in zip(hits, answers, strict=True)]

    def _fetched(self, rows: Sequence[Row]) -> Iterator[Answer]:
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            refused = [self._refused(row) for row in some]
            fetched = iter(fetch_images([r for r, why in zip(some, refused, strict=True) if not why], self.root))
            yield from (FetchError(why) if why else next(fetched) for why in refused)

    def _refused(self, row: Row) -> str:
        """Why a picture is not even asked for; empty if it is."""
        if row["image_offset"] is None and row["row_group"] is None:
            return "there is no picture"
        if gzipped(row["shard"]):
            return "not fetched: its shard is gzipped, and would have to be read from the start"
        if time.monotonic() > self._ends:
            return f"not fetched: the pictures before it took the {_PATIENCE:g} s that a report has for them"
        return ""
