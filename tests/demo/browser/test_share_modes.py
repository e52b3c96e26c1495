"""Share, Present, Several and Blind in a real browser: what is saved is opened, what is copied is read."""

from __future__ import annotations

import base64
import csv
import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmhall.demo.scenes import bundled_scenes
from tests.demo.browser.conftest import DESKTOP
from tests.demo.browser.visitor import Visitor, expect, said
from tests.notebooks import run_notebook

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.long]
Axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe

SVG = "{http://www.w3.org/2000/svg}"
SCENE, BOTH = 4, ("greedy", "vdd")


@pytest.fixture(scope="module")
def beach(chromium, url):
    """A visitor to whom two strategies have answered about the beach; the boat that greedy makes up is pinned."""
    session = chromium.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]}, reduced_motion="reduce")
    session.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor = Visitor(session.new_page(), url).open()
    visitor.scene(SCENE)
    visitor.run()
    visitor.words("A", "boat").click()
    yield visitor
    session.close()
    visitor.check()


def share(visitor, label):
    """Choose a way to share; returns the file that is saved, or the text that is copied."""
    page = visitor.page
    page.get_by_role("button", name="Share").click()
    button = page.get_by_role("button", name=label, exact=True)
    try:
        if not label.startswith("Copy"):
            with page.expect_download() as saved:
                button.click()
            return Path(saved.value.path()).read_bytes()
        button.click()
        expect(visitor.find("#shared")).to_have_text("Copied.")
        return page.evaluate("navigator.clipboard.readText()")
    finally:
        page.keyboard.press("Escape")


def opened(visitor, mode):
    """Open a mode; returns its room."""
    visitor.page.get_by_role("button", name=mode, exact=True).click()
    return visitor.find(f"#{mode.lower()}")


def test_the_svg_holds_every_word_mark_and_map(beach, embedded):
    drawing = ET.fromstring(share(beach, "SVG"))
    words = [node.text for node in drawing.iter(f"{SVG}text")]
    answers = " ".join(said(embedded, SCENE, spec) for spec in BOTH)
    letters = "".join(words)
    assert all(word in words for word in re.findall(r"\w+", answers))
    assert all(re.sub(r"\s+|boat.*", "", said(embedded, SCENE, spec)) in letters.replace("✗", "") for spec in BOTH)
    assert {"✗", "greedy", "vdd"} <= set(words)
    assert "options" not in words
    photo, heat = (node.get("href") for node in drawing.iter(f"{SVG}image"))
    scene = Image.open(io.BytesIO(base64.b64decode(photo.partition(",")[2]))).convert("RGB")
    assert scene.size == bundled_scenes()[SCENE].scene.image.size
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(heat.partition(",")[2]))))
    assert drawn[..., 3].max() > 100
    width, height = float(drawing.get("width")), float(drawing.get("height"))
    for node in drawing.iter(f"{SVG}text"):
        assert 0 <= float(node.get("x")) < width
        assert 0 < float(node.get("y")) < height


def test_the_png_is_the_svg_at_twice_its_size(beach):
    drawing = ET.fromstring(share(beach, "SVG"))
    picture = Image.open(io.BytesIO(share(beach, "PNG")))
    assert picture.size == tuple(int(2 * float(drawing.get(side))) for side in ("width", "height"))
    assert len(np.unique(np.asarray(picture.convert("L")))) > 100


def test_the_table_tells_the_answers(beach, embedded):
    rows = list(csv.DictReader(io.StringIO(share(beach, "CSV").decode("utf-8-sig"), newline="")))
    assert [(row["strategy"], row["made up"], row["text"]) for row in rows] == [
        ("greedy", "boat", said(embedded, SCENE, "greedy")),
        ("vdd", "", said(embedded, SCENE, "vdd")),
    ]
    assert "| greedy | boat | bird, book, surfboard, boat |" in share(beach, "Copy Markdown")
    assert r"greedy & boat & bird, book, surfboard, boat &" in share(beach, "Copy LaTeX")


def test_the_notebook_repeats_the_comparison(beach, embedded):
    shown = run_notebook(share(beach, "Notebook").decode())[-1]
    assert [answer.text for answer in shown.answers] == [said(embedded, SCENE, spec) for spec in BOTH]
    assert [record["objects"]["made_up"] for record in shown.records] == [["boat"], []]
    assert "mmhall.compare(" in share(beach, "Copy Python")
    assert share(beach, "Copy shell").count("mmhall generate") == 2


def test_a_link_restores_the_set_up_and_runs_nothing(beach, visit):
    link = share(beach, "Copy link")
    other = visit(fragment=link.removeprefix(beach.url))
    assert other.setup() == beach.setup()
    expect(other.find("#scenes button").nth(SCENE)).to_have_attribute("aria-checked", "true")
    assert other.find(".mm-word").count() == 0


def test_what_is_selected_is_copied_as_the_answer_s_own_text(beach, embedded):
    beach.column("A").locator(".answer").evaluate("node => getSelection().selectAllChildren(node)")
    beach.page.keyboard.press("ControlOrMeta+c")
    assert beach.page.evaluate("navigator.clipboard.readText()") == said(embedded, SCENE, "greedy")


def test_present_shows_two_answers_large_arrows_walk_and_d_shows_the_difference(beach):
    room = opened(beach, "Present")
    keys, told = beach.page.keyboard, room.locator("output")
    for _ in range(4):
        keys.press("ArrowRight")
    expect(told).to_have_text("“bird”: where greedy looked")
    heat = room.locator("canvas").evaluate("canvas => canvas.toDataURL()")
    keys.press("d")
    expect(told).to_have_text("“bird”: where greedy looked more (orange) and less (blue) than vdd")
    assert room.locator("canvas").evaluate("canvas => canvas.toDataURL()") != heat
    assert float(room.locator(".mm-word").first.evaluate("node => parseFloat(getComputedStyle(node).fontSize)")) >= 20
    keys.press("d")
    assert room.locator("canvas").evaluate("canvas => canvas.toDataURL()") == heat
    keys.press("Escape")
    expect(room).to_have_count(0)


@pytest.fixture
def photos(tmp_path):
    """Three pictures and a text."""
    for index in (1, 4, 7):
        bundled_scenes()[index].scene.image.save(tmp_path / f"{index}.png")
    (tmp_path / "list.txt").write_text("no picture")
    return sorted(tmp_path.iterdir())


def test_three_uploads_make_three_rows_and_one_opens(visit, photos, embedded):
    visitor = visit()
    room = opened(visitor, "Several")
    room.get_by_label("Pictures").set_input_files(photos)
    expect(room.get_by_role("status")).to_contain_text("3 pictures: Please describe")
    rows = room.locator("tbody tr")
    assert [row.locator("td").first.inner_text() for row in rows.all()] == ["1.png", "4.png", "7.png"]
    assert rows.nth(1).locator("td").nth(1).inner_text().startswith("4 not known: bird, book, surfboard, boat")
    rows.nth(1).get_by_role("button").click()
    expect(room).to_have_count(0)
    expect(visitor.words("A", "boat")).to_be_visible()
    assert visitor.column("A").locator(".answer").evaluate("node => node.textContent") == said(embedded, 4, "greedy")
    expect(visitor.find("#columns .stale")).to_have_count(0)
    assert visitor.find("#photo").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def test_a_blind_vote_names_nobody_and_counts(visit, embedded):
    visitor = visit()
    visitor.scene(SCENE)
    room = opened(visitor, "Blind")
    texts = {said(embedded, SCENE, spec): spec for spec in BOTH}
    shown = []
    for numbers in ([0.1, 0.9], [0.9, 0.1]):
        visitor.page.evaluate("numbers => { Math.random = () => numbers.shift() ?? 0.5; }", numbers)
        room.get_by_role("button", name="This picture").click()
        expect(room.get_by_role("button", name="Answer 1 is better")).to_be_visible()
        shown.append([texts[text] for text in room.locator("article p").all_inner_texts()])
        place = room.locator(".place").inner_text()
        assert "greedy" not in place
        assert "made up" not in place
        room.get_by_role("button", name="Answer 1 is better").click()
    assert shown == [["greedy", "vdd"], ["vdd", "greedy"]]
    tally = room.locator("table").first.locator("tbody tr")
    assert tally.all_inner_texts() == ["greedy\t1 of 2", "vdd\t1 of 2", "no difference\t0 of 2"]
    with visitor.page.expect_download() as saved:
        room.get_by_role("button", name="CSV of the votes").click()
    rows = list(csv.DictReader(Path(saved.value.path()).read_text(encoding="utf-8").splitlines()))
    assert [(row["shown"], row["better"]) for row in rows] == [("greedy | vdd", "greedy"), ("vdd | greedy", "vdd")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_rooms_and_the_list_of_ways_to_share_are_accessible(visit, scheme):
    visitor = visit(scheme=scheme)
    visitor.run()
    for mode in ("Present", "Several", "Blind"):
        room = opened(visitor, mode)
        if mode == "Several":
            room.get_by_role("button", name="This picture").click()
            expect(room.get_by_role("status")).to_contain_text("1 picture:")
        found = Axe().run(visitor.page).response["violations"]
        assert not found, [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
        visitor.page.keyboard.press("Escape")
    visitor.page.get_by_role("button", name="Share").click()
    assert not Axe().run(visitor.page).response["violations"]
