"""A contact sheet of searches: one HTML page with the pictures in it, and one PNG. Neither needs a network."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from pipeline.errors import InputError
from pipeline.retrieval.contact import contact_sheet
from pipeline.retrieval.panels import Panel

TITLE = "bridgelake"


def page(panels: Sequence[Panel], title: str = TITLE) -> str:
    """The sheet as one HTML page; all text in it is escaped."""
    return templates().get_template("sheet.html").render(title=title, panels=panels)


def templates(*folders: Path) -> Environment:
    """The templates of this folder, and of others beside it; whatever they show is escaped."""
    loader = FileSystemLoader([Path(__file__).parent, *folders])
    return Environment(loader=loader, autoescape=True, trim_blocks=True)


def write_sheet(panels: Sequence[Panel], html: Path | None, png: Path | None, title: str = TITLE) -> None:
    """Write the page, the PNG, or both.

    Raises:
        InputError: a file cannot be written.
    """
    try:
        if html:
            html.write_text(page(panels, title), encoding="utf-8")
        if png:
            contact_sheet(panels, title).save(png, "PNG", optimize=True)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or html or png}: {error.strerror or error}") from error
