"""Answers explain themselves: marks, differences, the card of a word, waiting, stopping, and what is not known."""

import re

import pytest

from tests.demo.browser.visitor import expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]
COPIED = """letter => {
  const answer = document.querySelector(`[aria-label="Column ${letter}"] .answer`), data = new DataTransfer();
  getSelection().selectAllChildren(answer);
  answer.dispatchEvent(new ClipboardEvent("copy", {clipboardData: data, bubbles: true, cancelable: true}));
  return data.getData("text/plain");
}"""


def test_made_up_objects_and_differences_are_marked(asked):
    """Scene 4: greedy makes up a boat, vdd ends before it; up to there they say the same."""
    boat = asked.words("A", "boat")
    expect(boat).to_have_attribute("aria-label", "boat, made up")
    expect(asked.column("A").locator(".mm-hallucinated")).to_have_count(1)
    expect(asked.column("A").locator("footer")).to_contain_text("1 made up: boat")
    expect(asked.column("B").locator("footer")).to_contain_text("nothing made up")
    expect(asked.column("B").locator("footer")).to_contain_text(re.compile(r"named \d of \d.*[\d.]+ passes/token"))
    assert "mm-same" in asked.words("A").first.get_attribute("class")
    fork = asked.column("A").locator(".mm-fork")
    expect(fork).to_have_count(1)
    expect(fork).to_have_text("There")
    assert "mm-same" not in boat.get_attribute("class")


def test_sentences_stand_beside_each_other(asked):
    tops = [
        [cell["y"] for cell in (one.bounding_box() for one in asked.column(letter).locator(".mm-cell").all())]
        for letter in "AB"
    ]
    assert tops[0][: len(tops[1])] == tops[1]


def test_the_card_shows_what_else_was_likely_and_the_other_column_is_outlined(asked):
    asked.words("A", "book").first.click()
    rows = asked.find("#card tbody tr")
    expect(rows).to_have_count(5)
    expect(rows.first).to_contain_text("%")
    expect(asked.find("#card")).to_contain_text("picture's worth")
    expect(asked.words("B", "book").first).to_have_class(re.compile("mm-twin"))
    asked.words("B", "book").first.click()
    expect(rows.first.locator("i")).to_have_count(2)  # plain, and with the strategy
    asked.page.keyboard.press("Escape")
    expect(asked.find(".mm-pinned")).to_have_count(0)


def test_the_difference_of_two_columns_has_a_scale_with_signs(asked):
    asked.words("A", "book").last.click()
    asked.find("#whose button", has_text="A−B").click()
    expect(asked.find("#caption")).to_contain_text(re.compile("look more|looks more|look alike|no counterpart"))
    asked.find("#whose button").first.click()
    asked.page.keyboard.press("Escape")


def test_all_columns_have_one_scale(asked):
    scales = []
    for letter in "AB":
        asked.words(letter, "bird").first.hover()
        scales.append(asked.find("#scale").text_content())
    assert scales[0] == scales[1]
    assert scales[0].endswith("%")


def test_a_rectangle_lights_the_words_that_looked_there(asked):
    box = asked.find("#frame").bounding_box()
    asked.page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.1 * box["height"])
    asked.page.mouse.down()
    asked.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.6 * box["height"], steps=3)
    asked.page.mouse.up()
    lit = asked.find(".mm-lit").count()
    assert 0 < lit < asked.find(".mm-word").count()
    expect(asked.find("#region")).to_be_visible()
    asked.page.mouse.click(box["x"] + 5, box["y"] + 5)
    expect(asked.find(".mm-lit")).to_have_count(0)


def test_gaze_shift_and_logit_lens_are_drawn_on_the_picture(asked):
    asked.words("A", "bird").first.click()
    attention = asked.heat()
    asked.find("#source button", has_text="gaze shift").click()
    expect(asked.find("#caption")).to_contain_text("where attention grows most")
    shift = asked.heat()
    asked.find("#source button", has_text="logit lens").click()
    expect(asked.find("#caption")).to_contain_text("Logit lens")
    expect(asked.find("#scale-top")).to_contain_text("%")
    assert len({attention, shift, asked.heat()}) == 3
    asked.find("#photo").hover(force=True)
    expect(asked.find("#caption")).to_contain_text("In this patch:")
    asked.find("#source button", has_text="attention").click()
    asked.page.keyboard.press("Escape")


def test_a_cell_of_layers_and_heads_chooses_the_map(asked):
    asked.words("A", "bird").first.click()
    every = asked.heat()
    asked.find("#dock summary").click()
    asked.find("#grid select").nth(1).select_option("1")
    expect(asked.find("#caption")).to_contain_text("layer 1")
    assert asked.heat() != every
    asked.find("#grid select").nth(1).select_option("")
    expect(asked.find("#caption")).not_to_contain_text("layer 1")
    asked.find("#dock summary").click()
    asked.page.keyboard.press("Escape")


def test_copying_gives_the_answer_and_nothing_else(asked):
    text = asked.page.evaluate("import('./static/page.js').then(({state}) => state.records[0].text)")
    assert asked.page.evaluate(COPIED, "A") == text
    assert "✗" not in asked.column("A").locator(".answer").inner_text()


def test_an_object_of_two_words_has_one_mark(visit):
    visitor = visit()
    visitor.scene(5)
    visitor.run()
    expect(visitor.column("A").locator(".mm-hallucinated")).to_have_count(1)
    expect(visitor.column("A").locator(".mm-hallucinated")).to_have_text("traffic light")
    expect(visitor.column("A").locator("footer")).to_contain_text("1 made up: traffic light")


def test_a_closed_question_is_judged_and_stands_with_its_answer(visit):
    visitor = visit()
    visitor.find("#presets button").nth(1).click()
    prompt = visitor.find("#prompt").input_value()
    assert prompt.startswith("Is there")
    visitor.run()
    expect(visitor.column("A").locator("footer")).to_contain_text(re.compile("(yes|no): (right|wrong)"))
    visitor.find("#prompt").fill("What is this?")
    expect(visitor.find("#note q")).to_have_text(prompt)


def test_a_change_dims_old_answers_and_says_so(visit):
    visitor = visit()
    visitor.run()
    prompt = visitor.find("#prompt").input_value()
    expect(visitor.find(".stale")).to_have_count(0)
    visitor.find("#prompt").fill("What is in this image?")
    expect(visitor.find(".stale")).to_have_count(2)
    expect(visitor.find("#note")).to_contain_text("these answers are old")
    visitor.find("#prompt").fill(prompt)
    expect(visitor.find(".stale")).to_have_count(0)
    visitor.choose("B", "vcd")
    expect(visitor.column("B")).to_have_class("stale")
    expect(visitor.column("A")).not_to_have_class("stale")
    expect(visitor.find("#note")).to_contain_text("B is old")
    visitor.find("#source button", has_text="gaze shift").click()
    expect(visitor.find("#caption")).to_contain_text("where attention grows most")
    marks = visitor.find("#columns .mm-object").count()
    visitor.scene(1)
    expect(visitor.find(".stale")).to_have_count(2)
    visitor.words("A").nth(3).hover()  # neither shift nor attention of one picture is drawn over another
    expect(visitor.find("#caption")).to_contain_text("another picture")
    blank = "canvas => !canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
    assert visitor.find("#heat").evaluate(blank)
    expect(visitor.find("#modes button", has_text="Present")).to_be_disabled()
    visitor.find("#objects button").first.click()  # what is known of the new picture does not judge the old answers
    assert visitor.find("#columns .mm-object").count() == marks
    assert not any("call/judge" in url for url in visitor.requests)
    visitor.find("#run").dblclick()
    visitor.finished()
    expect(visitor.find("#columns footer", has_text="stopped")).to_have_count(0)


def test_a_stopped_answer_is_not_called_clean(visit, held):
    visitor = visit()
    with held():
        visitor.find("#run").click()
        expect(visitor.find("#run")).to_contain_text(re.compile(r"Stop\s*\d+ token"))
        visitor.find("#run").click()
        visitor.finished()
    footer = visitor.column("A").locator("footer")
    expect(footer).to_contain_text("stopped")
    expect(footer.locator(".good")).to_have_count(0)


def test_one_sees_that_another_visitor_is_ahead_and_can_give_up(visit, held):
    first, second = visit(), visit()
    with held() as let_go:
        first.find("#run").click()
        expect(first.find("#run")).to_contain_text(re.compile(r"\d+ token"))
        second.find("#run").click()
        expect(second.find("#run")).to_contain_text("second in line")
        second.find("#run").click()
        expect(second.find("#run")).to_have_text("Run")
        second.find("#run").click()
        expect(second.find("#run")).to_contain_text("second in line")
        let_go.set()
        first.finished()
        second.finished()


def test_the_probe_knows_what_it_does_not_know(visit):
    visitor = visit()
    for name in ("boat", "unicorn"):
        if not visitor.find("#probe button", has_text=re.compile(f"^{name}$")).count():
            visitor.find("#probe input").fill(name)
            visitor.page.keyboard.press("Enter")
    visitor.find("#probe button", has_text="Ask").click()
    header = visitor.find("#probed th")
    expect(header.filter(has_text="boat")).to_contain_text("not in it")
    expect(header.filter(has_text="unicorn")).to_contain_text(re.compile("truth not known|does not know"))
    expect(visitor.find("#probed tbody tr").first.locator("td").last).to_contain_text(re.compile(r"\d of \d"))
    visitor.find("#probe button", has_text="Ask").click()
    visitor.scene(1)
    visitor.page.wait_for_timeout(1500)
    expect(visitor.find("#probed")).to_be_empty()  # no table of the picture before


def test_text_of_answers_is_never_markup(asked):
    hostile = "<img src=x onerror=alert(1)> a bird"
    shown = asked.page.evaluate(
        """async text => {
        const {align, drawColumn} = await import("./static/display/words.js");
        const {state} = await import("./static/page.js");
        const [record] = structuredClone(state.records), end = text.length;
        Object.assign(record, {text, words: [{...record.words[0], text: "bird", start: end - 4, end}]});
        const element = document.createElement("div");
        drawColumn(element, record, align([record])[0]);
        return [element.textContent, element.querySelectorAll("img").length];
    }""",
        hostile,
    )
    assert shown == [hostile, 0]
