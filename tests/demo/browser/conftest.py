"""The page in this process, and visitors who come to it with a real browser; skipped where there is none."""

from __future__ import annotations

import shutil
from concurrent.futures import Future

import pytest
from PIL import Image, ImageDraw

import mmhall

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def url(disputed_root):
    """Address of a page with a model of its own, so that the tests may use theirs at the same time."""
    from mmhall.demo.serve import Address, serving

    model: Future[mmhall.LVLM] = Future()
    with serving(model, Address(port=0), runs=disputed_root) as address:
        model.set_result(mmhall.load("embedded", device="cpu"))
        yield address


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("there is no Chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, url):
    """Come to the page; each visitor has a browser context of their own, and must have met no error in the end."""
    from tests.demo.browser.visitor import Visitor

    visitors = []

    def come(**options) -> Visitor:
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, **options)
        visitors.append(Visitor(context.new_page()))
        return visitors[-1].open(url)

    yield come
    for visitor in visitors:
        visitor.page.context.close()
    for visitor in visitors:
        visitor.check()


@pytest.fixture
def photo(tmp_path):
    """A picture of one's own: no scene, not square."""
    path = tmp_path / "photo.png"
    picture = Image.new("RGB", (320, 200), "#88bbdd")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 130, 320, 200), fill="#557733")
    draw.ellipse((60, 60, 150, 150), fill="#cc3322")
    picture.save(path)
    return path
