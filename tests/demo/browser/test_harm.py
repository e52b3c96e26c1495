"""Text is text, whatever it holds; the page fits a phone and says who it is to those who do not see it."""

from __future__ import annotations

import pytest

from mmhall.demo.scenes import bundled_scenes
from tests.demo.browser.visitor import expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def runs(disputed_root):
    return disputed_root


HARM = "<script>alert(1)</script> **bold** <img src=x onerror=alert(2)> \u202eexe.cod שלום"


def overflow(visitor):
    return visitor.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_a_prompt_is_text(visit, embedded):
    visitor = visit()
    visitor.ask(HARM)
    wanted = [
        embedded.generate(bundled_scenes()[4].scene.image, HARM, s, max_new_tokens=128).text for s in ("greedy", "vcd")
    ]
    assert visitor.run() == wanted
    visitor.words(0).first.click()
    visitor.looked(0, visitor.words(0).first.text_content().partition(" (")[0])
    visitor.unfold("Share and reproduce")
    expect(visitor.page.locator("#setup")).to_contain_text("<script>alert(1)</script> **bold**")
    assert visitor.page.locator("img[src='x']").count() == 0


def test_a_strategy_that_is_markup_is_shown_as_text(visit):
    visitor = visit()
    visitor.write(2, "<img src=x onerror=alert(2)>\u202e**b**")
    visitor.page.get_by_role("button", name="Run", exact=True).click()
    told = visitor.toast()
    assert "<img src=x onerror=alert(2)>" in told
    assert "\u202e" not in told
    visitor.write(2, "vdd")
    visitor.run()
    assert visitor.states() == ["done", "done"]


def test_objects_that_are_markup_are_shown_as_text(visit):
    visitor = visit()
    visitor.tab("Probe")
    visitor.fill(visitor.page.locator("#objects textarea"), "<img src=x onerror=alert(3)>, **dog**")
    visitor.page.locator("#ask").click()
    heads = visitor.page.locator("#probe tbody th")
    expect(heads.first).to_have_text("<img src=x onerror=alert(3)>")
    expect(heads.nth(1)).to_have_text("**dog**")
    expect(visitor.page.locator("#probe tfoot td").nth(1)).not_to_have_text("–")


def test_nothing_is_wider_than_a_phone(visit):
    visitor = visit()

    def check():
        for theme in ("light", "dark"):
            visitor.page.emulate_media(color_scheme=theme)
            visitor.page.wait_for_function(
                "dark => document.body.classList.contains('dark') === dark", arg=theme == "dark"
            )
            assert overflow(visitor) == 0

    visitor.page.set_viewport_size({"width": 390, "height": 800})
    check()
    visitor.columns(4)
    visitor.run()
    visitor.words(0, "boat").click()
    visitor.looked(0, "boat")
    visitor.unfold("Share and reproduce")
    expect(visitor.page.locator("#downloads a").first).to_be_visible()
    check()
    visitor.tab("Probe")
    visitor.page.locator("#suggest").click()
    expect(visitor.page.locator("#objects textarea")).not_to_have_value("")
    visitor.page.locator("#ask").click()
    expect(visitor.page.locator("#probe tfoot tr").last.locator("td").nth(3)).to_contain_text("%")
    check()
    visitor.tab("Runs")
    visitor.pick("Run", "first")
    expect(visitor.page.locator("#items .mm-card").first).to_be_visible()
    check()


def test_every_picture_and_field_has_a_name(visit):
    visitor = visit()
    visitor.run()
    visitor.words(0, "boat").click()
    visitor.looked(0, "boat")
    for place in ("#scenes", "#saliency"):
        alts = visitor.page.locator(f"{place} img").evaluate_all("nodes => nodes.map(node => node.alt)")
        assert alts
        assert all(alts)
    for role in ("textbox", "combobox", "spinbutton", "radio", "checkbox"):
        for field in visitor.page.get_by_role(role).all():
            named = field.evaluate("n => n.ariaLabel || n.labels?.[0]?.textContent.trim() || n.title || ''")
            assert named, field.evaluate("node => node.outerHTML")
