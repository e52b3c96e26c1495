"""Somebody who uses the page in a real browser: what they do, what they see, and whatever goes wrong meanwhile."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from mmhall.demo.scenes import bundled_scenes
from tests.demo.browser.conftest import TIMEOUT
from tests.demo.conftest import PROMPT

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=TIMEOUT)

# Every state of the columns shown since Run was pressed: [[state, letters of the answer], ...], each with its time.
WATCH = """
window.mmhallSeen = [];
new MutationObserver(() => {
  const columns = [...document.querySelectorAll('#answers .mm-column:not(.mm-test-old)')].map(column => [
    column.className.split('mm-is-')[1], (column.querySelector('.mm-answer') || {textContent: ''}).textContent.length]);
  const last = window.mmhallSeen.at(-1);
  if (columns.length && (!last || JSON.stringify(last[1]) !== JSON.stringify(columns)))
    window.mmhallSeen.push([performance.now(), columns]);
}).observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
"""
# Run is about to be pressed: columns that stand there are old.
ANEW = """() => {
  window.mmhallSeen = [];
  document.querySelectorAll('#answers .mm-column').forEach(column => column.classList.add('mm-test-old'));
}"""
ANSWERED = """() => {
  const columns = [...document.querySelectorAll('#answers .mm-column')];
  const over = ['done', 'stopped', 'failed'].map(state => `mm-is-${state}`);
  return columns.length > 0 && columns.every(column =>
    !column.classList.contains('mm-test-old') && over.some(name => column.classList.contains(name)));
}"""
TEXTS = """nodes => nodes.map(node => {
  const copy = node.cloneNode(true);
  copy.querySelectorAll('.mm-unseen').forEach(part => part.remove());
  return copy.textContent.trim();
})"""
LOOKED = """([column, text, old]) => {
  const figures = [...document.querySelectorAll('#saliency figure')];
  const now = figures.map(figure => figure.querySelector(':scope > img').src);
  return figures.length > column && figures[column].textContent.includes(`“${text}”`)
    && !figures.some(figure => figure.textContent.includes('not read yet')) && JSON.stringify(now) !== old;
}"""


PAUSE = "() => new Promise(done => setTimeout(done, 200))"


@dataclass
class Visitor:
    """One browser window.

    Attributes:
        page: Of playwright.
        problems: Errors of the page and its console, and dialogs that opened.
        allowed: Patterns of problems that are meant to be.
        requests: Every address that was asked for.
    """

    page: sync_api.Page
    problems: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.page.add_init_script(WATCH)
        self.page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        self.page.on("console", self._heard)
        self.page.on("dialog", self._asked)
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, url: str) -> Visitor:
        self.page.goto(url)
        self.page.wait_for_function("() => !!window.mmhallWord", polling=50)
        expect(self.page.locator("#model")).to_contain_text("M parameters")
        return self

    def check(self):
        """Nothing went wrong, and nothing but this machine was asked."""
        meant = re.compile("|".join(self.allowed) or r"(?!)")
        assert [problem for problem in self.problems if not meant.search(problem)] == []
        places = {urlsplit(url).hostname for url in self.requests if not url.startswith(("data:", "blob:"))}
        assert places == {"127.0.0.1"}

    def begin(self):
        """Press Run."""
        self.page.evaluate(ANEW)
        self.page.get_by_role("button", name="Run", exact=True).click()

    def finished(self) -> list[str]:
        """Wait until all columns are done; returns what they say."""
        self.page.wait_for_function(ANSWERED, polling=50)
        return self.answers()

    def run(self) -> list[str]:
        self.begin()
        return self.finished()

    def answers(self) -> list[str]:
        return self.page.locator("#answers .mm-column .mm-answer").evaluate_all(TEXTS)

    def seen(self) -> list[tuple[float, list[tuple[str, int]]]]:
        """Return every state of the columns that was shown since Run was pressed, with its milliseconds."""
        return [(time, [tuple(column) for column in columns]) for time, columns in self.page.evaluate("mmhallSeen")]

    def states(self) -> list[str]:
        return [state for state, _ in self.seen()[-1][1]]

    def columns(self, count: int):
        self.page.locator("#count").get_by_role("radio", name=str(count), exact=True).check()

    def ask(self, prompt: str):
        self.fill(self.page.get_by_role("textbox", name="Prompt"), prompt)

    def fill(self, field, text: str):
        """Write into a field once it stands: Gradio gives one just drawn its first value again, 25 ms later."""
        expect(field).to_be_visible()
        self.page.evaluate(PAUSE)
        field.fill(text)

    def paste(self, text: str):
        """Put a text in place of the set-up that can be copied."""
        content = self.page.locator("#setup .cm-content")
        expect(content).to_be_visible()
        self.page.evaluate(PAUSE)
        content.click()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.insert_text(text)

    def spec(self, column: int):
        """Open the options of a column, 1-based; returns the field in which its strategy is written out."""
        written = self.page.locator(f"#spec-{column} textarea")
        if not written.is_visible():
            self.page.locator("#pickers").get_by_role("button", name="Options").nth(column - 1).click()
        return written

    def write(self, column: int, spec: str):
        """Type a strategy into a column, 1-based."""
        written = self.spec(column)
        self.fill(written, spec)
        written.blur()

    def choose(self, column: int, *names: str, clear: bool = True):
        """Choose the strategies of a column, 1-based, from the list."""
        picker = self.page.locator(f"#strategy-{column}")
        chips = picker.get_by_role("button", name=re.compile("^Remove"))
        while clear and chips.count():
            chips.first.click()
        for name in names:
            picker.get_by_role("combobox").click()
            self.page.get_by_role("option", name=name, exact=True).click()
        self.page.keyboard.press("Escape")
        picker.get_by_role("combobox").blur()  # the list opens once more only for who comes anew

    def pick(self, label: str, *options: str):
        """Choose from a list."""
        for option in options:
            self.page.get_by_role("combobox", name=label, exact=True).click()
            self.page.get_by_role("option", name=option, exact=True).click()
        self.page.keyboard.press("Escape")

    def unfold(self, name: str):
        self.page.get_by_role("button", name=name).click()

    def tab(self, name: str):
        self.page.get_by_role("tab", name=name, exact=True).click()

    def scene(self, index: int):
        self.page.locator(f"#scenes button[data-index='{index}']").click()

    def upload(self, path: Path):
        remove = self.page.locator("#picture").get_by_role("button", name="Remove Image")
        if remove.count():
            remove.click()
            expect(remove).to_have_count(0)
        self.page.locator("#picture input[type=file]").set_input_files(path)

    def uploaded(self, path: Path):
        """Upload a good picture, and wait until it is there."""
        self.upload(path)
        expect(self.page.locator("#picture").get_by_role("button", name="Remove Image")).to_be_visible()
        expect(self.page.locator("#present").get_by_role("checkbox")).to_have_count(0)

    def toast(self) -> str:
        """Wait for a message, read it and close it."""
        text = self.page.get_by_test_id("toast-text").first.inner_text()
        self.page.evaluate("document.querySelector('[data-testid=toast-close]')?.click()")  # it may be gone by now
        expect(self.page.get_by_test_id("toast-text")).to_have_count(0)
        return text

    def words(self, column: int, text: str | None = None):
        """Find the words of a column, 0-based; only those of one text, if any."""
        found = self.page.locator(f"#answers .mm-word[data-column='{column}']")
        return found if text is None else found.filter(has_text=re.compile(rf"^{re.escape(text)}\b"))

    def heat(self) -> list[str]:
        return self.page.locator("#saliency figure > img").evaluate_all("nodes => nodes.map(node => node.src)")

    def looked(self, column: int, text: str, before: list[str] | None = None) -> list[str]:
        """Wait for the maps of a word, and for others than before, if given; returns their addresses."""
        old = json.dumps(before, separators=(",", ":"), ensure_ascii=False) if before else ""
        self.page.wait_for_function(LOOKED, arg=[column, text, old], polling=50)
        return self.heat()

    def _heard(self, message):
        if message.type == "error":
            self.problems.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _asked(self, dialog):
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()


def said(lvlm, index, *strategies, prompt=PROMPT, **settings):
    """What the Python API says of a scene."""
    return [_said(lvlm, index, spec, prompt, **{"max_new_tokens": 128, **settings}) for spec in strategies]


@cache
def _said(lvlm, index, spec, prompt, **settings):
    return lvlm.generate(bundled_scenes()[index].scene.image, prompt, spec, **settings).text


def decoded(url: str) -> np.ndarray:
    """Return the picture of a data URL."""
    data = base64.b64decode(url.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float)
