"""Measure how long a visitor waits: python -m tests.demo.browser.waits.

The page is started as people start it, and driven in a headless Chromium. Prints, as median and range over some starts
or clicks: from the command to a page that answers, to a loaded model, and from a click on Run to the first text and to
the last word of two and of four columns.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

STARTS, CLICKS = 3, 7
FIRST = "() => [...document.querySelectorAll('#answers .mm-answer')].some(one => one.innerText.trim())"
LAST = "count => document.querySelectorAll('#answers .mm-column.mm-is-done').length === count"


def told(what: str, seconds: Sequence[float]) -> None:
    middle = statistics.median(seconds)
    print(f"{what:<44} {middle:.2f} s ({min(seconds):.2f} to {max(seconds):.2f}, {len(seconds)} times)", flush=True)


def started() -> tuple[subprocess.Popen[str], str, float, float]:
    """Start the page; returns process, URL, and seconds to the page and to the model."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "mmhall", "demo", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    url = re.search(r"http\S+", process.stdout.readline()).group()  # type: ignore[union-attr]
    page = time.perf_counter() - began
    process.stdout.readline()
    return process, url, page, time.perf_counter() - began


def clicked(page: Page, count: int) -> tuple[float, float]:
    """Press Run on another scene; returns seconds to the first text and to the last word."""
    page.locator("#count").get_by_role("radio", name=str(count), exact=True).check()
    number = int(page.evaluate("() => window.tried = (window.tried || 0) + 1")) % 8
    page.locator("#scenes button").nth(number).click()
    page.wait_for_timeout(500)  # the picture is there, and the answers to the last one are gone
    began = time.perf_counter()
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_function(FIRST)
    first = time.perf_counter() - began
    page.wait_for_function(LAST, arg=count)
    return first, time.perf_counter() - began


def main() -> None:
    from playwright.sync_api import sync_playwright

    starts = []
    for number in range(STARTS):
        process, url, page, model = started()
        starts.append((page, model))
        if number < STARTS - 1:
            process.terminate()
            process.wait()
    told("from the command to a page that answers", [page for page, _ in starts])
    told("from the command to a loaded model", [model for _, model in starts])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        visitor = browser.new_page()
        visitor.goto(url)
        visitor.wait_for_selector("#run")
        for count in (2, 4):
            waits = [clicked(visitor, count) for _ in range(CLICKS)]
            told(f"from a click to the first text, {count} columns", [first for first, _ in waits])
            told(f"from a click to the last word, {count} columns", [last for _, last in waits])
        browser.close()
    process.terminate()
    process.wait()


if __name__ == "__main__":
    main()
