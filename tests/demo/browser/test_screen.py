"""One screen: what is pointed at and what it changes are both in sight, at once, for everybody."""

import pytest

from tests.demo.browser.conftest import DESKTOP, PHONE
from tests.demo.browser.visitor import expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]
Axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe

HOVER = """([words, last]) => {
  for (const word of [...document.querySelectorAll(".mm-word")].slice(words, last))
    word.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
  return [document.getElementById("caption").textContent, document.getElementById("heat").toDataURL()];
}"""
SHIFT = """() => new Promise(done => {
  let shift = 0;
  new PerformanceObserver(list => { for (const entry of list.getEntries()) shift += entry.value; })
    .observe({type: "layout-shift", buffered: true});
  setTimeout(() => done(shift), 100);
})"""


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_a_chosen_word_and_its_map_are_both_in_sight(visit, size):
    visitor = visit(size)
    visitor.run()
    word = visitor.words("A").last
    word.click()
    assert visitor.inside(visitor.find("#heat"))
    assert visitor.inside(word)
    assert (
        "boat" in visitor.find("#caption").text_content()
        or word.text_content() in visitor.find("#caption").text_content()
    )


def test_the_last_of_many_words_pointed_at_is_shown_at_once_and_asks_nobody(asked):
    """15 words pass under the pointer within one task of the browser: the 15th is drawn before any other event."""
    before = len(asked.requests)
    hurried = asked.page.evaluate(HOVER, [0, 15])
    asked.page.evaluate(HOVER, [3, 4])
    alone = asked.page.evaluate(HOVER, [14, 15])
    assert hurried == alone
    assert asked.words("A").nth(14).text_content() in hurried[0]
    assert len(asked.requests) == before


def test_run_changes_the_page_in_the_same_task(visit):
    visitor = visit()
    said = visitor.page.evaluate(
        "() => { document.getElementById('run').click(); return document.getElementById('run').innerText; }"
    )
    assert said.startswith("Stop")
    visitor.finished()


def test_run_can_be_pressed_as_soon_as_somebody_listens_and_not_before(visit):
    page, held = visit().page, []
    page.route("**/static/ask.js", lambda route: held.append(route))
    page.reload(wait_until="commit")
    page.wait_for_selector("#run")
    assert page.locator("#run").is_disabled()
    held[0].continue_()
    expect(page.locator("#run")).to_be_enabled()


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_layout_stays_put_while_the_page_loads(visit, size):
    visitor = visit(size)
    assert visitor.page.evaluate(SHIFT) < 0.05
    assert visitor.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_only_answers_scroll_on_a_desktop(asked):
    assert asked.page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    assert asked.inside(asked.find("#run"))
    assert asked.inside(asked.find("#photo"))


def test_keyboard_alone_compares(visit):
    """Tab to the prompt and type, Tab to Run; arrow keys walk the words, Enter keeps one."""
    visitor = visit()
    at = "document.activeElement.id || document.activeElement.className"
    stops = []
    while "run" not in stops:
        visitor.page.keyboard.press("Tab")
        stops.append(visitor.page.evaluate(at))
        assert len(stops) <= 12, stops
        if stops[-1] == "prompt":
            visitor.page.keyboard.press("ControlOrMeta+a")
            visitor.page.keyboard.type("What is in this image?")
    visitor.page.keyboard.press("Enter")
    visitor.finished()
    while not visitor.page.evaluate(at).startswith("mm-word"):
        visitor.page.keyboard.press("Tab")
    for key in ("ArrowRight", "ArrowRight", "Enter", "ArrowRight"):
        visitor.page.keyboard.press(key)
    assert visitor.words("A").nth(2).get_attribute("aria-selected") == "true"
    expect(visitor.find("#caption")).to_contain_text(f"“{visitor.words('A').nth(3).text_content()}” in A")
    expect(visitor.words("A").nth(3)).to_have_attribute("tabindex", "0")
    expect(visitor.words("A").first).to_have_attribute("tabindex", "-1")


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.long), "dark"])
def test_axe_finds_no_violation(visit, scheme):
    """As it opens, with a word kept and the dock open, in the list of strategies, in the drawer, on a phone."""
    visitor, axe = visit(scheme=scheme), Axe()

    def check(where):
        found = axe.run(visitor.page).response["violations"]
        assert [(where, one["id"], one["nodes"][0]["target"]) for one in found] == []

    check("first")
    visitor.run()
    visitor.words("A").nth(4).click()
    visitor.find("#dock summary").click()
    check("dock")
    visitor.column("B").locator(".pick").click()
    check("picker")
    visitor.page.keyboard.press("Escape")
    visitor.column("B").get_by_role("button", name="options").click()
    visitor.find("#drawer label").nth(3).wait_for()
    check("drawer")
    visitor.page.keyboard.press("Escape")
    visitor.page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    check("phone")
