"""Set-ups: strategies and their options, pictures of one's own, objects, and links that restore all of it."""

import json
import re
from urllib.parse import quote

import pytest
from PIL import Image

from tests.demo.browser.visitor import expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_choosing_a_strategy_replaces_it_and_combining_is_explicit(visit):
    visitor = visit()
    visitor.choose("B", "vcd")
    assert visitor.setup()["strategies"] == ["greedy", "vcd"]
    visitor.choose("B", "vhr", "button:has-text('combine')")
    assert visitor.setup()["strategies"] == ["greedy", "vcd+vhr"]
    visitor.column("B").get_by_role("button", name="Without vcd").click()
    assert visitor.setup()["strategies"] == ["greedy", "vhr"]
    visitor.choose("B", "pai", "button[aria-label='Add a column']")
    assert visitor.setup()["strategies"] == ["greedy", "vhr", "pai"]
    visitor.column("A").get_by_role("button", name="Remove column A").click()
    assert visitor.setup()["strategies"] == ["vhr", "pai"]


def test_strategies_stand_in_groups_with_a_line_and_their_cost(visit):
    visitor = visit()
    visitor.column("A").locator(".pick").click()
    expect(visitor.find("#offers [role=group]").nth(1)).to_be_visible()
    vcd = visitor.find("#offers [role=option]", has_text=re.compile("^vcd"))
    expect(vcd.locator("i")).to_contain_text(re.compile("token|pass|row"))
    expect(vcd.locator("span")).not_to_be_empty()


def test_options_change_in_a_drawer_and_stand_as_chips(visit):
    visitor = visit()
    visitor.column("B").get_by_role("button", name="options").click()
    alpha = visitor.find("#drawer label", has_text=re.compile("^alpha")).locator("input")
    alpha.fill("0.5")
    alpha.press("Tab")
    expect(visitor.find("#spec")).to_have_value("vdd(alpha=0.5)")
    visitor.find("#spec").fill("vdd(alpha=nonsense)")
    visitor.find("#spec").press("Tab")
    expect(visitor.find("#drawer [role=alert]")).to_contain_text("alpha")
    visitor.page.keyboard.press("Escape")
    chip = visitor.column("B").locator(".options .chip")
    expect(chip).to_contain_text("alpha=0.5")
    chip.click()
    assert visitor.setup()["strategies"] == ["greedy", "vdd"]


def test_a_link_and_a_reload_restore_the_setup(visit):
    told = {
        "picture": {"scene": 2},
        "prompt": "What is in this image?",
        "strategies": ["vcd(alpha=0.5)", "greedy", "vhr"],
        "max_new_tokens": 16,
        "temperature": 0,
        "seed": 3,
        "present": ["person"],
        "absent": ["zebra"],
    }
    visitor = visit(fragment=f"#setup={quote(json.dumps(told))}&view=compare")
    assert visitor.setup() == told
    visitor.find("#prompt").fill("Is there a zebra?")
    visitor.page.reload()
    expect(visitor.find("#prompt")).to_have_value("Is there a zebra?")
    expect(visitor.find("#columns > section")).to_have_count(3)
    expect(visitor.find("#objects button", has_text="zebra")).to_have_attribute("aria-label", "zebra: not there")
    assert visitor.setup() == {**told, "prompt": "Is there a zebra?"}


def test_a_damaged_link_says_so_and_the_page_works(visit):
    visitor = visit(fragment="#setup=%7Bnonsense")
    expect(visitor.find("#problem")).to_contain_text("link")
    visitor.run()


def test_an_object_can_be_there_not_there_or_not_known(visit):
    """Marking the boat as there judges the answers anew; nothing is decoded again."""
    visitor = visit()
    visitor.run()
    expect(visitor.column("A").locator("footer")).to_contain_text("1 made up: boat")
    chip = visitor.find("#objects button", has_text=re.compile("boat$"))
    if not chip.count():
        visitor.find("#object").fill("boat")
        visitor.page.keyboard.press("Enter")
    else:
        chip.click()
        chip.click()
    expect(chip).to_have_attribute("aria-label", "boat: there")
    expect(visitor.column("A").locator("footer")).to_contain_text("nothing made up")
    chip.click()
    chip.click()
    expect(chip).to_have_attribute("aria-label", "boat: not known")
    expect(visitor.column("A").locator("footer")).to_contain_text("none known to be made up")
    expect(visitor.column("A").locator("footer")).to_contain_text("not known: boat")
    expect(visitor.find(".stale")).to_have_count(0)
    assert sum("call/compare" in url for url in visitor.requests) == 1


@pytest.mark.slow
@pytest.mark.long
def test_a_large_photo_is_taken_and_shrunk_and_a_wrong_file_is_refused_in_words(visit, tmp_path):
    """8 700 x 5 800 pixels are 50 megapixels."""
    photo, text = tmp_path / "photo.jpg", tmp_path / "notes.png"
    Image.radial_gradient("L").resize((8700, 5800)).convert("RGB").save(photo, quality=60)
    text.write_text("no picture")
    visitor = visit()
    visitor.find("#file").set_input_files(photo)
    expect(visitor.find("#caption")).to_contain_text(re.compile("shrunk|8,?700"))
    visitor.run()
    expect(visitor.find("#objects button", has_text="✓")).to_have_count(0)
    visitor.find("#file").set_input_files(text)
    expect(visitor.find("#problem")).to_contain_text("picture")
    expect(visitor.find("#scenes button").last).to_have_attribute("aria-checked", "true")  # still the photo


def test_a_set_up_without_its_picture_shows_no_other_one(visit):
    visitor = visit()
    loaded = """async picture => {
        const {load, state} = await import("./static/page.js");
        const file = picture ? new File(["no picture"], "x.png") : null;
        const opened = await load({...state.setup, present: ["dog"], absent: null, picture: file && {file}});
        return [opened, state.picture.url, document.querySelector("#problem").textContent];
    }"""
    assert visitor.page.evaluate(loaded, False) == [True, "", ""]
    opened, _, told = visitor.page.evaluate(loaded, True)
    assert not opened
    assert "is not a picture" in told


def test_a_tiff_is_shown(visit, tmp_path):
    path = tmp_path / "scan.tiff"
    Image.new("RGB", (320, 200), "#88bbdd").save(path)
    visitor = visit()
    visitor.find("#file").set_input_files(path)
    visitor.page.wait_for_selector("#photo[src*='gradio_api/file']")
    expect(visitor.find("#photo")).to_have_js_property("naturalWidth", 320)
    png = tmp_path / "a # b.png"
    Image.new("RGB", (300, 200), "#88bbdd").save(png)
    visitor.find("#file").set_input_files(png)
    expect(visitor.find("#photo")).to_have_js_property("naturalWidth", 300)
    visitor.page.reload()  # a file that browsers show as it is
    expect(visitor.find("#photo")).to_have_js_property("naturalWidth", 300)
