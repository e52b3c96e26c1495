"""A word of an answer shows where each strategy looked: by click, by keyboard, by slider; as `Trace` draws it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from mmhall.demo.scenes import bundled_scenes
from mmhall.demo.view import data_url
from tests.demo.browser.visitor import decoded, expect
from tests.demo.conftest import PROMPT

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def answered(visit, *specs):
    """Compare on the scene that is open at first."""
    visitor = visit()
    for column, spec in enumerate(specs, 1):
        visitor.write(column, spec)
    visitor.run()
    return visitor


def test_another_word_by_click_or_keyboard_gives_another_map(visit):
    visitor = answered(visit)
    visitor.words(0, "bird").click()
    bird = visitor.looked(0, "bird")
    expect(visitor.words(0, "bird")).to_have_attribute("aria-selected", "true")
    visitor.words(0, "beach").click()
    beach = visitor.looked(0, "beach", bird)
    assert len(bird) == len(beach) == 2
    assert all(one != other for one, other in zip(bird, beach, strict=True))
    expect(visitor.words(0, "bird")).to_have_attribute("aria-selected", "false")
    visitor.page.keyboard.press("Home")
    for _ in range(4):
        visitor.page.keyboard.press("ArrowRight")
    visitor.page.keyboard.press("Enter")
    assert visitor.looked(0, "bird", beach) == bird
    expect(visitor.words(0, "bird")).to_have_attribute("aria-selected", "true")
    expect(visitor.words(0, "bird")).to_be_focused()


def test_words_are_reached_with_tab_one_stop_a_column(visit):
    visitor = answered(visit)
    stops = visitor.page.locator("#answers .mm-word[tabindex='0']")
    expect(stops).to_have_count(2)
    stops.first.focus()
    visitor.page.keyboard.press("Tab")
    expect(stops.nth(1)).to_be_focused()
    visitor.page.keyboard.press("Space")
    visitor.looked(1, "The")
    expect(visitor.page.locator("#word")).to_contain_text("Word of column 2")


def test_the_slider_walks_through_the_words(visit):
    visitor = answered(visit)
    visitor.words(0, "bird").click()
    bird = visitor.looked(0, "bird")
    number = visitor.page.get_by_role("spinbutton", name=re.compile("number input for Word"))
    expect(number).to_have_value("4")
    visitor.fill(number, "7")
    number.press("Enter")
    visitor.looked(0, "book", bird)
    expect(visitor.words(0).nth(7)).to_have_attribute("aria-selected", "true")
    expect(visitor.words(0).nth(4)).to_have_attribute("aria-selected", "false")


def test_the_map_is_what_the_trace_draws(visit, embedded):
    visitor = answered(visit)
    visitor.words(0, "boat").click()
    shown = decoded(visitor.looked(0, "boat")[0])
    picture = bundled_scenes()[4].scene.image
    trace = embedded.trace(picture, PROMPT, "greedy", max_new_tokens=128)
    word = next(word for word in trace.words if word.text == "boat")
    wanted, other = (decoded(data_url(trace.overlay(one.tokens))) for one in (word, trace.words[0]))
    assert shown.shape == wanted.shape
    assert np.abs(shown - wanted).mean() < 1 < np.abs(shown - other).mean()
    told = visitor.page.locator("#saliency figcaption").first.inner_text()
    assert f"{trace.token_attention(word.tokens).sum():.0%} of its attention" in told


def test_one_layer_and_one_head_are_what_the_trace_draws_of_them(visit, embedded):
    visitor = answered(visit)
    visitor.words(0, "boat").click()
    every = visitor.looked(0, "boat")
    visitor.pick("Layers", "layer 3")
    layer = visitor.looked(0, "boat", every)
    visitor.pick("Heads", "head 1")
    head = visitor.looked(0, "boat", layer)
    trace = embedded.trace(bundled_scenes()[4].scene.image, PROMPT, "greedy", max_new_tokens=128)
    word = next(word for word in trace.words if word.text == "boat")
    for url, how in ((layer[0], {"layers": [3]}), (head[0], {"layers": [3], "heads": [1]})):
        assert np.abs(decoded(url) - decoded(data_url(trace.overlay(word.tokens, **how)))).mean() < 1


def test_screen_readers_hear_of_each_map(visit):
    visitor = answered(visit)
    region = visitor.page.locator("#saliency").get_by_role("status")
    expect(region).to_have_text("")
    region.evaluate("node => { node.here = true; }")
    for word in ("bird", "beach"):
        visitor.words(0, word).click()
        visitor.looked(0, word)
        captions = visitor.page.locator("#saliency figcaption .mm-number").count()
        expect(region).to_contain_text(re.compile(rf"1, greedy: “{word}”, \d+% of its attention.*{captions}, vcd: "))
        assert region.evaluate("node => node.here")  # a new region would not be read out


def test_a_column_that_did_not_write_the_word_says_so(visit):
    visitor = answered(visit, "greedy", "vdd")
    visitor.words(0, "boat").click()
    _, without = visitor.looked(0, "boat")
    figure = visitor.page.locator("#saliency figure").nth(1)
    expect(figure.locator("figcaption")).to_contain_text("does not write “boat”")
    assert figure.locator("img").get_attribute("alt") == "the picture, without heat"
    plain = decoded(data_url(bundled_scenes()[4].scene.image))
    assert np.abs(decoded(without) - plain).mean() < 1


def test_a_word_said_twice_has_a_map_for_each(visit):
    visitor = answered(visit)
    visitor.words(0, "book").nth(0).click()
    first = visitor.looked(0, "book")
    visitor.words(0, "book").nth(1).click()
    assert visitor.looked(0, "book", first)[0] != first[0]


def test_what_a_strategy_found_is_shown_beside_it(visit):
    visitor = answered(visit, "vhr", "gift")
    visitor.words(0, "bird").first.click()
    visitor.looked(0, "bird")
    for column, title in enumerate(("Head gains", "Saliency")):
        details = visitor.page.locator("#saliency figure").nth(column).locator("details")
        expect(details.locator("summary")).to_have_text(title)
        expect(details.locator("img")).not_to_be_visible()
        details.locator("summary").click()
        expect(details.locator("img")).to_be_visible()
        assert details.locator("img").get_attribute("alt")
        assert Image.fromarray(decoded(details.locator("img").get_attribute("src")).astype(np.uint8)).width > 100
