"""A saved comparison in a real browser: pointing and walking show heat, words are pinned, nothing is fetched."""

from __future__ import annotations

import pytest

import mmhall
from mmhall.benchmarks.scenes import make_scene
from tests.demo.browser.conftest import DESKTOP

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PROMPT = "Please describe this image in detail."
SCENE = make_scene(2026, 4)
HOT = """canvas => {
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return data.reduce((sum, value, i) => sum + (i % 4 === 3 ? value : 0), 0);
}"""


@pytest.fixture(scope="module")
def file(embedded, tmp_path_factory):
    present = sorted({placed.name for placed in SCENE.objects})
    compared = mmhall.compare(SCENE.image, PROMPT, ["greedy", "vdd"], embedded, present=present)
    return compared.save(tmp_path_factory.mktemp("saved") / "comparison.html")


@pytest.fixture
def page(chromium, file):
    session = chromium.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]})
    page, problems, asked = session.new_page(), [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    yield page
    session.close()
    assert not problems
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]


def words(page, column):
    return page.locator("article").nth(column).locator(".mm-word")


def test_pointing_at_a_word_shows_where_the_model_looked(page):
    canvas, said = page.locator("canvas"), page.locator(".mm-said")
    assert canvas.evaluate(HOT) == 0
    words(page, 0).filter(has_text="boat").hover()
    boat = canvas.evaluate(HOT)
    assert boat > 0
    assert "“boat” of greedy: made up" in said.inner_text()
    assert "likeliest: " in said.inner_text()
    words(page, 0).filter(has_text="bird").hover()
    assert canvas.evaluate(HOT) not in (0, boat)
    assert page.locator(".mm-twin").all_inner_texts() == ["bird"]
    page.mouse.move(1, 850)
    assert canvas.evaluate(HOT) == 0


def test_arrow_keys_walk_the_words_of_each_answer_and_enter_pins(page):
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.locator(".mm-said").inner_text().startswith("“image” of greedy")
    page.keyboard.press("Enter")
    assert page.locator(".mm-pinned").all_inner_texts() == ["image"]
    page.keyboard.press("Tab")
    assert page.locator(".mm-said").inner_text().startswith("“The” of vdd")


def test_the_words_and_marks_are_those_of_the_record(page, embedded):
    for column, spec in enumerate(["greedy", "vdd"]):
        element = page.locator(".mm-answer").nth(column)
        said = element.evaluate("node => node.textContent")
        assert said == embedded.generate(SCENE.image, PROMPT, spec).text
        assert element.locator(".mm-hallucinated").all_inner_texts() == (["boat"] if spec == "greedy" else [])


def test_several_displays_in_one_notebook_draw_each_their_own(chromium, file):
    session = chromium.new_context()
    page = session.new_page()
    html = file.read_text(encoding="utf-8")
    page.set_content(html + html)
    assert page.locator(".mm-show[data-drawn]").count() == 2
    page.locator(".mm-show").last.locator(".mm-word").first.hover()
    assert [canvas.evaluate(HOT) > 0 for canvas in page.locator("canvas").all()] == [False, True]
    session.close()


def test_without_scripts_it_is_text_with_marks(chromium, file):
    session = chromium.new_context(java_script_enabled=False)
    page = session.new_page()
    page.goto(file.as_uri())
    assert page.locator("mark").all_inner_texts() == ["✗boat"]
    assert "1 made up: boat" in page.locator("article").first.inner_text()
    session.close()
