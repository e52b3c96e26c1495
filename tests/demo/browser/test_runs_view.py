"""The Runs and Examples views in a browser: a figure opens all its items, an item its stored answers; no model runs."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import Future
from contextlib import closing

import pytest

from mmhall.benchmarks.run.runs import reopen
from mmhall.demo.examples import stored_example
from mmhall.demo.run_items import contested_items
from mmhall.demo.runs import open_run
from mmhall.demo.serve import Address, serving
from tests.demo.browser.conftest import PHONE
from tests.demo.browser.visitor import expect

Axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe

pytestmark = [pytest.mark.slow, pytest.mark.browser]

ACCURACY = '[data-group="adversarial"][data-metric="accuracy"][data-strategy="vhr"]'
CHAIR_I = '[data-group="captions"][data-metric="CHAIR_i"][data-strategy="vcd"]'


# How far the layout moved since a moment, by Chromium's measure.
MOVED = """since => new Promise(done => {
  setTimeout(() => done(0), 300);
  const counts = entry => entry.startTime > since && !entry.hadRecentInput;
  const sum = entries => entries.filter(counts).reduce((total, entry) => total + entry.value, 0);
  new PerformanceObserver(list => done(sum(list.getEntries()))).observe({type: "layout-shift", buffered: true});
})"""


@pytest.fixture(scope="module")
def root(runs_root, tmp_path_factory):
    """A run in which "vhr" says the opposite of what it said to every question: more items than a page holds."""
    root = tmp_path_factory.mktemp("opposed") / "runs"
    shutil.copytree(runs_root, root)
    run = reopen(root / "first")
    with closing(run.store), run.store.writing() as connection:
        connection.execute(
            "update answers set text = case when text like 'Yes%' then 'No' else 'Yes' end "
            "where benchmark = 'pope' and strategy = 'vhr'"
        )
    return root


@pytest.fixture(scope="module")
def url(embedded, root):
    model = Future()
    model.set_result(embedded)
    with serving(model, Address(port=0), runs=root) as address:
        yield address


@pytest.fixture
def unasked(embedded):
    """The model must not be run."""
    calls = []
    hook = embedded.model.register_forward_pre_hook(lambda *_: calls.append(1))
    yield
    hook.remove()
    assert not calls


def come(visit, view="runs", **how):
    """Come to a view."""
    visitor = visit(**how)
    visitor.find(f"#tab-{view}").click()
    return visitor


def test_a_figure_opens_its_items_by_keyboard_and_all_can_be_reached(visit, root, unasked):
    visitor = come(visit)
    cells = visitor.find("#runs [data-metric]")
    expect(cells.first).to_be_visible()
    assert cells.evaluate_all("nodes => nodes.filter(node => node.tabIndex === 0).length") == 1
    cells.first.focus()
    goal = visitor.find(f"#runs {ACCURACY}")
    while not goal.evaluate("node => node === document.activeElement"):
        visitor.page.keyboard.press("ArrowDown")
    visitor.page.keyboard.press("Enter")
    total = len(contested_items(open_run(root, "first"), "pope", "adversarial", "accuracy", "vhr"))
    assert total > 40
    told, more = visitor.find("#runs output"), visitor.find("#runs .next")
    expect(told).to_have_text(f"20 of {total}")
    expect(goal).to_have_attribute("aria-pressed", "true")
    assert visitor.inside(visitor.find("#runs .items h2"))
    assert visitor.inside(visitor.find("#runs .cards img").first)
    while more.is_visible():
        shown = visitor.find("#runs .cards li").count()
        more.focus()
        visitor.page.keyboard.press("Enter")
        expect(visitor.find("#runs .cards li")).to_have_count(min(total, shown + 20))
        expect(visitor.find("#runs [data-call]").nth(shown)).to_be_focused()
    expect(told).to_have_text(f"{total} of {total}")


def test_a_filter_keeps_what_it_counts(visit, unasked):
    visitor = come(visit)
    visitor.find(f"#runs {CHAIR_I}").click()
    side = visitor.find("#runs select[name=side]")
    told = visitor.find("#runs output")
    expect(told).to_contain_text(" of ")
    label = side.locator("option[value=better]").inner_text()
    side.select_option("better")
    expect(told).to_have_text(re.sub(r".*\((\d+)\)", r"\1 of \1", label))
    expect(side).to_have_value("better")
    expect(visitor.find("#runs .cards .sign.worse")).to_have_count(0)
    assert visitor.find("#runs .cards .sign.better").count() == visitor.find("#runs .cards li").count() > 0


def test_a_stored_answer_opens_in_compare_as_it_stands_in_the_store(visit, root, unasked):
    visitor = come(visit)
    visitor.find(f"#runs {CHAIR_I}").click()
    button = visitor.find("#runs .cards [data-call]").first
    _, _, benchmark, item, strategy = json.loads(button.get_attribute("data-call"))
    button.click()
    expect(visitor.words("B", None).first).to_be_visible()
    answers = open_run(root, "first").answers(benchmark)
    for letter, own in (("A", "greedy"), ("B", strategy)):
        shown = " ".join(visitor.column(letter).locator(".mm-words").inner_text().split())
        said = " ".join(answers[own][item].text.split())
        assert re.sub(r"\W", "", shown) == re.sub(r"\W", "", said)
    expect(visitor.find("#note")).to_contain_text("Stored answers of the run first")
    assert visitor.find("#columns .stale").count() == 0
    assert visitor.find("#photo").evaluate("image => image.decode().then(() => image.naturalWidth)") == 224
    assert visitor.setup()["strategies"] == ["greedy", strategy]


def test_the_table_is_downloaded(visit, root):
    visitor = come(visit)
    with visitor.page.expect_download() as started:
        visitor.find("#runs a[download$='.csv']").click()
    assert started.value.suggested_filename == "first.csv"
    lines = started.value.path().read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("benchmark,group,metric,strategy,value")
    assert any(line.startswith("pope,adversarial,accuracy,vhr,") for line in lines)


def test_every_table_unfolds_and_a_run_without_answers_says_so(visit):
    visitor = come(visit)
    visitor.find("#runs details.tables summary").click()
    expect(visitor.find("#runs .more h2", has_text="pope random: ")).to_be_visible()
    visitor.find("#which select").select_option("group/begun")
    expect(visitor.find("#runs .run")).to_contain_text("No answers yet")


def test_an_example_opens_with_its_answers(visit, unasked):
    visitor = come(visit, "examples")
    visitor.find("#examples [data-call]").first.click()
    expect(visitor.words("B", None).first).to_be_visible()
    stored = stored_example(0)
    setup = visitor.setup()
    assert (setup["picture"], setup["strategies"]) == (stored["setup"]["picture"], stored["setup"]["strategies"])
    made_up = stored["columns"][0]["objects"]["made_up"] or stored["columns"][1]["objects"]["made_up"]
    if made_up:
        expect(visitor.find("#columns .mm-hallucinated").first).to_be_visible()


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.long), "dark"])
def test_on_a_phone_nothing_moves_nor_is_too_wide_and_axe_finds_no_violation(visit, scheme):
    visitor = visit(size=PHONE, scheme=scheme)
    begun = visitor.page.evaluate("performance.now()")
    visitor.find("#tab-runs").click()
    expect(visitor.find("#runs .first")).to_be_visible()
    assert visitor.page.evaluate(MOVED, begun) < 0.05
    visitor.find(f"#runs {CHAIR_I}").click()
    expect(visitor.find("#runs .cards li").first).to_be_visible()
    edges = "node => [...node.querySelectorAll(':not(.scroll *)')].map(one => one.getBoundingClientRect().right)"
    assert max(visitor.find("#runs").evaluate(edges)) <= PHONE[0]
    for view in ("runs", "examples"):
        visitor.find(f"#tab-{view}").click()
        expect(visitor.find(f"#{view} .cards li").first).to_be_visible()
        violations = Axe().run(visitor.page).response["violations"]
        assert violations == [], [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in violations]
