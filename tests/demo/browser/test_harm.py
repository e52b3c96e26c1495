"""Text is text, and files that are no pictures are refused; the page fits a phone and says who it is to the blind."""

from __future__ import annotations

import re
import struct
import zlib

import pytest

from mmhall.images import open_image
from tests.demo.browser.visitor import expect, said
from tests.demo.conftest import PROMPT

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HARM = "<script>alert(1)</script> **bold** <img src=x onerror=alert(2)> \u202eexe.cod שלום"

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


def test_prompts_strategies_and_objects_that_are_markup_are_text(visit, embedded):
    visitor = visit()
    visitor.write(2, "<img src=x onerror=alert(2)>\u202e**b**")
    visitor.page.get_by_role("button", name="Run", exact=True).click()
    told = visitor.toast()
    assert "<img src=x onerror=alert(2)>" in told
    assert "\u202e" not in told
    visitor.write(2, "vdd")
    visitor.ask(HARM)
    assert visitor.run() == said(embedded, 4, "greedy", "vdd", prompt=HARM)
    assert visitor.states() == ["done", "done"]
    visitor.words(0).first.click()
    visitor.looked(0, visitor.words(0).first.text_content().partition(" (")[0])
    visitor.unfold("Share and reproduce")
    expect(visitor.page.locator("#setup")).to_contain_text("<script>alert(1)</script> **bold**")
    visitor.tab("Probe")
    visitor.fill(visitor.page.locator("#objects textarea"), "<img src=x onerror=alert(3)>, **dog**")
    visitor.page.locator("#ask").click()
    heads = visitor.page.locator("#probe tbody th")
    expect(heads.first).to_have_text("<img src=x onerror=alert(3)>")
    expect(heads.nth(1)).to_have_text("**dog**")
    expect(visitor.page.locator("#probe tfoot td").nth(1)).not_to_have_text("–")
    assert visitor.page.locator("img[src='x']").count() == 0


def test_bad_files_are_refused_and_ones_own_picture_is_asked_about(visit, embedded, photo):
    visitor = visit()
    visitor.page.locator("#picture").get_by_role("button", name="Remove Image").click()
    expect(visitor.page.locator("#present").get_by_role("checkbox")).to_have_count(0)
    visitor.page.get_by_role("button", name="Run", exact=True).click()
    assert "choose a scene or upload one" in visitor.toast()
    bad_files_are_refused_in_plain_words(visitor, photo)
    assert visitor.run() == api(embedded, photo, "greedy", "vcd")
    words_carry_a_signal_until_it_is_known_what_is_there(visitor)


def bad_files_are_refused_in_plain_words(visitor, photo):
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


def words_carry_a_signal_until_it_is_known_what_is_there(visitor):
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


def overflow(visitor):
    return visitor.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def nothing_is_wider(visitor):
    for theme in ("light", "dark"):
        visitor.page.emulate_media(color_scheme=theme)
        visitor.page.wait_for_function("dark => document.body.classList.contains('dark') === dark", arg=theme == "dark")
        assert overflow(visitor) == 0


def every_picture_and_field_has_a_name(visitor):
    for place in ("#scenes", "#saliency"):
        alts = visitor.page.locator(f"{place} img").evaluate_all("nodes => nodes.map(node => node.alt)")
        assert alts
        assert all(alts)
    for role in ("textbox", "combobox", "spinbutton", "radio", "checkbox"):
        for field in visitor.page.get_by_role(role).all():
            named = field.evaluate("n => n.ariaLabel || n.labels?.[0]?.textContent.trim() || n.title || ''")
            assert named, field.evaluate("node => node.outerHTML")


def test_nothing_is_wider_than_a_phone_and_everything_has_a_name(visit):
    visitor = visit()
    visitor.page.set_viewport_size({"width": 390, "height": 800})
    nothing_is_wider(visitor)
    visitor.columns(4)
    expect(visitor.page.locator("#pickers").get_by_role("combobox")).to_have_count(4)
    visitor.run()
    visitor.words(0, "boat").click()
    visitor.looked(0, "boat")
    every_picture_and_field_has_a_name(visitor)
    visitor.unfold("Share and reproduce")
    expect(visitor.page.locator("#downloads a").first).to_be_visible()
    nothing_is_wider(visitor)
    visitor.tab("Probe")
    visitor.page.locator("#suggest").click()
    expect(visitor.page.locator("#objects textarea")).not_to_have_value("")
    visitor.page.locator("#ask").click()
    expect(visitor.page.locator("#probe tfoot tr").last.locator("td").nth(3)).to_contain_text("%")
    nothing_is_wider(visitor)
    visitor.tab("Runs")
    visitor.pick("Run", "first")
    expect(visitor.page.locator("#items .mm-card").first).to_be_visible()
    nothing_is_wider(visitor)
