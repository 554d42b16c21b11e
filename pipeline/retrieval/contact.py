"""A contact sheet as one picture: a row of tiles for each search, drawn by Pillow."""

from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from pipeline.retrieval.panels import Panel, Tile

_COLUMNS = 5
_PICTURE = 224
_PAD = 12
_TILE = (_PICTURE + 2 * _PAD, _PICTURE + 112)
_GAP = 18
_MARGIN = 40
_WIDTH = 2 * _MARGIN + _COLUMNS * _TILE[0] + (_COLUMNS - 1) * _GAP
_HEAD = 92  # of a panel: title and how it was asked
_PAGE, _CARD, _LINE, _INK = "#f6f5f2", "#ffffff", "#e2e0da", "#1d1f24"
_SOFT, _MARK, _BAD = "#686d78", "#2a62d9", "#a33333"

_FONTS = ("NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial.ttf", "arial.ttf")

Point = tuple[int, int]


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """A font of the machine, else Pillow's own, which knows English letters only."""
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    own = ImageFont.load_default(size)
    if not isinstance(own, ImageFont.FreeTypeFont):
        raise OSError("this build of Pillow has no FreeType, which drawing text needs")
    return own


def contact_sheet(panels: Sequence[Panel], title: str) -> Image.Image:
    """All panels below each other."""
    heights = [_HEAD + _rows(p) * (_TILE[1] + _GAP) for p in panels]
    sheet = Image.new("RGB", (_WIDTH, 2 * _MARGIN + 16 + sum(heights)), _PAGE)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 10), title, _SOFT, font(15))
    top = _MARGIN + 16
    for shown, height in zip(panels, heights, strict=True):
        _panel(sheet, draw, shown, top)
        top += height
    return sheet


def _rows(panel: Panel) -> int:
    return -(-len(panel.tiles) // _COLUMNS)


def _panel(sheet: Image.Image, draw: ImageDraw.ImageDraw, panel: Panel, top: int) -> None:
    left, room = _MARGIN, _WIDTH - 2 * _MARGIN
    if panel.picture is not None:
        asked = _fitted(panel.picture, _HEAD - 28)
        sheet.paste(asked, (left, top + 12))
        left, room = left + asked.width + 16, room - asked.width - 16
    draw.text((left, top + 14), wrapped(panel.title, 28, room, 1)[0], _INK, font(28))
    draw.text((left, top + 52), wrapped(panel.how, 16, room, 1)[0], _SOFT, font(16))
    for i, tile in enumerate(panel.tiles):
        row, column = divmod(i, _COLUMNS)
        _tile(sheet, draw, tile, (_MARGIN + column * (_TILE[0] + _GAP), top + _HEAD + row * (_TILE[1] + _GAP)))


def _tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, at: Point) -> None:
    x, y = at
    draw.rounded_rectangle((x, y, x + _TILE[0], y + _TILE[1]), 10, _CARD, _LINE)
    if tile.picture is None:
        draw.rectangle((x + _PAD, y + _PAD, x + _PAD + _PICTURE, y + _PAD + _PICTURE), _PAGE)
        _lines(draw, wrapped(tile.why, 14, _PICTURE - 24, 9), (x + _PAD + 12, y + _PAD + 16), 14, _BAD)
    else:
        fitted = _fitted(tile.picture, _PICTURE)
        sheet.paste(fitted, (x + (_TILE[0] - fitted.width) // 2, y + _PAD + (_PICTURE - fitted.height) // 2))
    below = y + _PAD + _PICTURE
    _lines(draw, wrapped(tile.hit.caption, 15, _PICTURE, 2), (x + _PAD, below + 8), 15, _INK)
    scores = "   ".join(f"{name} {value:.3f}" for name, value in tile.scores)
    draw.text((x + _PAD, below + 51), f"{tile.hit.rank}.  {scores}", _MARK, font(14))
    place = f"{tile.hit.shard}  {tile.hit.key}"
    draw.text((x + _PAD, below + 72), wrapped(place, 12, _PICTURE, 1)[0], _SOFT, font(12))


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    """Scaled so that its longer side is `side`."""
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _lines(draw: ImageDraw.ImageDraw, lines: Sequence[str], at: Point, size: int, fill: str) -> None:
    for i, line in enumerate(lines):
        draw.text((at[0], at[1] + i * (size + 5)), line, fill, font(size))


def wrapped(text: str, size: int, width: int, most: int) -> list[str]:
    """Text in at most `most` lines of `width` pixels, the last with an ellipsis if something is left over."""
    letters, lines, rest = font(size), list[str](), text
    while rest and len(lines) < most:
        fits = len(rest)
        while fits > 1 and letters.getlength(rest[:fits]) > width:
            fits -= 1
        space = rest.rfind(" ", 0, fits + 1)
        cut = fits if fits == len(rest) or space <= 0 else space
        lines.append(rest[:cut].strip())
        rest = rest[cut:].strip()
    if rest:
        last = lines[-1]
        while last and letters.getlength(last + "…") > width:
            last = last[:-1]
        lines[-1] = last.rstrip() + "…"
    return lines or [""]
