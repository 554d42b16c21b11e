"""Searches as they are shown with their pictures: one panel a search, one tile a hit."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

from pipeline.decode import Rejected, decode
from pipeline.fetch import Answer
from pipeline.plain import plain
from pipeline.retrieval.hits import Hit, Hits

_SIDE = 320  # of a thumbnail, at most
_LARGEST = 2**31  # pixels: a row's picture was within its run's own limit


@dataclass(frozen=True, slots=True)
class Tile:
    """A hit with its picture, or why there is none; the text is safe to print, not yet escaped."""

    hit: Hit
    picture: Image.Image | None
    why: str = ""

    @property
    def uri(self) -> str:
        """The picture as a data URI; empty if there is none."""
        return "" if self.picture is None else data_uri(self.picture)

    @property
    def scores(self) -> list[tuple[str, float]]:
        """What speaks for the hit, the deciding one first."""
        return [(name, value) for name, value in self.hit.scores.items() if value is not None]


@dataclass(frozen=True, slots=True)
class Panel:
    """One search on a sheet: what was asked, how, and what came."""

    title: str
    how: str
    tiles: tuple[Tile, ...]
    picture: Image.Image | None = None

    @property
    def asked(self) -> str:
        """The picture that was asked with, as a data URI; empty if there was none."""
        return "" if self.picture is None else data_uri(self.picture)


def panel(hits: Hits, note: str = "") -> Panel:
    """A search with its pictures, fetched in place and made small."""
    tiles = tuple(tile(*pair) for pair in zip(hits.shown(), hits.images(), strict=True))
    count = "1 hit" if len(hits) == 1 else f"{len(hits)} hits" if len(hits) else "no hits"
    how = " · ".join(part for part in (count, plain(hits.detail), note) if part)
    return Panel(plain(hits.title, 200), how, tiles, _thumbnail(hits.asked) if hits.asked else None)


def tile(hit: Hit, answer: Answer, side: int = _SIDE, max_pixels: int = _LARGEST) -> Tile:
    """A hit with its fetched picture, made small; one with more pixels than `max_pixels` is not decoded."""
    if isinstance(answer, Exception):
        return Tile(hit, None, plain(str(answer)))
    try:
        return Tile(hit, _thumbnail(answer, side, max_pixels))
    except Rejected as error:
        return Tile(hit, None, plain(f"the picture is {error.reason}: {error.detail}"))


def _thumbnail(image: bytes, side: int = _SIDE, max_pixels: int = _LARGEST) -> Image.Image:
    picture = decode(image, max_pixels).picture
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def data_uri(picture: Image.Image) -> str:
    """A picture as a data URI of a JPEG."""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
