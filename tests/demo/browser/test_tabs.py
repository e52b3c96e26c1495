"""The tabs for objects asked one by one and for results of runs, down to items that are compared anew."""

from __future__ import annotations

import re
from contextlib import closing

import pytest

from mmhall.benchmarks.report.table import sections
from mmhall.benchmarks.run.runs import reopen
from mmhall.benchmarks.scenes.world import NAMES
from mmhall.demo.probe import default_objects
from mmhall.demo.runs import disagreements, filters, load
from mmhall.demo.scenes import bundled_scenes
from tests.demo.browser.visitor import expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]


STOP_ONCE_SAID = """() => {
  const said = document.querySelector('#probe tbody .mm-said');
  if (said) document.querySelector('#probe-stop').click();
  return said;
}"""


@pytest.fixture
def opened(disputed_root):
    run = reopen(disputed_root / "first")
    with closing(run.store):
        yield run


def open_run(visitor):
    visitor.tab("Runs")
    visitor.pick("Run", "first")
    expect(visitor.page.locator("#overview table").first).to_be_visible()
    expect(visitor.page.locator("#items .mm-card").first).to_be_visible()


def cells(locator):
    return [" ".join(text.split()) for text in locator.all_inner_texts()]


@pytest.mark.long  # 24 objects, four strategies
def test_objects_are_asked_one_by_one_until_stopped_or_asked_anew(visit, embedded):
    visitor = visit()
    visitor.tab("Probe")
    visitor.page.locator("#ask").click()
    assert "names" in visitor.toast()
    visitor.page.locator("#suggest").click()
    scene = bundled_scenes()[4]
    field = visitor.page.locator("#objects textarea")
    expect(field).to_have_value(", ".join(default_objects(scene.present)))
    objects = (*scene.present, "boat", "sandwich")
    visitor.fill(field, ", ".join(objects))
    visitor.page.locator("#ask").click()
    each_object_is_judged(visitor, embedded, scene, objects)
    visitor.tab("Compare")
    visitor.columns(4)
    visitor.write(1, "beam(num_beams=16)")  # asks object by object
    visitor.tab("Probe")
    visitor.fill(field, ", ".join(NAMES[:24]))
    visitor.page.locator("#ask").click()
    table = visitor.page.locator("#probe table")
    expect(table.locator("tbody tr")).to_have_count(24)
    visitor.page.wait_for_function(STOP_ONCE_SAID)
    expect(table.locator("td.mm-none").filter(has_text="stopped")).to_have_count(4)
    assert 0 < table.locator(".mm-said").count() < 24
    visitor.fill(field, ", ".join(NAMES[1:25]))
    visitor.page.locator("#ask").click()
    expect(table.locator("tbody th").first).to_have_text(NAMES[1])
    expect(table.locator("tbody .mm-said").first).to_be_visible()
    visitor.fill(field, "bird, cup")
    visitor.page.locator("#ask").click()
    expect(table.locator("tbody tr")).to_have_count(2)
    expect(table.locator("tbody .mm-said")).to_have_count(8)


def each_object_is_judged(visitor, embedded, scene, objects):
    table = visitor.page.locator("#probe table")
    expect(table.locator("tfoot tr").first).to_contain_text(re.compile(r"\d of 5.*\d of 5"))
    wrong = 0
    for row, name in enumerate(objects):
        line = table.locator("tbody tr").nth(row)
        for column, spec in enumerate(("greedy", "vcd")):
            answer = embedded.generate(scene.scene.image, f"Is there {_a(name)} in the image?", spec).text
            said = "yes" if answer.lower().startswith("yes") else "no"
            cell = line.locator("td").nth(1 + column)
            expect(cell.locator(".mm-said")).to_have_text(said)
            right = (said == "yes") == (name in scene.present)
            expect(cell).to_have_class("mm-right" if right else "mm-wrong")
            expect(cell).to_contain_text("right" if right else "wrong")
            wrong += not right
    assert table.locator(".mm-wrong").count() == wrong


def test_a_run_is_opened_filtered_and_compared_anew(visit, opened, embedded):
    visitor = visit()
    open_run(visitor)
    figures_are_those_of_the_report(visitor, opened)
    disagreements_are_filtered(visitor, opened)
    an_item_is_compared_anew(visitor, opened, embedded)
    visitor.tab("Runs")
    expect(visitor.page.locator("#items .mm-card").first).to_be_visible()
    visitor.pick("Run", "group/begun")
    expect(visitor.page.locator("#overview")).to_contain_text("No answers yet")
    expect(visitor.page.locator("#items")).to_contain_text("No disagreements")
    visitor.pick("Run", "torn")
    assert "torn" in visitor.toast()
    none_is_open(visitor)
    visitor.pick("Run", "group/begun")
    expect(visitor.page.locator("#items")).to_contain_text("No disagreements")
    visitor.page.locator("#refresh").click()
    none_is_open(visitor)


def none_is_open(visitor):
    expect(visitor.page.locator("#overview")).to_contain_text("No run is open")
    expect(visitor.page.locator("#items")).to_have_text("")


def figures_are_those_of_the_report(visitor, opened):
    main = [section for section in sections(opened.evaluate()) if not section.table]
    for index, section in enumerate(main):
        table = visitor.page.locator("#overview .mm-runs > .mm-scroll table").nth(index)
        assert table.locator("caption").inner_text() == section.title
        for row, line in enumerate(section.lines):
            shown = cells(table.locator("tbody tr").nth(row).locator("td"))
            told = [f"{value} {line.differences[i] or ''}" for i, value in enumerate(line.values)]
            assert shown == [" ".join(text.split()) for text in told]
    expect(visitor.page.locator("#overview figure svg")).to_be_visible()


def disagreements_are_filtered(visitor, opened):
    benchmark = opened.parts[0].benchmark.name
    cards = visitor.page.locator("#items .mm-card")
    expect(cards).to_have_count(len(disagreements(opened, benchmark)))
    _, hows = filters(opened, benchmark)
    visitor.pick("How well it shows", hows[0])
    expect(cards).to_have_count(len(disagreements(opened, benchmark, visibility=hows[0])))


def an_item_is_compared_anew(visitor, opened, embedded):
    visitor.pick("Benchmark", "chair")
    items = disagreements(opened, "chair")
    button = visitor.page.locator(f"#items button[data-item='{items[0].item}']")
    expect(visitor.page.locator("#items .mm-card")).to_have_count(len(items))
    button.click()
    loaded = load(opened, "chair", items[0].item)
    expect(visitor.page.get_by_role("tab", name="Compare")).to_have_attribute("aria-selected", "true")
    expect(visitor.page.get_by_role("textbox", name="Prompt")).to_have_value(loaded.prompt)
    for column, spec in enumerate(loaded.strategies, 1):
        expect(visitor.spec(column)).to_have_value(spec)
    expect(visitor.page.locator("#present").get_by_role("checkbox")).to_have_count(len(loaded.present))
    answers = visitor.run()
    settings = {"max_new_tokens": loaded.max_new_tokens}
    assert answers == [embedded.generate(loaded.picture, loaded.prompt, s, **settings).text for s in loaded.strategies]


def _a(name):
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
