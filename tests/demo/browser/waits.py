"""Measure how long a visitor waits: python -m tests.demo.browser.waits.

The page is started as people start it, and driven in a headless Chromium. Prints, as median and range over some starts
or clicks: from the command to a page that answers, to a loaded model, from a click on Run to the first text and to the
last word of two and of four columns, and from the last of 15 words passed within 1.5 s to its map.
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
COLUMNS = ("greedy", "vdd", "vcd", "vhr")
RUN = """async () => {
  const {state} = await import("./static/page.js"), began = performance.now();
  const until = async there => {
    while (!there()) await new Promise(done => setTimeout(done, 5));
    return (performance.now() - began) / 1000;
  };
  document.getElementById("run").click();
  return [await until(() => state.records.some(record => record.text)), await until(() => !state.running)];
}"""
HOVER = """async () => {
  const words = [...document.querySelectorAll(".mm-word")].slice(0, 15);
  const pause = time => new Promise(done => setTimeout(done, time));
  for (const word of words) {
    await pause(100);
    word.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
  }
  const began = performance.now();
  while (!document.getElementById("caption").textContent.startsWith(`“${words.at(-1).textContent}”`)) await pause(1);
  await new Promise(requestAnimationFrame);
  return (performance.now() - began) / 1000;
}"""


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


def clicked(page: Page, count: int, number: int) -> tuple[float, float]:
    """Press Run on another scene; returns seconds to the first text and to the last word."""
    load = "setup => import('./static/page.js').then(({load}) => load(setup))"
    page.evaluate(load, {"picture": {"scene": number}, "strategies": COLUMNS[:count]})
    page.wait_for_timeout(500)  # the picture is there, and nobody is busy
    first, last = page.evaluate(RUN)
    page.wait_for_timeout(1500)  # the maps have come
    return first, last


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
        visitor.wait_for_selector("#presets button")
        for count in (2, 4):
            waits = [clicked(visitor, count, number) for number in range(CLICKS)]
            told(f"from a click to the first text, {count} columns", [first for first, _ in waits])
            told(f"from a click to the last word, {count} columns", [last for _, last in waits])
        told("from the 15th word passed to its map", [visitor.evaluate(HOVER) for _ in range(CLICKS)])
        browser.close()
    process.terminate()
    process.wait()


if __name__ == "__main__":
    main()
