"""Strategies are chosen and set by form, and taken along as a set-up that is loaded again."""

from __future__ import annotations

import base64
import csv
import io
import json
import re

import pytest
from PIL import Image

from tests.demo.browser.visitor import expect, said
from tests.demo.conftest import PROMPT

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def code(visitor, part):
    """Return the text of a code field."""
    return visitor.page.locator(f"#{part} .cm-content").evaluate(
        "node => node.cmTile?.view?.state.doc.toString() ?? ''"
    )


def test_strategies_are_chosen_combined_and_set_by_form(shared, embedded):
    shared.write(2, "vcd")
    written, chips = (
        shared.spec(2),
        shared.page.locator("#strategy-2").get_by_role("button", name=re.compile("^Remove")),
    )
    alpha = shared.page.get_by_role("spinbutton", name="vcd: alpha")
    expect(alpha).to_have_value("1")
    expect(shared.page.locator("#pickers")).to_contain_text("Contrast strength")
    shared.fill(alpha, "0.5")
    alpha.press("Tab")
    expect(written).to_have_value("vcd(alpha=0.5)")
    assert shared.run() == said(embedded, 4, "greedy", "vcd(alpha=0.5)")
    shared.fill(alpha, "1")
    alpha.press("Tab")
    expect(written).to_have_value("vcd")
    shared.choose(2, "vdd", clear=False)
    assert "vdd" in shared.toast()  # these two cannot be combined
    expect(chips).to_have_count(1)
    shared.choose(2, "beam", clear=False)
    expect(written).to_have_value("vcd+beam")
    assert shared.run() == said(embedded, 4, "greedy", "vcd+beam")
    shared.choose(2, "vdd")
    expect(written).to_have_value("vdd")


def test_the_form_follows_what_is_typed_and_keeps_it(shared, embedded):
    alpha, beta = (shared.page.get_by_role("spinbutton", name=f"vdd: {name}") for name in ("alpha", "beta"))
    shared.write(2, "vdd(alpha=0.5, beta=0.3)")
    expect(alpha).to_have_value("0.5")
    expect(shared.page.locator("#strategy-2")).to_contain_text("vdd")
    expect(beta).to_have_value("0.3")
    shared.fill(alpha, "0.75")
    alpha.press("Tab")
    expect(shared.spec(2)).to_have_value("vdd(alpha=0.75, beta=0.3)")
    shared.write(2, "vdd(alpha=0.5, beta=0.3)")
    expect(alpha).to_have_value("0.5")
    shared.choose(2, "vhr", clear=False)
    expect(shared.spec(2)).to_have_value("vdd(alpha=0.5, beta=0.3)+vhr")
    expect(shared.page.get_by_role("spinbutton", name="vhr: alpha")).to_be_visible()
    expect(alpha).to_have_value("0.5")
    assert shared.run() == said(embedded, 4, "greedy", "vdd(alpha=0.5, beta=0.3)+vhr")
    shared.write(2, "vcdd")
    shared.page.get_by_role("button", name="Run", exact=True).click()
    assert "did you mean" in shared.toast()
    shared.columns(4)  # two that were not seen have their forms
    expect(shared.spec(4)).to_be_visible()
    expect(shared.page.get_by_role("spinbutton", name="vhr: alpha")).to_be_visible()
    shared.columns(2)


def paste_setup(visitor, text):
    visitor.paste(text)
    visitor.page.locator("#load").click()


def load_setup(visitor, **told):
    paste_setup(visitor, json.dumps(told))


@pytest.mark.long  # two pages; what is taken along has tests of its own
def test_a_sampled_comparison_is_taken_along_and_loaded(visit, embedded):
    visitor = visit()
    visitor.scene(2)
    expect(visitor.page.locator("#present")).to_contain_text("backpack")
    visitor.write(2, "vcd(alpha=0.5)")
    sample(visitor)
    sampled = {"max_new_tokens": 12, "do_sample": True, "temperature": 0.7, "seed": 3}
    answers = visitor.run()
    assert answers == said(embedded, 2, "greedy", "vcd(alpha=0.5)", **sampled)
    expect(visitor.page.locator("#answers .mm-state").first).to_contain_text("cut off")
    visitor.unfold("Share and reproduce")
    expect(visitor.page.locator("#setup")).to_contain_text("vcd(alpha=0.5)")
    taken = json.loads(code(visitor, "setup"))
    assert taken["setup"]["prompt"] == PROMPT
    answers_are_downloaded(visitor, answers)
    visitor.ask("Is there a dog in the image?")
    visitor.scene(0)
    expect(visitor.page.locator("#present")).to_contain_text("spoon")
    visitor.write(2, "vdd")
    paste_setup(visitor, "{no json")
    assert "JSON" in visitor.toast()
    taken["setup"]["prompt"] = "What is in this image?"
    paste_setup(visitor, json.dumps(taken))
    expect(visitor.page.get_by_role("textbox", name="Prompt")).to_have_value("What is in this image?")
    expect(visitor.spec(2)).to_have_value("vcd(alpha=0.5)")
    expect(visitor.page.locator("#present")).to_contain_text("backpack")
    assert visitor.run() == said(embedded, 2, "greedy", "vcd(alpha=0.5)", prompt="What is in this image?", **sampled)
    loading_fills_the_forms_and_clears_the_answers(visitor)


def sample(visitor):
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


def loading_fills_the_forms_and_clears_the_answers(visitor):
    present, alpha = (
        visitor.page.locator("#present").get_by_role("checkbox"),
        visitor.page.get_by_role("spinbutton", name="vdd: alpha"),
    )
    known = present.count()
    asked = {"prompt": "What is it?", "strategies": ["greedy", "vdd(alpha=0.5)"], "present": ["cup"]}
    load_setup(visitor, picture="scene 1/1", setup=asked)
    assert "scene 1/1" in visitor.toast()
    expect(visitor.page.locator("#answers .mm-column")).to_have_count(0)
    expect(visitor.page.locator("#downloads")).to_contain_text("Nothing to share yet")
    expect(present).to_have_count(known)  # another picture is to be uploaded
    expect(visitor.spec(2)).to_have_value("vdd(alpha=0.5)")
    expect(alpha).to_have_value("0.5")
    load_setup(visitor, picture="scene 2026/2", setup={**asked, "strategies": ["greedy", "vdd(alpha=0.25)"]})
    expect(present).to_have_count(1)
    expect(alpha).to_have_value("0.25")


def answers_are_downloaded(visitor, answers):
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
    expect(visitor.page.locator("#python")).to_contain_text("make_scene(2026, 2)")
    visitor.tab("Command line")
    expect(visitor.page.locator("#shell")).to_contain_text("mmhall generate")
    visitor.tab("Set-up")
