"""Somebody who uses the page in a real browser: what they do, what they see, and whatever goes wrong meanwhile."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import urlsplit

import pytest

from mmhall.demo.scenes import bundled_scenes

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=60_000)  # a busy machine is slow, and what is wrong stays wrong

INSIDE = """node => {
  const {left, top, width, height} = node.getBoundingClientRect(), x = left + width / 2, y = top + height / 2;
  const shown = x >= 0 && y >= 0 && x < innerWidth && y < innerHeight;
  return shown && (node.contains(document.elementFromPoint(x, y)) || document.elementFromPoint(x, y).contains(node));
}"""


@dataclass
class Visitor:
    """One browser window.

    Attributes:
        page: Of playwright.
        url: Address of the page.
        problems: Errors of the page and of its console.
        requests: Every address that was asked for.
    """

    page: sync_api.Page
    url: str
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.page.on("pageerror", lambda error: self.problems.append(f"{error.message} {error.stack}"))
        self.page.on(
            "console", lambda said: said.type == "error" and self.problems.append(f"{said.text} {said.location}")
        )
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, fragment: str = "") -> Visitor:
        """Come to the page and wait until it can be used."""
        self.page.goto(f"{self.url}{fragment}")
        expect(self.page.locator("#model")).to_contain_text("M parameters")
        expect(self.page.locator("#presets button").first).to_be_visible()
        return self

    def check(self):
        """Nothing went wrong, and nothing but this machine was asked."""
        assert self.problems == []
        places = {urlsplit(url).hostname for url in self.requests if not url.startswith(("data:", "blob:"))}
        assert places == {"127.0.0.1"}

    def find(self, selector: str, **named):
        return self.page.locator(selector, **named)

    def run(self):
        """Press Run, and wait until answers and maps are there."""
        self.find("#run").click()
        self.finished()

    def finished(self):
        expect(self.find("#run")).not_to_have_class(re.compile("running"))
        expect(self.find(".mm-word").first).to_be_visible()
        expect(self.find("#caption")).to_contain_text("Point at a word")
        self.page.evaluate(
            """async () => {
            const {state} = await import("./static/page.js");
            while (![...state.gazes.values()].every(Boolean)) await new Promise(done => setTimeout(done, 20));
        }"""
        )

    def column(self, letter: str):
        return self.find(f"#columns > section[aria-label='Column {letter}']")

    def words(self, letter: str, text: str | None = None):
        """Find the words of a column; only those of one text, if any."""
        found = self.column(letter).locator(".mm-word")
        return found if text is None else found.filter(has_text=re.compile(f"^{re.escape(text)}$"))

    def choose(self, letter: str, name: str, button: str = ".pick"):
        """Choose a strategy from the list that a button of a column opens, by typing it."""
        self.column(letter).locator(button).click()
        self.find("#sought").fill(name)
        expect(self.find("#offers [role=option][aria-selected=true] b")).to_have_text(name)
        self.page.keyboard.press("Enter")
        expect(self.find("#picker")).to_be_hidden()

    def scene(self, index: int):
        self.find("#scenes button").nth(index).click()
        expect(self.find("#scenes button").nth(index)).to_have_attribute("aria-checked", "true")

    def heat(self) -> str:
        """Return the heat map as it is drawn, as a data URL."""
        return self.find("#heat").evaluate("canvas => canvas.toDataURL()")

    def setup(self) -> dict:
        return self.page.evaluate("import('./static/page.js').then(({state}) => state.setup)")

    def inside(self, locator) -> bool:
        """Return whether the middle of an element is on the screen, and nothing lies over it."""
        return locator.evaluate(INSIDE)


@cache
def said(lvlm, index: int, strategy: str, prompt: str = "Please describe this image in detail.") -> str:
    """Return what the Python API says of a scene."""
    return lvlm.generate(bundled_scenes()[index].scene.image, prompt, strategy, max_new_tokens=128).text
