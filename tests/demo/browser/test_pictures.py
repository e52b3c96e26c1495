"""Pictures of one's own: marks without a known truth, and files that are no pictures."""

from __future__ import annotations

import re
import struct
import zlib

import pytest

from mmhall.images import open_image
from tests.demo.browser.visitor import expect
from tests.demo.conftest import PROMPT

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# Chromium's own lines about the refusal; the last is Gradio's, which prints what it could not read.
REFUSED = r"status of 413|gradio_api/upload_progress|console: Response \("


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def truncated(good):
    return good[: len(good) // 2]


def vast(good):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def text(good):
    return b"This is no picture."


def heavy(good):
    return good + bytes(30_000_000)


def api(embedded, path, *strategies):
    return [embedded.generate(open_image(path), PROMPT, spec, max_new_tokens=128).text for spec in strategies]


def test_bad_files_are_refused_in_plain_words_and_the_page_goes_on(visit, embedded, photo):
    visitor = visit()
    visitor.allowed.append(REFUSED)
    bad = photo.with_name("holiday.png")
    for spoil, why in (
        (truncated, "picture"),
        (vast, "limit of 25,000,000"),
        (text, "not a picture"),
        (heavy, "size of 10"),
    ):
        bad.write_bytes(spoil(photo.read_bytes()))
        visitor.upload(bad)
        expect(visitor.page.get_by_test_id("toast-text").first).to_be_visible()
        told = visitor.toast()
        assert re.search(why, told), spoil
        for secret in ("Traceback", "/tmp", "GRADIO", "mmhall-demo", str(photo.parent)):
            assert secret not in told
        if visitor.page.locator("#picture").get_by_role("button", name="Clear").count():
            visitor.page.locator("#picture").get_by_role("button", name="Clear").click()
        visitor.uploaded(photo)
    assert visitor.run() == api(embedded, photo, "greedy", "vcd")


def test_without_a_picture_run_says_what_to_do(visit):
    visitor = visit()
    visitor.page.locator("#picture").get_by_role("button", name="Remove Image").click()
    expect(visitor.page.locator("#present").get_by_role("checkbox")).to_have_count(0)
    visitor.page.get_by_role("button", name="Run", exact=True).click()
    assert "choose a scene or upload one" in visitor.toast()


def test_words_carry_a_signal_until_it_is_known_what_is_there(visit, embedded, photo):
    visitor = visit()
    visitor.uploaded(photo)
    assert visitor.run() == api(embedded, photo, "greedy", "vcd")
    leveled = visitor.page.locator("#answers .mm-level")
    assert leveled.count() == visitor.words(0).count() + visitor.words(1).count()
    assert visitor.page.locator("#answers .mm-supported, #answers .mm-hallucinated").count() == 0
    expect(visitor.page.locator("#legend")).to_contain_text("the picture adds nothing")
    levels = leveled.evaluate_all("nodes => nodes.map(node => +node.style.getPropertyValue('--level'))")
    assert min(levels) == 0
    assert max(levels) == 1
    boxes = visitor.page.locator("#present").get_by_role("checkbox")
    expect(boxes.first).not_to_be_checked()
    there = boxes.first.evaluate("node => node.closest('label').textContent.trim()")
    boxes.first.check()
    supported = visitor.page.locator("#answers .mm-supported")
    expect(supported.first).to_be_visible()
    assert all(there in title for title in supported.evaluate_all("nodes => nodes.map(node => node.title)"))
    expect(visitor.page.locator("#answers .mm-level")).to_have_count(0)
    expect(visitor.page.locator("#legend")).to_contain_text("in the picture")
    boxes.first.uncheck()
    expect(visitor.page.locator("#answers .mm-supported")).to_have_count(0)
    expect(visitor.page.locator("#answers .mm-level").first).to_be_visible()


def test_marks_change_with_what_words_are_marked_by(visit):
    visitor = visit()
    visitor.run()
    mode, legend = visitor.page.locator("#mode"), visitor.page.locator("#legend")
    for label, told in (
        ("picture's worth", "with the picture than without it"),
        ("attention on the picture", "Share of attention"),
        ("uncertainty", "undecided"),
    ):
        mode.get_by_role("radio", name=label, exact=True).check()
        expect(legend).to_contain_text(told)
        expect(visitor.page.locator("#answers .mm-hallucinated")).to_have_count(0)
        expect(visitor.page.locator("#answers .mm-level")).to_have_count(visitor.page.locator(".mm-word").count())
    mode.get_by_role("radio", name="objects named").check()
    expect(visitor.words(0, "boat")).to_have_class("mm-word mm-hallucinated")
    expect(visitor.page.locator("#answers .mm-level")).to_have_count(0)
