"""The page in this process, on the embedded model, and visitors with a real browser; skipped where there is none."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Event

import pytest

from mmhall.demo.serve import Address, serving

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run")
NAMES = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = (1440, 900), (390, 844)


def pytest_collection_modifyitems(items):
    """Where nobody can look again, a browser has a second try; the summary counts those that needed it."""
    for item in items:
        if os.environ.get("CI") and item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def url(embedded, tmp_path_factory):
    """Address of the page, which is open for all of these tests."""
    model: Future = Future()
    model.set_result(embedded)
    with serving(model, Address(port=0), runs=tmp_path_factory.mktemp("runs")) as address:
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


@pytest.fixture
def visit(chromium, url):
    """Come to the page as somebody new; each visitor must have met no error in the end."""
    from tests.demo.browser.visitor import Visitor

    visitors = []

    def come(size=DESKTOP, scheme="light", fragment="") -> Visitor:
        session = chromium.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
        )
        visitors.append(Visitor(session.new_page(), url))
        return visitors[-1].open(fragment)

    yield come
    for visitor in visitors:
        visitor.page.context.close()
    for visitor in visitors:
        visitor.check()


@pytest.fixture(scope="module")
def asked(chromium, url):
    """A visitor to whom the first two strategies have answered; tests that use it leave the set-up as it was."""
    from tests.demo.browser.visitor import Visitor

    session = chromium.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]}, reduced_motion="reduce")
    visitor = Visitor(session.new_page(), url).open()
    visitor.run()
    yield visitor
    session.close()
    visitor.check()


@pytest.fixture
def held(monkeypatch):
    """Hold the model's next comparison once its first column has words, until the event is set."""
    from mmhall.demo import api

    @contextmanager
    def hold():
        let_go, compare = Event(), api.compare

        def slowly(*values, **named):
            for columns in compare(*values, **named):
                yield columns
                while columns[0].text and not let_go.wait(0.05) and not values[-1]():
                    yield columns

        with monkeypatch.context() as patched:
            patched.setattr(api, "compare", slowly)
            try:
                yield let_go
            finally:
                let_go.set()

    return hold
