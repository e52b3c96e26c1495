"""Answers are written side by side, are those of the Python API, and can be stopped or left; words show their maps."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from mmhall.demo.scenes import bundled_scenes
from mmhall.demo.view import data_url
from tests.demo.browser.conftest import unhurried
from tests.demo.browser.visitor import decoded, expect, said
from tests.demo.conftest import PROMPT

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SPECS = ("greedy", "gift", "vdd", "vhr")


@pytest.fixture(scope="module")
def answered(shared):
    """The page with an answered comparison of four, of the scene that is open at first."""
    for count in (3, 4):
        shared.columns(count)
        expect(shared.page.get_by_role("combobox", name=f"Strategy {count}")).to_be_visible()
        expect(shared.page.locator("#pickers").get_by_role("combobox")).to_have_count(count)
    shared.write(2, "gift")
    with unhurried():
        shared.run()
    return shared


def wait_for_letters(visitor, count):
    visitor.page.wait_for_function("count => mmhallSeen.some(([, columns]) => columns[0][1] > count)", arg=count)


def test_answers_are_written_at_once_and_are_those_of_the_api(answered, embedded):
    answers = answered.answers()
    assert answers == said(embedded, 4, *SPECS)
    assert answered.page.locator("#answers .mm-column h3 bdi").all_inner_texts() == list(SPECS)
    growing = [[length for state, length in columns if state == "writing"] for _, columns in answered.seen()]
    together = [lengths for lengths in growing if len(lengths) == len(SPECS) and all(lengths)]
    assert len(together) >= 2, "all grow, not one after the other"
    for column, answer in enumerate(answers):
        lengths = [lengths[column] for lengths in together]
        assert len(set(lengths)) >= 2
        assert lengths == sorted(lengths)
        assert max(lengths) < len(answer)


def test_words_are_marked_as_there_or_made_up_and_in_words_too(answered):
    first, _, third, _ = answered.answers()
    assert "boat" in first
    assert "boat" not in third
    boat = answered.words(0, "boat")
    expect(boat).to_have_class("mm-word mm-hallucinated")
    assert boat.text_content() == "boat (not in the picture)"
    expect(boat.locator(".mm-unseen")).to_have_css("position", "absolute")
    for column in (0, 2):
        for name in ("bird", "surfboard"):
            expect(answered.words(column, name).first).to_have_class("mm-word mm-supported")
    assert answered.words(2).locator("xpath=self::*[contains(@class, 'mm-hallucinated')]").count() == 0
    expect(answered.page.locator("#legend")).to_contain_text("not in the picture: hallucinated")
    expect(answered.page.locator("#answers .mm-column").nth(0)).to_contain_text("made up: boat")


def test_marks_change_with_what_words_are_marked_by(answered):
    mode, legend = answered.page.locator("#mode"), answered.page.locator("#legend")
    for label, told in (
        ("picture's worth", "with the picture than without it"),
        ("attention on the picture", "Share of attention"),
        ("uncertainty", "undecided"),
    ):
        mode.get_by_role("radio", name=label, exact=True).check()
        expect(legend).to_contain_text(told)
        expect(answered.page.locator("#answers .mm-hallucinated")).to_have_count(0)
        expect(answered.page.locator("#answers .mm-level")).to_have_count(answered.page.locator(".mm-word").count())
    mode.get_by_role("radio", name="objects named").check()
    expect(answered.words(0, "boat")).to_have_class("mm-word mm-hallucinated")
    expect(answered.page.locator("#answers .mm-level")).to_have_count(0)


def test_time_rate_and_ratio_are_shown(answered):
    first, second = (answered.page.locator("#answers .mm-column").nth(column).locator("dl") for column in (0, 1))
    for facts in (first, second):
        assert float(facts.locator("div", has_text="time").first.locator("dd").inner_text().split()[0]) > 0
        assert float(facts.locator("div", has_text="tokens per second").locator("dd").inner_text()) > 0
    expect(first).not_to_contain_text("time per token")
    assert float(second.locator("div", has_text="time per token").locator("dd").inner_text().rstrip("×")) > 0


def test_another_word_by_click_keyboard_or_slider_gives_another_map(answered):
    answered.words(0, "bird").click()
    bird = answered.looked(0, "bird")
    number = answered.page.get_by_role("spinbutton", name=re.compile("number input for Word"))
    expect(number).to_have_value("4")
    expect(answered.words(0, "bird")).to_have_attribute("aria-selected", "true")
    answered.words(0, "beach").click()
    beach = answered.looked(0, "beach", bird)
    assert len(bird) == len(beach) == len(SPECS)
    assert all(one != other for one, other in zip(bird, beach, strict=True))
    expect(answered.words(0, "bird")).to_have_attribute("aria-selected", "false")
    answered.page.keyboard.press("Home")
    for _ in range(4):
        answered.page.keyboard.press("ArrowRight")
    answered.page.keyboard.press("Enter")
    assert answered.looked(0, "bird", beach) == bird
    expect(answered.words(0, "bird")).to_have_attribute("aria-selected", "true")
    expect(answered.words(0, "bird")).to_be_focused()
    answered.fill(number, "7")
    number.press("Enter")
    book = answered.looked(0, "book", bird)
    expect(answered.words(0).nth(7)).to_have_attribute("aria-selected", "true")
    expect(answered.words(0).nth(4)).to_have_attribute("aria-selected", "false")
    answered.words(0, "book").nth(1).click()  # said twice
    assert answered.looked(0, "book", book)[0] != book[0]


def test_words_are_reached_with_tab_one_stop_a_column(answered):
    stops = answered.page.locator("#answers .mm-word[tabindex='0']")
    expect(stops).to_have_count(len(SPECS))
    stops.first.focus()
    answered.page.keyboard.press("Tab")
    expect(stops.nth(1)).to_be_focused()
    answered.page.keyboard.press("Home")
    answered.page.keyboard.press("Space")
    answered.looked(1, answered.words(1).first.text_content())
    expect(answered.page.locator("#word")).to_contain_text("Word of column 2")


def test_the_map_is_what_the_trace_draws_of_all_or_of_one_layer_and_head(answered, embedded):
    answered.words(0, "boat").click()
    every = answered.looked(0, "boat")
    told = answered.page.locator("#saliency figcaption").first.inner_text()
    answered.pick("Layers", "layer 3")
    layer = answered.looked(0, "boat", every)
    answered.pick("Heads", "head 1")
    head = answered.looked(0, "boat", layer)
    trace = embedded.trace(bundled_scenes()[4].scene.image, PROMPT, "greedy", max_new_tokens=128)
    word = next(word for word in trace.words if word.text == "boat")
    other = decoded(data_url(trace.overlay(trace.words[0].tokens)))
    for url, how in ((every[0], {}), (layer[0], {"layers": [3]}), (head[0], {"layers": [3], "heads": [1]})):
        shown, wanted = decoded(url), decoded(data_url(trace.overlay(word.tokens, **how)))
        assert shown.shape == wanted.shape
        assert np.abs(shown - wanted).mean() < 1 < np.abs(shown - other).mean()
    assert f"{trace.token_attention(word.tokens).sum():.0%} of its attention" in told
    for part in ("layers", "heads"):
        answered.page.locator(f"#{part}").get_by_role("button", name=re.compile("^Remove")).first.click()
    answered.page.wait_for_function(
        "url => document.querySelector('#saliency figure > img').src === url", arg=every[0], polling=50
    )


def test_a_column_that_did_not_write_the_word_says_so(answered):
    answered.words(0, "boat").click()
    without = answered.looked(0, "boat")[2]
    figure = answered.page.locator("#saliency figure").nth(2)
    expect(figure.locator("figcaption")).to_contain_text("does not write “boat”")
    assert figure.locator("img").get_attribute("alt") == "the picture, without heat"
    plain = decoded(data_url(bundled_scenes()[4].scene.image))
    assert np.abs(decoded(without) - plain).mean() < 1


def test_what_a_strategy_found_is_shown_beside_it(answered):
    answered.words(0, "bird").first.click()
    answered.looked(0, "bird")
    for column, title in ((1, "Saliency"), (3, "Head gains")):
        details = answered.page.locator("#saliency figure").nth(column).locator("details")
        expect(details.locator("summary")).to_have_text(title)
        expect(details.locator("img")).not_to_be_visible()
        details.locator("summary").click()
        expect(details.locator("img")).to_be_visible()
        assert details.locator("img").get_attribute("alt")
        assert Image.fromarray(decoded(details.locator("img").get_attribute("src")).astype(np.uint8)).width > 100


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
    screen_readers_hear_of(visitor, [visitor.words(0).nth(number) for number in (3, 4)])
    assert visitor.page.locator("#saliency figure").count() == 2
    visitor.write(2, "vdd")
    assert visitor.run() == said(embedded, 5, "greedy", "vdd")
    assert visitor.states() == ["done", "done"]


def screen_readers_hear_of(visitor, words):
    """Look at words that nobody has looked at, in the same region, since a new one would not be read out."""
    region = visitor.page.locator("#saliency").get_by_role("status")
    expect(region).to_have_text("")
    region.evaluate("node => { node.here = true; }")
    for word in words:
        text = word.text_content().partition(" (")[0]
        word.click()
        visitor.looked(0, text)
        captions = visitor.page.locator("#saliency figcaption .mm-number").count()
        expect(region).to_contain_text(re.compile(rf"1, greedy: “{text}”, \d+% of its attention.*{captions}, vcd: "))
        assert region.evaluate("node => node.here")


@pytest.mark.long  # loads the page three times
def test_two_visitors_get_their_own_answers_and_closed_tabs_free_the_model(visit, embedded, endless):
    one, other, last = visit(), visit(stranger=True), visit()
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
    gone = endless()
    one.begin()
    wait_for_letters(one, 1)
    other.begin()
    expect(other.page.locator("#status")).to_contain_text("queue")
    one.page.close()
    other.page.close()
    assert last.run() == said(embedded, 4, "greedy", "vcd")
    assert gone.is_set()
