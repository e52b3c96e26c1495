"""Answers are written side by side as they come, are those of the Python API, and can be stopped or left."""

from __future__ import annotations

import pytest

from tests.demo.browser.visitor import expect, said

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def wait_for_letters(visitor, count):
    visitor.page.wait_for_function("count => mmhallSeen.some(([, columns]) => columns[0][1] > count)", arg=count)


def test_two_answers_are_written_at_once_and_are_those_of_the_api(visit, embedded, unhurried):
    visitor = visit()
    answers = visitor.run()
    assert answers == said(embedded, 4, "greedy", "vcd")
    growing = [[length for state, length in columns if state == "writing"] for _, columns in visitor.seen()]
    both = [lengths for lengths in growing if len(lengths) == 2 and all(lengths)]
    assert len(both) >= 2, "both grow, not one after the other"
    for column in (0, 1):
        lengths = [lengths[column] for lengths in both]
        assert len(set(lengths)) >= 2
        assert lengths == sorted(lengths)
        assert max(lengths) < len(answers[column])


def test_words_are_marked_as_there_or_made_up_and_in_words_too(visit):
    visitor = visit()
    visitor.write(2, "vdd")
    first, second = visitor.run()
    assert "boat" in first
    assert "boat" not in second
    boat = visitor.words(0, "boat")
    expect(boat).to_have_class("mm-word mm-hallucinated")
    assert boat.text_content() == "boat (not in the picture)"
    expect(boat.locator(".mm-unseen")).to_have_css("position", "absolute")
    for column in (0, 1):
        for name in ("bird", "surfboard"):
            expect(visitor.words(column, name).first).to_have_class("mm-word mm-supported")
    assert visitor.words(1).locator("xpath=self::*[contains(@class, 'mm-hallucinated')]").count() == 0
    expect(visitor.page.locator("#legend")).to_contain_text("not in the picture: hallucinated")
    expect(visitor.page.locator("#answers .mm-column").nth(0)).to_contain_text("made up: boat")


def test_time_rate_and_ratio_are_shown(visit):
    visitor = visit()
    visitor.run()
    first, second = (visitor.page.locator("#answers .mm-column").nth(column).locator("dl") for column in (0, 1))
    for facts in (first, second):
        assert float(facts.locator("div", has_text="time").first.locator("dd").inner_text().split()[0]) > 0
        assert float(facts.locator("div", has_text="tokens per second").locator("dd").inner_text()) > 0
    expect(first).not_to_contain_text("time per token")
    assert float(second.locator("div", has_text="time per token").locator("dd").inner_text().rstrip("×")) > 0


def test_stop_keeps_what_was_said_and_the_page_goes_on(visit, embedded, hold):
    visitor = visit()
    visitor.scene(5)
    let_go = hold(lambda columns: len(columns[0].text) > 30)
    visitor.begin()
    wait_for_letters(visitor, 30)
    with visitor.page.expect_response("**/run/predict"):
        visitor.page.locator("#stop").click()
    let_go.set()
    (greedy, *_) = visitor.finished()
    assert visitor.states() == ["stopped", "stopped"]
    expect(visitor.page.locator("#answers .mm-is-stopped .mm-state").first).to_have_text("stopped")
    (whole,) = said(embedded, 5, "greedy")
    assert 30 < len(greedy) < 60
    assert whole.startswith(greedy)
    word = visitor.words(0).nth(4)
    word.click()
    visitor.looked(0, word.text_content())
    assert visitor.page.locator("#saliency figure").count() == 2
    visitor.write(2, "vdd")
    assert visitor.run() == said(embedded, 5, "greedy", "vdd")
    assert visitor.states() == ["done", "done"]


def test_two_visitors_at_once_get_their_own_answers(visit, embedded):
    one, other = visit(stranger=True), visit(stranger=True)
    one.scene(2)
    other.scene(6)
    other.write(1, "vhr")
    other.write(2, "vdd")
    expect(one.page.locator("#present")).to_contain_text("backpack")
    expect(other.page.locator("#present")).to_contain_text("bench")
    one.begin()
    other.begin()
    assert one.finished() == said(embedded, 2, "greedy", "vcd")
    assert other.finished() == said(embedded, 6, "vhr", "vdd")


def test_tabs_that_are_closed_free_the_model(visit, embedded, endless):
    writing, waiting, last = visit(), visit(), visit()
    writing.begin()
    wait_for_letters(writing, 1)
    waiting.begin()
    expect(waiting.page.locator("#status")).to_contain_text("queue")
    writing.page.close()
    waiting.page.close()
    assert last.run() == said(embedded, 4, "greedy", "vcd")
    assert endless.is_set()
    assert last.run() == said(embedded, 4, "greedy", "vcd")
