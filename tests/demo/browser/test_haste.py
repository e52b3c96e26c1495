"""People are faster than the page: what they did last counts, whatever is still on its way."""

from __future__ import annotations

import time
from concurrent.futures import Future
from functools import wraps

import pytest

from mmhall.demo import compare_tab, pickers
from mmhall.demo.serve import Address, serving
from tests.demo.browser.visitor import ANEW, Visitor, expect, said
from tests.demo.conftest import PROMPT

pytestmark = [pytest.mark.browser, pytest.mark.long]  # they wait, for what must not follow as well

BUSY = "beam(num_beams=16)"
QUESTION = "Is there a boat in the image?"


@pytest.fixture
def sluggish(monkeypatch):
    """The page takes its time over what people do before they press Run."""

    def slowly(work):
        @wraps(work)
        def late(*values):
            time.sleep(0.4)
            return work(*values)

        return late

    monkeypatch.setattr(compare_tab, "bundled_scenes", slowly(compare_tab.bundled_scenes))
    monkeypatch.setattr(pickers, "_join_strategies", slowly(pickers._join_strategies))
    monkeypatch.setattr(pickers, "_listed_choices", slowly(pickers._listed_choices))


def press(visitor, part="#run"):
    """Press a button without looking whether the page stands still."""
    box = visitor.page.locator(part).bounding_box()
    visitor.page.evaluate(ANEW)
    visitor.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, delay=120)


def writing(visitor):
    visitor.page.wait_for_function("() => mmhallSeen.some(([, columns]) => columns.some(([, letters]) => letters))")


def test_run_asks_what_was_chosen_last(visit, embedded, sluggish):
    visitor = visit()
    picker = visitor.page.locator("#strategy-2")
    visitor.fill(visitor.spec(2), "vdd(alpha=0.5)")
    press(visitor)
    assert visitor.finished() == said(embedded, 4, "greedy", "vdd(alpha=0.5)")
    expect(picker).to_contain_text("vdd")
    visitor.scene(3)
    visitor.scene(6)
    press(visitor)
    assert visitor.finished() == said(embedded, 6, "greedy", "vdd(alpha=0.5)")
    visitor.write(2, "vcd")
    expect(picker).to_contain_text("vcd")
    picker.get_by_role("combobox").click()
    for name in ("beam", "vhr"):
        visitor.page.get_by_role("option", name=name, exact=True).click()
    press(visitor)
    assert visitor.finished() == said(embedded, 6, "greedy", "vcd+beam+vhr")
    expect(visitor.spec(2)).to_have_value("vcd+beam+vhr")


def test_what_is_pressed_clicked_or_ticked_last_counts(shared, embedded):
    shared.write(1, BUSY)
    press(shared)
    writing(shared)
    shared.write(1, "greedy")
    shared.ask(QUESTION)
    press(shared)
    expect(shared.words(0, "Yes")).to_be_visible()
    assert shared.finished() == said(embedded, 4, "greedy", "vcd", prompt=QUESTION)
    shared.ask(PROMPT)
    shared.write(2, BUSY)
    shared.begin()
    writing(shared)
    bird = shared.page.locator("#present").get_by_role("checkbox", name="bird")
    bird.uncheck()
    shared.finished()
    expect(shared.page.locator("#present").get_by_role("checkbox", name="boat")).to_be_visible()
    expect(bird).not_to_be_checked()
    expect(shared.words(0, "bird")).to_have_class("mm-word mm-hallucinated")
    shared.words(0, "bird").click()
    shared.words(0, "beach").click()
    shared.looked(0, "beach")
    shared.page.wait_for_timeout(500)
    shared.looked(0, "beach")


def test_run_pressed_again_in_the_queue_asks_only_anew(shared, visit, embedded, hold):
    """The first is unfit and the second outdated by the time the model is free."""
    let_go = hold(lambda columns: columns[0].state == "waiting")
    visitor = visit()
    shared.begin()
    expect(shared.page.locator("#answers .mm-column:not(.mm-test-old)")).to_have_count(2)
    visitor.write(2, "vcdd")
    press(visitor)
    expect(visitor.page.locator("#status")).to_contain_text("queue")
    visitor.write(2, "vdd")
    press(visitor)
    visitor.ask(QUESTION)
    press(visitor)
    visitor.page.wait_for_timeout(300)
    let_go.set()
    answers = visitor.finished()
    assert answers == said(embedded, 4, "greedy", "vdd", prompt=QUESTION)
    visitor.page.wait_for_timeout(700)  # nothing follows
    longest = max(letters for _, columns in visitor.seen() for _, letters in columns)
    assert longest <= max(map(len, answers)) + len(" (not in the picture)")
    assert visitor.answers() == answers
    expect(visitor.page.get_by_test_id("toast-text")).to_have_count(0)
    a_word_clicked_while_others_are_written_is_looked_at(visitor, hold)


def a_word_clicked_while_others_are_written_is_looked_at(visitor, hold):
    visitor.ask(PROMPT)
    visitor.run()
    visitor.words(1, "bird").click()
    visitor.looked(1, "bird")
    let_go = hold(lambda columns: columns[1].state == "done" != columns[0].state)
    visitor.begin()
    expect(visitor.page.locator("#answers .mm-column.mm-is-done")).to_have_count(1)
    expect(visitor.page.locator("#saliency figure")).to_have_count(0)
    visitor.words(1, "bird").click()
    let_go.set()
    visitor.finished()
    visitor.looked(1, "bird")
    visitor.page.wait_for_timeout(500)  # it stays
    visitor.looked(1, "bird")


def test_what_is_typed_before_the_model_is_loaded_stays_and_choices_come_then(window, embedded):
    model = Future()
    with serving(model, Address(port=0)) as url:
        visitor = Visitor(window())
        page = visitor.page
        page.goto(url)
        expect(page.locator("#model")).to_contain_text("being loaded")
        field = visitor.spec(2)
        visitor.fill(field, "opera(num_attn_candidates=3)")
        field.blur()
        expect(page.locator("#strategy-2").get_by_role("button", name="Remove")).to_have_count(0)
        model.set_result(embedded)
        expect(page.locator("#model")).to_contain_text("M parameters")
        expect(page.locator("#strategy-2")).to_contain_text("opera")
        expect(page.get_by_role("spinbutton", name="opera: num_attn_candidates")).to_have_value("3")
        expect(field).to_have_value("opera(num_attn_candidates=3)")
        page.get_by_role("combobox", name="Strategy 1").click()
        expect(page.get_by_role("option", name="opera")).to_be_visible()
        page.close()
        visitor.check()
