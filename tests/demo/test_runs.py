from __future__ import annotations

import html
import os
import re
import shutil
import sqlite3
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from mmhall.benchmarks.data.vocabulary import mentions
from mmhall.benchmarks.report.table import cost_lines, remarks, sections
from mmhall.benchmarks.rules.yesno import parse_strict
from mmhall.benchmarks.run.runs import reopen
from mmhall.demo.runs import (
    CAUSES,
    disagreements,
    disagreements_html,
    filters,
    list_runs,
    load,
    no_runs_notice,
    open_run,
    overview,
)
from mmhall.errors import ImageError, RunError
from tests.demo.conftest import STRATEGIES

pytestmark = pytest.mark.slow

EVERYTHING = 10_000
CAPTION_TABLES = ("what needs no method", "by length", "hallucinated by position", "text")


def text_of(markup):
    """What is read, blanks put together."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def answers(run, benchmark):
    """Item to strategy to text."""
    told = {}
    for row in run.store.rows(benchmark):
        told.setdefault(row.item, {})[row.strategy] = row.text
    return told


def items(run, benchmark):
    return {item.id: item for part in run.parts if part.benchmark.name == benchmark for item in part.items}


def recounted(run, benchmark):
    """Contested objects of each item: name to whether it is there; counted without the code under test."""
    counted = {}
    for id_, texts in answers(run, benchmark).items():
        item = items(run, benchmark)[id_]
        if benchmark == "pope":
            said = {parse_strict(text) == item.truth["label"] for text in texts.values()}
            contested = {item.truth["object"]: item.truth["label"] == "yes"} if len(said) > 1 else {}
        else:
            named = [{m.name for m in mentions(text)} for text in texts.values()]
            disputed = set.union(*named) - set.intersection(*named)
            contested = {name: name in item.truth["objects"] for name in disputed}
        if contested:
            counted[id_] = contested
    return counted


def causes_of(item, contested):
    absent = [name for name, there in contested.items() if not there]
    if "label" in item.truth:
        return {group for group in item.groups if absent}
    return {item.truth["causes"].get(name, "random") for name in absent}


def visibilities_of(item, contested):
    present = [name for name, there in contested.items() if there]
    how = item.truth["visibility"]
    return {how if isinstance(how, str) else how[name] for name in present}


class TestFinding:
    def test_runs_are_found_newest_first(self, runs_root):
        assert list_runs(runs_root) == ["first", "group/begun"]

    def test_answers_that_are_only_logged_make_a_run_newer(self, own_root):
        os.utime(own_root / "first" / "run.sqlite", (5, 5))
        os.utime(own_root / "group" / "begun" / "run.sqlite", (3, 3))
        assert list_runs(own_root) == ["first", "group/begun"]
        log = own_root / "group" / "begun" / "run.sqlite-wal"
        log.write_bytes(b"")
        assert list_runs(own_root) == ["first", "group/begun"]
        log.write_bytes(b"x")
        assert list_runs(own_root) == ["group/begun", "first"]

    def test_the_root_may_be_a_run(self, runs_root):
        assert list_runs(runs_root / "first") == ["."]
        assert open_run(runs_root / "first", ".").strategies == STRATEGIES

    def test_no_deeper_than_three_folders(self, own_root):
        shutil.copytree(own_root / "first", own_root / "a" / "b" / "three")
        shutil.copytree(own_root / "first", own_root / "a" / "b" / "c" / "four")
        assert sorted(list_runs(own_root)) == ["a/b/three", "first", "group/begun"]

    def test_links_are_not_followed(self, own_root, runs_root):
        (own_root / "out").symlink_to(runs_root / "first")
        (own_root / "loop").symlink_to(own_root)
        (own_root / "file").mkdir()
        (own_root / "file" / "run.sqlite").symlink_to(runs_root / "first" / "run.sqlite")
        (own_root / "log").mkdir()
        shutil.copy(runs_root / "first" / "run.sqlite", own_root / "log")
        (own_root / "log" / "run.sqlite-wal").symlink_to(own_root / "elsewhere")
        assert sorted(list_runs(own_root)) == ["first", "group/begun"]
        for name in ("out", "loop/first", "file", "log"):
            with pytest.raises(RunError, match="there is no run called"):
                open_run(own_root, name)

    def test_the_root_itself_may_be_a_link(self, runs_root, tmp_path):
        (tmp_path / "link").symlink_to(runs_root)
        assert list_runs(tmp_path / "link") == ["first", "group/begun"]
        assert open_run(tmp_path / "link", "first").strategies == STRATEGIES

    def test_folders_named_to_deceive_or_closed_are_passed_over(self, own_root):
        shutil.copytree(own_root / "group" / "begun", own_root / "two\nlines")
        (own_root / "run.sqlite").mkdir()
        assert sorted(list_runs(own_root)) == ["first", "group/begun"]

    def test_no_folder_no_runs(self, tmp_path):
        assert list_runs(tmp_path) == list_runs(tmp_path / "nowhere") == []
        assert "mmhall bench ... --out runs/first" in no_runs_notice()


class TestOpening:
    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".",
            "..",
            "../runs/first",
            "first/",
            "./first",
            "first/../first",
            "group//begun",
            "group\\begun",
            "FIRST",
            "first\0",
            "first\n",
            " first",
            "file:first",
            "file:///etc/passwd",
            "http://example.org/first",
            "first?mode=rw",
            "%66irst",
            "~",
            "nothing",
            None,
            7,
            ["first"],
        ],
    )
    def test_a_name_that_is_not_listed_is_refused(self, runs_root, name):
        with pytest.raises(RunError, match="there is no run called"):
            open_run(runs_root, name)

    def test_a_path_is_no_name(self, runs_root):
        for path in (runs_root / "first", str(runs_root / "first"), f"../{runs_root.name}/first"):
            with pytest.raises(RunError, match="there is no run called"):
                open_run(runs_root, path)

    def test_nothing_outside_the_root_is_opened(self, runs_root, own_root, monkeypatch):
        opened = []
        connect = sqlite3.connect

        def noted(path, *args, **settings):
            opened.append(str(path))
            return connect(path, *args, **settings)

        monkeypatch.setattr(sqlite3, "connect", noted)
        (own_root / "out").symlink_to(runs_root / "first")
        for name in ("out", "../runs/first", str(runs_root / "first"), "first"):
            try:
                open_run(own_root, name)
            except RunError:
                continue
        assert opened == [str(own_root.resolve() / "first" / "run.sqlite")]

    def test_a_damaged_run_is_told_by_its_name(self, own_root):
        (own_root / "first" / "run.sqlite-wal").unlink(missing_ok=True)
        (own_root / "first" / "run.sqlite").write_bytes(b"no database at all" * 100)
        with pytest.raises(RunError, match=r"^first/run.sqlite: ") as told:
            open_run(own_root, "first")
        assert str(own_root) not in str(told.value)


class TestOverview:
    def test_figures_are_the_reports(self, run):
        shown = text_of(overview(run))
        evaluated = run.evaluate()
        laid = sections(evaluated)
        titles = {section.title.split(":")[0] for section in laid if not section.table}
        assert {title for title in titles if "evidence" not in title} == {
            "pope, accuracy in percent by setting; the mean of 3 counts each once",
            "pope, F1 in percent by setting; the mean of 3 counts each once",
            "pope random",
            "pope popular",
            "pope adversarial",
            "chair equal mentions",
            "chair equal length",
            "chair captions",
            *(f"chair captions, {table}" for table in CAPTION_TABLES),
        }
        for section in laid:
            head = f"{section.title} strategy {' '.join(section.metrics)}"
            lines = [
                " ".join(
                    [line.strategy, *(f"{v} {d}".strip() for v, d in zip(line.values, line.differences, strict=True))]
                )
                for line in section.lines
            ]
            assert " ".join(" ".join([head, *lines]).split()) in shown
        for cost in cost_lines(evaluated):
            assert " ".join(cost) in shown
        for remark in remarks(evaluated, run.fitted):
            assert " ".join(remark.split()) in shown

    def test_tables_scroll_and_can_be_read_by_screen_readers(self, run):
        shown = overview(run)
        tables = len(sections(run.evaluate())) + 1
        assert shown.count("<table>") == shown.count("<caption>") == tables
        assert shown.count('class="mm-scroll" tabindex="0" role="region"') == tables
        assert len(re.findall(r'<div class="mm-scroll"[^>]*>\s*<table>', shown)) == tables

    def test_the_plot_is_a_drawing_with_words(self, run):
        shown = overview(run)
        drawing = re.search(r'<div role="img" aria-label="([^"]+)">(<svg.*?</svg>)', shown, re.DOTALL)
        assert drawing[1].startswith("Quality against cost")
        ElementTree.fromstring(drawing[2])
        assert "<figcaption>" in shown

    def test_a_run_without_answers_says_so(self, runs_root):
        run = open_run(runs_root, "group/begun")
        assert "No answers yet" in overview(run)
        assert disagreements(run, "pope") == []
        assert filters(run, "chair") == ((), ())

    def test_a_run_of_which_no_item_is_answered_by_all_shows_no_figures(self, own_root):
        run = reopen(own_root / "first")
        with run.store.writing() as connection:
            connection.execute("delete from answers where strategy = 'vhr'")
        shown = overview(run)
        assert "No item is answered by all strategies yet" in shown
        assert "<svg" not in shown
        assert disagreements(run, "pope") == []

    def test_what_a_run_holds_is_escaped(self, own_root):
        run = reopen(own_root / "first")
        evil = "<img src=x onerror=alert(1)>"
        with run.store.writing() as connection:
            connection.execute("update setup set value = ? where key = 'model'", (f'"{evil}"',))
            connection.execute("update answers set text = text || ' a cup ' || ?", (evil,))
            connection.execute("update answers set text = ? where strategy = 'vcd'", (f"No fork {evil}",))
        shown = overview(run) + disagreements_html(disagreements(run, "chair") + disagreements(run, "pope"))
        assert "<img src=x" not in shown
        assert html.escape(evil) in shown


@pytest.mark.parametrize("benchmark", ["pope", "chair"])
class TestDisagreements:
    def test_all_that_differ_are_listed_and_nothing_else(self, disputed, benchmark):
        listed = disagreements(disputed, benchmark, limit=EVERYTHING)
        assert len(listed) > 3
        counted = recounted(disputed, benchmark)
        assert sorted(one.item for one in listed) == sorted(counted)
        for one in listed:
            item = items(disputed, benchmark)[one.item]
            assert set(one.causes) == causes_of(item, counted[one.item])
            assert set(one.visibilities) == visibilities_of(item, counted[one.item])

    def test_filters_keep_what_they_say(self, disputed, benchmark):
        counted = recounted(disputed, benchmark)
        known = items(disputed, benchmark)
        causes, visibilities = filters(disputed, benchmark)
        assert set(causes) == {cause for id_, one in counted.items() for cause in causes_of(known[id_], one)}
        assert set(visibilities) == {how for id_, one in counted.items() for how in visibilities_of(known[id_], one)}
        assert causes
        assert visibilities
        assert list(causes) == [cause for cause in CAUSES if cause in causes]
        for cause in ("any", *causes, "nonsense"):
            for how in ("any", *visibilities, "nonsense"):
                wanted = {
                    id_
                    for id_, one in counted.items()
                    if cause in ("any", *causes_of(known[id_], one))
                    and how in ("any", *visibilities_of(known[id_], one))
                }
                listed = disagreements(disputed, benchmark, cause, how, EVERYTHING)
                assert {one.item for one in listed} == wanted

    def test_everybodys_answer_is_told_in_full(self, disputed, benchmark):
        told = answers(disputed, benchmark)
        for one in disagreements(disputed, benchmark, limit=EVERYTHING):
            said = {s: "".join(p.text for p in alike.pieces) for alike in one.answers for s in alike.strategies}
            assert said == told[one.item]
            assert len({tuple(p.text for p in alike.pieces) for alike in one.answers}) == len(one.answers)
            assert one.answers[0].strategies[0] == "greedy"

    def test_the_most_made_up_comes_first(self, disputed, benchmark):
        counted = recounted(disputed, benchmark)
        listed = disagreements(disputed, benchmark, limit=EVERYTHING)
        made_up = [sum(not there for there in counted[one.item].values()) for one in listed]
        assert made_up == sorted(made_up, reverse=True)
        assert disagreements(disputed, benchmark, limit=2) == listed[:2]
        assert disagreements(disputed, benchmark, limit=0) == disagreements(disputed, benchmark, limit=-1) == []

    def test_cards_hold_a_button_each_and_a_picture_with_words(self, disputed, benchmark):
        listed = disagreements(disputed, benchmark, limit=5)
        shown = disagreements_html(listed)
        buttons = re.findall(r'<button type="button" data-index="(\d+)" data-item="([^"]+)">', shown)
        assert buttons == [(str(n), html.escape(one.item)) for n, one in enumerate(listed)]
        alts = re.findall(r'<img src="data:image/jpeg;base64,[^"]+" alt="([^"]+)"', shown)
        scenes = items(disputed, "chair")
        assert alts == [f"Picture {one.picture}: {', '.join(scenes[one.picture].truth['objects'])}" for one in listed]
        wrong = [piece for one in listed for alike in one.answers for piece in alike.pieces if piece.kind == "wrong"]
        assert shown.count('<span class="mm-bad">') == len(wrong) + 1  # and the key to them
        assert shown.count(" (wrong) </span>") == len(wrong) > 0

    def test_an_item_without_its_picture_is_still_listed(self, own_root, benchmark):
        run = reopen(own_root / "first")
        before = disagreements(run, benchmark, limit=3)
        shutil.rmtree(own_root / "first" / "scenes")
        after = disagreements(run, benchmark, limit=3)
        assert [one.item for one in after] == [one.item for one in before]
        assert {one.thumbnail for one in after} == {""}
        assert disagreements_html(after).count("The picture is not at hand any more.") == len(before) > 1

    def test_an_item_is_loaded_as_it_was_asked(self, disputed, benchmark):
        first = disagreements(disputed, benchmark)[0]
        loaded = load(disputed, benchmark, first.item)
        part = next(part for part in disputed.parts if part.benchmark.name == benchmark)
        item = items(disputed, benchmark)[first.item]
        assert loaded.picture.mode == "RGB"
        assert loaded.picture.size == (224, 224)
        assert (loaded.prompt, loaded.max_new_tokens) == (item.prompt, part.benchmark.max_new_tokens)
        assert loaded.present == tuple(items(disputed, "chair")[item.picture].truth["objects"])
        assert set(loaded.strategies) == set(STRATEGIES)
        assert loaded.strategies[0] == "greedy"
        assert loaded.model == "embedded"

    def test_a_picture_that_is_gone_is_told_without_its_path(self, own_root, benchmark):
        run = reopen(own_root / "first")
        item = disagreements(run, benchmark)[0].item
        shutil.rmtree(own_root / "first" / "scenes")
        with pytest.raises(ImageError, match="can no longer be shown: it does not exist") as told:
            load(run, benchmark, item)
        assert str(own_root) not in str(told.value)


def test_what_is_wrong_for_whom_and_what_is_left_out(disputed):
    said = answers(disputed, "chair")
    for one in disagreements(disputed, "chair", limit=EVERYTHING):
        there = set(items(disputed, "chair")[one.item].truth["objects"])
        named = {strategy: {m.name for m in mentions(text)} for strategy, text in said[one.item].items()}
        for alike in one.answers:
            own = named[alike.strategies[0]]
            assert set(alike.wrong) == own - there
            assert set(alike.missing) == (set.union(*named.values()) & there) - own
    for one in disagreements(disputed, "pope", limit=EVERYTHING):
        label = items(disputed, "pope")[one.item].truth["label"]
        for alike in one.answers:
            text = said_of(disputed, one.item, alike.strategies[0])
            assert alike.wrong == (() if parse_strict(text) == label else ("the answer",))
            assert alike.missing == ()


def said_of(disputed, item, strategy):
    return answers(disputed, "pope")[item][strategy]


@pytest.mark.parametrize(
    ("benchmark", "said"),
    [
        ("chair", {"greedy": "A couch and a dog.", "vcd": "Puppies on a sofa.", "vhr": "One dog, one couch."}),
        ("pope", {"greedy": "Yes", "vcd": "yes, there is.", "vhr": "**Yep**"}),
    ],
)
def test_the_same_in_other_words_is_no_disagreement(own_root, benchmark, said):
    run = reopen(own_root / "first")
    with run.store.writing() as connection:
        for strategy, text in said.items():
            connection.execute(
                "update answers set text = ? where benchmark = ? and strategy = ?", (text, benchmark, strategy)
            )
    assert disagreements(run, benchmark) == []


def test_strategies_worth_comparing_go_first(own_root):
    run = reopen(own_root / "first")
    part = next(part for part in run.parts if part.benchmark.name == "pope")
    item = part.items[0]
    many = replace(run, strategies=("greedy", "beam", "vcd", "pai", "vaf", "vhr"))
    label = item.truth["label"]
    other = "No" if label == "yes" else "Yes"
    with run.store.writing() as connection:
        connection.execute("delete from answers where item = ?", (item.id,))
        for strategy in many.strategies:
            text = other if strategy in ("vaf", "vhr") else label
            row = ("pope", item.id, strategy, text, "eos", 1, 0.1, 0, None, None)
            connection.execute("insert into answers values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    assert load(many, "pope", item.id).strategies == ("greedy", "vaf", "vhr", "beam")


def test_unknown_benchmarks_and_items_are_refused(run):
    for ask in (disagreements, filters):
        with pytest.raises(RunError, match="this run has no benchmark 'mme', only pope, chair"):
            ask(run, "mme")
    with pytest.raises(RunError, match=r"pope has no item '\.\./1' in this run"):
        load(run, "pope", "../1")


def test_nothing_to_list_says_why():
    assert "agree on every item" in disagreements_html([])
    told = text_of(disagreements_html([], "random", "faint"))
    assert "disagree with cause “random” and visibility “faint”" in told
    assert "visibility" not in disagreements_html([], "random")
    assert "<b>" not in disagreements_html([], "<b>")
