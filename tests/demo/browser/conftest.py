"""The page in this process, and visitors who come to it with a real browser; skipped where there is none."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from time import sleep

import pytest
from PIL import Image, ImageDraw

import mmhall
from mmhall.demo.compare import compare
from mmhall.demo.serve import Address, serving

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
VIEW = {"width": 1280, "height": 900}
TIMEOUT = 60_000  # milliseconds; a busy machine is slow, and what is wrong stays wrong
NAMES = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items):
    """Where nobody can look again, a browser has a second try; the summary counts those that needed it."""
    for item in items:
        if os.environ.get("CI") and item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def runs(disputed_root, tmp_path_factory) -> Path:
    """Runs, and one that cannot be read any more."""
    root = Path(shutil.copytree(disputed_root, tmp_path_factory.mktemp("some") / "runs"))
    (root / "torn").mkdir()
    (root / "torn" / "run.sqlite").write_bytes(b"no database")
    return root


@pytest.fixture(scope="session")
def url(embedded, runs):
    """Address of the page, which is open for all of these tests."""
    model: Future[mmhall.LVLM] = Future()
    model.set_result(embedded)
    with serving(model, Address(port=0), runs=runs) as address:
        yield address


@pytest.fixture(scope="package")  # no longer: the driver's event loop runs in this thread, where others start theirs
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("there is no Chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


def begun(chromium):
    """Begin a browser session."""
    session = chromium.new_context(viewport=VIEW, reduced_motion="reduce")
    session.set_default_timeout(TIMEOUT)
    return session


@pytest.fixture(scope="package")
def window(chromium):
    """Return what makes windows of one browser session; they share what was fetched, and nothing else."""
    session = begun(chromium)
    yield session.new_page
    session.close()


@contextmanager
def visiting(chromium, window, url):
    """Yield a function that comes to the page; each visitor must have met no error in the end."""
    from tests.demo.browser.visitor import Visitor

    visitors, sessions = [], []

    def come(stranger: bool = False) -> Visitor:
        if stranger:
            sessions.append(begun(chromium))
        visitors.append(Visitor(sessions[-1].new_page() if stranger else window()))
        return visitors[-1].open(url)

    yield come
    for visitor in visitors:
        visitor.page.close()
    for session in sessions:
        session.close()
    for visitor in visitors:
        visitor.check()


@pytest.fixture
def visit(chromium, window, url):
    """Come to the page; a stranger has a session of their own."""
    with visiting(chromium, window, url) as come:
        yield come


@pytest.fixture(scope="module")
def shared(chromium, window, url):
    """A visitor whom all tests of a module share, who leave what they set as it was."""
    with visiting(chromium, window, url) as come:
        yield come()


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


@pytest.fixture
def hold(monkeypatch):
    """Have comparisons wait at a moment, until they are let go."""

    def until(moment):
        let_go = Event()

        def slowly(*values, **named):
            for columns in compare(*values, **named):
                yield columns
                if moment(columns):
                    assert let_go.wait(60)

        monkeypatch.setattr("mmhall.demo.compare._UPDATE_EVERY", 0.0)  # so that no moment is passed over
        monkeypatch.setattr("mmhall.demo.compare_tab.compare", slowly)
        return let_go

    return until


@contextmanager
def unhurried():
    """Have comparisons tell often what they have, and leave the browser time to show it."""

    def slowly(*values, **named):
        for columns in compare(*values, **named):
            yield columns
            sleep(0.05)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mmhall.demo.compare._UPDATE_EVERY", 0.02)
        patched.setattr("mmhall.demo.compare_tab.compare", slowly)
        yield


@pytest.fixture
def endless(monkeypatch):
    """Have the next comparison not end before it is left; the event that is returned says that it was."""

    def begin():
        first, gone = iter([True]), Event()

        def without_end(lvlm, image, prompt, strategies, left, **settings):
            endless = next(first, False)
            try:
                for columns in compare(lvlm, image, prompt, strategies, left, **settings):
                    yield columns
                    while endless and columns[0].text and not left():
                        sleep(0.02)
                        yield columns
            finally:
                if endless:
                    gone.set()

        monkeypatch.setattr("mmhall.demo.compare_tab.compare", without_end)
        return gone

    return begin
