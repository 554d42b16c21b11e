"""A report as a real browser shows it: nothing is fetched, all pictures are there, it fits a phone.

BRIDGELAKE_BROWSER names a Chromium (`.ci/browser` installs Debian's). The screenshots stay in `.ci/out`, which git
ignores.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.reports.report import reported
from tests.conftest import REPOSITORY
from tests.reports import hostile_lake, ran, summary

OUT = REPOSITORY / ".ci" / "out"
BROWSER = os.environ.get("BRIDGELAKE_BROWSER", "")
pytestmark = pytest.mark.skipif(not BROWSER, reason="BRIDGELAKE_BROWSER does not name a Chromium")

LOADED = "[...document.images].filter(i => i.complete && i.naturalWidth > 0 && i.clientWidth > 0).length"
DRAWN = (
    "[...document.querySelectorAll('.plot svg')].map(s => s.getBoundingClientRect()).filter(r => r.height > 100).length"
)
TEXTS = "[...document.querySelectorAll('.plot text')].map(t => t.getBoundingClientRect().height)"


class Shown:
    """A page in a browser, and what it did."""

    def __init__(self, page: object, url: str) -> None:
        self.page: object = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        page.goto(url)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    done = reported(ran(hostile_lake(folder)), summary(), print)
    return Path(done.report).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light")])
def test_report_opens_in_a_browser_without_a_network(browser: object, url: str, width: int, scheme: str) -> None:
    OUT.mkdir(exist_ok=True)
    screenshot = OUT / f"report-{width}-{scheme}.png"
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    shown = Shown(context.new_page(), url)
    page = shown.page
    assert [one for one in shown.requests if not one.startswith("data:")] == [url]
    assert shown.complaints == []
    assert page.evaluate(LOADED) == page.locator("img").count() == 18
    assert page.evaluate(DRAWN) == 6
    assert min(page.evaluate(TEXTS)) > 8, "letters in the plots are too small to read"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for words in ("incomplete", "torn.tar: it ends <early>", "<script>alert(1)</script>", "Best matching pairs"):
        assert page.get_by_text(words).first.is_visible(), words
    page.screenshot(path=screenshot, full_page=True)
    with Image.open(screenshot) as seen:
        corner = np.asarray(seen.convert("L"))[:5, :5].mean()
        assert seen.width == width
        assert (corner > 128) == (scheme == "light")
    context.close()
