"""People are faster than the page: what they did last counts, whatever is still on its way."""

from __future__ import annotations

import pytest

from mmhall.benchmarks.scenes.world import NAMES
from mmhall.demo.scenes import bundled
from tests.demo.browser.visitor import Visitor, expect
from tests.demo.conftest import PROMPT

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def said(lvlm, index, *strategies, prompt=PROMPT):
    picture = bundled()[index].scene.image
    return [lvlm.generate(picture, prompt, spec, max_new_tokens=128).text for spec in strategies]


def press_run(visitor):
    """Press Run without looking whether the page stands still."""
    box = visitor.page.locator("#run").bounding_box()
    visitor.page.evaluate("() => { window.mmhallSeen = []; }")
    visitor.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, delay=120)


def test_run_asks_about_the_scene_that_was_chosen_last(visit, embedded):
    visitor = visit()
    for index in (2, 6, 0):
        visitor.scene(index)
        press_run(visitor)
        assert visitor.finished() == said(embedded, index, "greedy", "vcd")


def test_run_asks_the_strategy_that_was_typed_last(visit, embedded):
    visitor = visit()
    field = visitor.spec(2)
    for spec in ("vdd(alpha=0.5)", "beam", "vhr+vcd"):
        field.fill(spec)
        press_run(visitor)
        assert visitor.finished() == said(embedded, 4, "greedy", spec)
    expect(visitor.page.locator("#strategy-2")).to_contain_text("vhr")


def test_run_asks_the_strategy_that_was_chosen_last(visit, embedded):
    visitor = visit()
    visitor.choose(2)
    visitor.page.locator("#strategy-2").get_by_role("combobox").click()
    visitor.page.get_by_role("option", name="vdd", exact=True).click()
    press_run(visitor)
    assert visitor.finished() == said(embedded, 4, "greedy", "vdd")


def test_run_pressed_again_asks_anew(visit, embedded):
    visitor = visit()
    visitor.write(1, "beam(num_beams=16)")
    press_run(visitor)
    visitor.write(1, "greedy")
    visitor.ask("Is there a boat in the image?")
    press_run(visitor)
    answers = said(embedded, 4, "greedy", "vcd", prompt="Is there a boat in the image?")
    expect(visitor.words(0, "Yes")).to_be_visible()
    assert visitor.finished() == answers


def test_ask_pressed_again_asks_anew(visit):
    visitor = visit()
    visitor.write(1, "beam(num_beams=16)")  # asks object by object
    visitor.tab("Probe")
    objects, ask = visitor.page.locator("#objects textarea"), visitor.page.locator("#ask")
    objects.fill(", ".join(NAMES[:24]))
    ask.click()
    expect(visitor.page.locator("#probe tbody .mm-said").first).to_be_visible()
    objects.fill("bird, cup")
    ask.click()
    expect(visitor.page.locator("#probe tbody tr")).to_have_count(2)
    expect(visitor.page.locator("#probe tbody .mm-said")).to_have_count(4)


def test_what_is_typed_while_the_page_fills_itself_stays(window, url):
    visitor = Visitor(window())
    visitor.page.goto(url)
    visitor.page.locator("#pickers").get_by_role("button", name="Options").nth(1).click()
    field = visitor.page.locator("#spec-2 textarea")
    field.fill("opera(num_attn_candidates=3)")
    field.blur()
    expect(visitor.page.locator("#model")).to_contain_text("M parameters")
    expect(visitor.page.locator("#strategy-2")).to_contain_text("opera")
    expect(visitor.page.get_by_role("spinbutton", name="opera: num_attn_candidates")).to_have_value("3")
    visitor.page.wait_for_timeout(1000)
    expect(field).to_have_value("opera(num_attn_candidates=3)")
    expect(visitor.page.locator("#strategy-2")).to_contain_text("opera")
    visitor.page.close()
    visitor.check()
