"""Strategies are chosen and set by form, compared by up to four, taken along as a set-up and loaded again."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from concurrent.futures import Future

import pytest
from PIL import Image

from mmhall.demo.serve import Address, serving
from tests.demo.browser.visitor import expect, said
from tests.demo.conftest import PROMPT

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def code(visitor, part):
    """Return the text of a code field."""
    return visitor.page.locator(f"#{part} .cm-content").evaluate(
        "node => node.cmTile?.view?.state.doc.toString() ?? ''"
    )


def test_a_strategy_is_chosen_from_the_list(visit, embedded):
    visitor = visit()
    visitor.choose(2, "vdd")
    expect(visitor.spec(2)).to_have_value("vdd")
    assert visitor.run() == said(embedded, 4, "greedy", "vdd")


def test_two_strategies_are_combined_in_a_column(visit, embedded):
    visitor = visit()
    visitor.choose(2, "beam", clear=False)
    expect(visitor.spec(2)).to_have_value("vcd+beam")
    assert visitor.run() == said(embedded, 4, "greedy", "vcd+beam")


def test_a_pair_that_cannot_be_combined_is_refused(visit):
    visitor = visit()
    visitor.choose(2, "vdd", clear=False)
    assert "vdd" in visitor.toast()
    expect(visitor.page.locator("#strategy-2").get_by_role("button", name=re.compile("^Remove"))).to_have_count(1)
    visitor.choose(2, "vdd")
    visitor.run()
    assert visitor.states() == ["done", "done"]


def test_the_form_explains_options_and_writes_the_strategy(visit, embedded):
    visitor = visit()
    written = visitor.spec(2)
    alpha = visitor.page.get_by_role("spinbutton", name="vcd: alpha")
    expect(alpha).to_have_value("1")
    expect(visitor.page.locator("#pickers")).to_contain_text("Contrast strength")
    visitor.fill(alpha, "0.5")
    alpha.press("Tab")
    expect(written).to_have_value("vcd(alpha=0.5)")
    assert visitor.run() == said(embedded, 4, "greedy", "vcd(alpha=0.5)")
    visitor.fill(alpha, "1")
    alpha.press("Tab")
    expect(written).to_have_value("vcd")


def test_the_form_follows_what_is_typed_and_keeps_it(visit):
    visitor = visit()
    alpha = visitor.page.get_by_role("spinbutton", name="vdd: alpha")
    visitor.write(2, "vdd(alpha=0.5, beta=0.3)")
    expect(alpha).to_have_value("0.5")
    expect(visitor.page.locator("#strategy-2")).to_contain_text("vdd")
    beta = visitor.page.get_by_role("spinbutton", name="vdd: beta")
    expect(beta).to_have_value("0.3")
    visitor.fill(alpha, "0.75")
    alpha.press("Tab")
    expect(visitor.spec(2)).to_have_value("vdd(alpha=0.75, beta=0.3)")
    visitor.write(2, "vdd(alpha=0.5, beta=0.3)")
    expect(alpha).to_have_value("0.5")
    visitor.choose(2, "vhr", clear=False)
    expect(visitor.spec(2)).to_have_value("vdd(alpha=0.5, beta=0.3)+vhr")
    expect(visitor.page.get_by_role("spinbutton", name="vhr: alpha")).to_be_visible()
    expect(alpha).to_have_value("0.5")


def test_a_column_that_was_not_seen_has_its_form(visit):
    visitor = visit()
    visitor.columns(4)
    expect(visitor.spec(4)).to_be_visible()
    expect(visitor.page.get_by_role("spinbutton", name="vhr: alpha")).to_be_visible()


def test_forms_and_choices_come_once_the_model_is_loaded(chromium, embedded):
    model = Future()
    with serving(model, Address(port=0)) as url:
        page = chromium.new_page()
        page.goto(url)
        expect(page.locator("#model")).to_contain_text("being loaded")
        page.locator("#pickers").get_by_role("button", name="Options").nth(1).click()
        model.set_result(embedded)
        expect(page.locator("#model")).to_contain_text("M parameters")
        expect(page.get_by_role("spinbutton", name="vcd: alpha")).to_be_visible()
        page.get_by_role("combobox", name="Strategy 2").click()
        expect(page.get_by_role("option", name="opera")).to_be_visible()
        page.close()


def load_setup(visitor, **told):
    if not visitor.page.locator("#load").is_visible():
        visitor.unfold("Share and reproduce")
    visitor.paste(json.dumps(told))
    visitor.page.locator("#load").click()


def test_loading_fills_the_forms_and_clears_the_answers(visit):
    visitor = visit()
    visitor.run()
    present = visitor.page.locator("#present").get_by_role("checkbox")
    expect(present).to_have_count(4)  # what is there, and the boat that was made up
    asked = {"prompt": "What is it?", "strategies": ["greedy", "vdd(alpha=0.5)"], "present": ["cup"]}
    load_setup(visitor, picture="scene 1/1", setup=asked)
    assert "scene 1/1" in visitor.toast()
    expect(visitor.page.locator("#answers .mm-column")).to_have_count(0)
    expect(visitor.page.locator("#downloads")).to_contain_text("Nothing to share yet")
    expect(present).to_have_count(4)
    expect(visitor.spec(2)).to_have_value("vdd(alpha=0.5)")
    expect(visitor.page.get_by_role("spinbutton", name="vdd: alpha")).to_have_value("0.5")
    load_setup(visitor, picture="scene 2026/2", setup={**asked, "strategies": ["greedy", "vdd(alpha=0.25)"]})
    expect(present).to_have_count(1)
    expect(visitor.page.get_by_role("spinbutton", name="vdd: alpha")).to_have_value("0.25")


def test_a_strategy_that_does_not_exist_is_named(visit):
    visitor = visit()
    visitor.write(2, "vcdd")
    visitor.page.get_by_role("button", name="Run", exact=True).click()
    assert "did you mean" in visitor.toast()


def test_more_columns(visit, embedded):
    visitor = visit()
    specs = ("greedy", "vcd", "vdd", "vhr")
    for count in (3, 4):
        visitor.columns(count)
        expect(visitor.page.get_by_role("combobox", name=f"Strategy {count}")).to_be_visible()
        expect(visitor.page.locator("#pickers").get_by_role("combobox")).to_have_count(count)
    assert visitor.run() == said(embedded, 4, *specs)
    assert visitor.page.locator("#answers .mm-column h3 bdi").all_inner_texts() == list(specs)
    visitor.words(0, "boat").click()
    assert len(visitor.looked(0, "boat")) == 4


def test_length_and_sampling(visit, embedded):
    visitor = visit()
    visitor.unfold("Length and sampling")
    seed = visitor.page.get_by_role("spinbutton", name="Seed", exact=True)
    expect(seed).to_be_visible()  # the last of the fields that unfold
    for label, value in (("Most tokens", "12"), ("Temperature", "0.7")):
        field = visitor.page.get_by_role("spinbutton", name=f"number input for {label}")
        visitor.fill(field, value)
        field.press("Enter")
        expect(field).to_have_value(value)
    visitor.fill(seed, "3")
    seed.press("Tab")
    sampled = {"max_new_tokens": 12, "do_sample": True, "temperature": 0.7, "seed": 3}
    assert visitor.run() == said(embedded, 4, "greedy", "vcd", **sampled)
    expect(visitor.page.locator("#answers .mm-state").first).to_contain_text("cut off")


def test_a_set_up_is_taken_along_and_loaded(visit, embedded):
    visitor = visit()
    visitor.scene(2)
    expect(visitor.page.locator("#present")).to_contain_text("backpack")
    visitor.write(2, "vcd(alpha=0.5)")
    answers = visitor.run()
    visitor.unfold("Share and reproduce")
    expect(visitor.page.locator("#setup")).to_contain_text("vcd(alpha=0.5)")
    taken = json.loads(code(visitor, "setup"))
    assert taken["setup"]["prompt"] == PROMPT
    visitor.ask("Is there a dog in the image?")
    visitor.scene(0)
    expect(visitor.page.locator("#present")).to_contain_text("spoon")
    visitor.write(2, "vdd")
    taken["setup"]["prompt"] = "What is in this image?"
    visitor.paste(json.dumps(taken))
    visitor.page.locator("#load").click()
    expect(visitor.page.get_by_role("textbox", name="Prompt")).to_have_value("What is in this image?")
    expect(visitor.spec(2)).to_have_value("vcd(alpha=0.5)")
    expect(visitor.page.locator("#present")).to_contain_text("backpack")
    again = visitor.run()
    assert again == said(embedded, 2, "greedy", "vcd(alpha=0.5)", prompt="What is in this image?")
    assert answers == said(embedded, 2, "greedy", "vcd(alpha=0.5)")


def test_a_set_up_that_is_none_is_refused(visit):
    visitor = visit()
    visitor.unfold("Share and reproduce")
    visitor.paste("{no json")
    visitor.page.locator("#load").click()
    assert "JSON" in visitor.toast()


def test_downloads_and_code(visit):
    visitor = visit()
    answers = visitor.run()
    visitor.unfold("Share and reproduce")
    links = visitor.page.locator("#downloads a")
    expect(links).to_have_count(2)
    data = [base64.b64decode(link.get_attribute("href").partition("base64,")[2]) for link in links.all()]
    with visitor.page.expect_download() as saved:
        links.first.click()
    assert saved.value.path().read_bytes() == data[0]
    assert saved.value.suggested_filename == "comparison.png"
    poster = Image.open(io.BytesIO(data[0]))
    poster.load()
    assert min(poster.size) > 300
    rows = list(csv.DictReader(io.StringIO(data[1].decode("utf-8-sig"))))
    assert [row for row in rows if row.keys() >= {"strategy"}]
    assert all(any(answer in row.values() for row in rows) for answer in answers)
    visitor.tab("Python")
    expect(visitor.page.locator("#python")).to_contain_text("make_scene(2026, 4)")
    visitor.tab("Command line")
    expect(visitor.page.locator("#shell")).to_contain_text("mmhall generate")
