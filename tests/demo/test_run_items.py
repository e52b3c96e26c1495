"""Items behind a figure: counted again by hand, all reachable, and opened from the store without a model."""

from __future__ import annotations

import html
import json
import re
import shutil
from contextlib import closing

import pytest

from mmhall.benchmarks.data.vocabulary import mentions
from mmhall.benchmarks.rules.yesno import parse_strict
from mmhall.benchmarks.run.runs import reopen
from mmhall.demo.run_items import CAUSES, PAGE, contested_items, items, stored_item
from mmhall.demo.runs import open_run
from mmhall.errors import ImageError, OptionError, RunError

pytestmark = pytest.mark.slow

ACCURACY = ("pope", "adversarial", "accuracy")
CHAIR_I = ("chair", "captions", "CHAIR_i")
FIGURES = [ACCURACY, CHAIR_I, ("chair", "captions", "recall"), ("chair", "equal mentions", "CHAIR_i")]


@pytest.fixture(scope="module")
def root(disputed_root):
    return disputed_root


@pytest.fixture
def told(disputed):
    """Benchmark to item to strategy to text."""
    found = {}
    for part in disputed.parts:
        for row in disputed.store.rows(part.benchmark.name):
            found.setdefault(part.benchmark.name, {}).setdefault(row.item, {})[row.strategy] = row.text
    return found


def known(run, benchmark):
    return {item.id: item for part in run.parts if part.benchmark.name == benchmark for item in part.items}


def opened(shown):
    """The items of a page, in order, as their buttons name them."""
    calls = [json.loads(html.unescape(call)) for call in re.findall(r'data-call="([^"]*)"', shown)]
    assert all(call[0] == "item" for call in calls)
    return [call[3] for call in calls]


def difference(root, benchmark, group, metric, strategy):
    """The difference that the table shows, in the figure's unit."""
    for _, evaluation in open_run(root, "first").evaluated:
        for cell in evaluation.cells:
            if (cell.benchmark, cell.group, cell.metric.name, cell.strategy) == (benchmark, group, metric, strategy):
                return cell.difference.value * cell.metric.scale
    raise AssertionError(metric)


@pytest.mark.parametrize("strategy", ["vcd", "vhr"])
def test_accuracy_lists_the_questions_that_one_of_the_two_answers_right(root, disputed, told, strategy):
    expected = {}
    for id_, item in known(disputed, "pope").items():
        right = [parse_strict(told["pope"][id_][one]) == item.truth["label"] for one in ("greedy", strategy)]
        if right[0] != right[1] and "adversarial" in item.groups:
            expected[id_] = "better" if right[1] else "worse"
    found = contested_items(open_run(root, "first"), *ACCURACY, strategy)
    assert {one.item.id: one.side for one in found} == expected
    assert len(expected) > 0 or strategy == "vcd"
    assert sum(one.effect for one in found) == pytest.approx(difference(root, *ACCURACY, strategy))


def test_chair_lists_captions_that_name_other_objects_and_the_largest_effect_comes_first(root, disputed, told):
    counted = {}
    for id_, item in known(disputed, "chair").items():
        named = {one: [m.name for m in mentions(told["chair"][id_][one])] for one in ("greedy", "vcd")}
        counted[id_] = {one: (sum(n not in item.truth["objects"] for n in own), len(own)) for one, own in named.items()}
    absent, total = (sum(own["greedy"][k] for own in counted.values()) for k in (0, 1))
    found = contested_items(open_run(root, "first"), *CHAIR_I, "vcd")
    assert {one.item.id for one in found} == {id_ for id_, own in counted.items() if own["greedy"] != own["vcd"]}
    assert found
    for one in found:
        (base, of), (own, own_of) = counted[one.item.id]["greedy"], counted[one.item.id]["vcd"]
        alone = (absent - base + own) / (total - of + own_of) - absent / total
        assert one.effect == pytest.approx(100 * alone)
        assert one.side == ("" if not alone else "better" if alone < 0 else "worse")
    sizes = [abs(one.effect) for one in found]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("figure", FIGURES)
def test_filters_keep_what_they_say(root, disputed, told, figure):
    benchmark = figure[0]
    for one in contested_items(open_run(root, "first"), *figure, "vhr"):
        item = known(disputed, benchmark)[one.item.id]
        if benchmark == "pope":
            absent, present = item.truth["label"] == "no", item.truth["label"] == "yes"
            assert set(one.causes) == {group for group in item.groups if absent}
            assert set(one.visibilities) == ({item.truth["visibility"]} if present else set())
        else:
            named = [{m.name for m in mentions(text)} for text in one.texts]
            only = named[0] ^ named[1]
            wrong = only - set(item.truth["objects"])
            assert set(one.causes) == {item.truth["causes"].get(name, "random") for name in wrong}
            assert set(one.visibilities) == {item.truth["visibility"][name] for name in only - wrong}
    everything = items(root, "first", *figure, "vhr")
    for name, values in (("cause", CAUSES), ("visibility", ("clear", "faint")), ("side", ("better", "worse"))):
        for value in values:
            kept = items(root, "first", *figure, "vhr", **{name: value})
            option = re.search(rf'<option value="{value}"[^>]*>[^<]*\((\d+)\)', everything["html"])
            assert (
                kept["total"] == (int(option[1]) if option else 0) == len(opened(kept["html"])) or kept["total"] > PAGE
            )


def test_every_item_can_be_reached(own_root):
    run = reopen(own_root / "first")
    with closing(run.store), run.store.writing() as connection:
        connection.execute(
            "update answers set text = case when text like 'Yes%' then 'No' else 'Yes' end "
            "where benchmark = 'pope' and strategy = 'vhr'"
        )
    listed, offset, total = [], 0, 1
    while offset < total:
        page = items(own_root, "first", *ACCURACY, "vhr", offset=offset)
        assert ("<ol" in page["html"]) == (offset == 0)
        listed += opened(page["html"])
        offset, total = page["shown"], page["total"]
        assert offset == len(listed)
    assert total > 2 * PAGE
    assert len(set(listed)) == total == len(contested_items(open_run(own_root, "first"), *ACCURACY, "vhr"))
    past = items(own_root, "first", *ACCURACY, "vhr", offset=total)
    assert (past["shown"], opened(past["html"])) == (total, [])


@pytest.mark.parametrize("figure", [ACCURACY, CHAIR_I])
def test_a_stored_answer_opens_as_it_stands_in_the_store(root, disputed, told, figure):
    benchmark = figure[0]
    one = contested_items(open_run(root, "first"), *figure, "vhr")[0]
    shown = stored_item(root, "first", benchmark, one.item.id, "vhr")
    item, (greedy, vhr) = known(disputed, benchmark)[one.item.id], shown["columns"]
    objects = known(disputed, "chair")[item.picture].truth["objects"]
    assert [column["strategy"] for column in (greedy, vhr)] == shown["setup"]["strategies"] == ["greedy", "vhr"]
    assert [column["text"] for column in (greedy, vhr)] == [told[benchmark][item.id][s] for s in ("greedy", "vhr")]
    assert {column["id"] for column in (greedy, vhr)} == {""}
    assert (shown["setup"]["prompt"], shown["setup"]["present"]) == (item.prompt, objects)
    assert shown["image"].startswith("data:image/png;base64,")
    assert (shown["model"], "no tokens are stored" in shown["notes"][0]) == ("embedded", True)
    for column, text in zip((greedy, vhr), one.texts, strict=True):
        if benchmark == "pope":
            right = parse_strict(text) == item.truth["label"]
            assert (column["verdict"]["truth"], column["verdict"]["right"]) == (item.truth["label"], right)
        else:
            assert column["objects"]["made_up"] == list(
                dict.fromkeys(m.name for m in mentions(text) if m.name not in objects)
            )
            assert all(word["gain"] is None and not word["tokens"] for word in column["words"])


def test_what_cannot_be_shown_is_said_without_a_path(own_root):
    shutil.rmtree(own_root / "first" / "scenes")
    page = items(own_root, "first", *CHAIR_I, "vcd")
    assert "The picture is not at hand any more." in page["html"]
    with pytest.raises(ImageError, match="can no longer be shown: it does not exist") as said:
        stored_item(own_root, "first", "chair", opened(page["html"])[0], "vcd")
    assert str(own_root) not in str(said.value)


def test_what_a_run_does_not_have_is_refused(root):
    for place, said in {
        ("mme", "adversarial", "accuracy", "vcd"): "this run has no benchmark 'mme', only pope, chair",
        ("pope", "nothing", "accuracy", "vcd"): "pope has no figure 'accuracy' of 'nothing'",
        ("pope", "adversarial", "CHAIR_i", "vcd"): "pope has no figure 'CHAIR_i'",
        ("pope", "adversarial", "accuracy", "pai"): "this run has no strategy 'pai', only greedy, vcd, vhr",
    }.items():
        with pytest.raises(RunError, match=said):
            items(root, "first", *place)
    with pytest.raises(RunError, match=r"there is no run called '\.\./first'"):
        items(root, "../first", *ACCURACY, "vcd")
    with pytest.raises(RunError, match=r"pope has no item '\.\./1' in this run"):
        stored_item(root, "first", "pope", "../1", "vcd")
    for offset in (-1, 1.5, "20", True, None):
        with pytest.raises(OptionError, match="offset"):
            items(root, "first", *ACCURACY, "vcd", offset=offset)
    for odd in (["pope"], {"a": 1}, None, 7):
        with pytest.raises(RunError):
            items(root, "first", odd, "adversarial", "accuracy", "vcd")
        with pytest.raises(RunError):
            items(root, "first", "pope", odd, "accuracy", "vcd")
        with pytest.raises(RunError):
            items(root, "first", *ACCURACY, odd)


def test_answers_are_escaped(own_root):
    run = reopen(own_root / "first")
    evil = "<img src=x onerror=alert(1)>"
    with closing(run.store), run.store.writing() as connection:
        connection.execute("update answers set text = ? where strategy = 'vcd'", (f"No fork, a cup \u202e {evil}",))
    shown = items(own_root, "first", *CHAIR_I, "vcd")["html"] + items(own_root, "first", *ACCURACY, "vcd")["html"]
    assert "<img src=x" not in shown
    assert html.escape(evil) in shown
    assert "\u202e" not in shown
