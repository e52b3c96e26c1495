"""Runs on the page: found and opened by name only, their first table as the report has it, and kept."""

from __future__ import annotations

import csv
import html
import io
import os
import re
import shutil
import sqlite3
from base64 import b64decode
from contextlib import closing
from threading import Thread
from time import sleep

import pytest

from mmhall.benchmarks.report.formats import as_latex, as_markdown, records
from mmhall.benchmarks.report.summary import summarise
from mmhall.benchmarks.report.table import cost_lines, remarks, sections
from mmhall.benchmarks.run.runs import reopen
from mmhall.demo import runs
from mmhall.demo.runs import Cache, list_runs, more_tables, open_run, view
from mmhall.errors import RunError
from tests.demo.conftest import STRATEGIES

pytestmark = pytest.mark.slow


def text_of(markup):
    """What is read, blanks put together."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


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
        assert set(opened) == {str(own_root.resolve() / "first" / "run.sqlite")}

    def test_a_damaged_run_is_told_by_its_name(self, own_root):
        (own_root / "first" / "run.sqlite-wal").unlink(missing_ok=True)
        (own_root / "first" / "run.sqlite").write_bytes(b"no database at all" * 100)
        with pytest.raises(RunError, match=r"^first/run.sqlite: ") as told:
            open_run(own_root, "first")
        assert str(own_root) not in str(told.value)


@pytest.fixture(scope="module")
def full(runs_root):
    """The whole evaluation of the run, as the report makes it."""
    run = reopen(runs_root / "first")
    with closing(run.store):
        evaluated = run.evaluate()
        yield run, evaluated, summarise(run, evaluated)


def cells(shown):
    """Each button of the first table: benchmark, group, metric, strategy, and its text."""
    found = re.findall(
        r'<button type="button" data-benchmark="(.*?)" data-group="(.*?)" data-metric="(.*?)" data-strategy="(.*?)"'
        r"[^>]*>(.*?)</button>",
        shown,
    )
    return {tuple(map(html.unescape, place)): text_of(text) for *place, text in found}


class TestView:
    def test_the_first_table_is_the_reports_without_its_evidence(self, runs_root, full):
        *_, summary = full
        own = open_run(runs_root, "first").summary
        assert own.heads
        left_out = {head.name for head in summary.heads if head not in own.heads}
        assert left_out == {"ticks"}
        for strategy, entries in own.lines.items():
            theirs = dict(zip(summary.heads, summary.lines[strategy], strict=True))
            assert [theirs[head] for head in own.heads] == list(entries)
        assert own.leading == summary.leading
        assert set(own.notes) == set(summary.notes)

    def test_every_compared_figure_opens_its_items(self, runs_root):
        own = open_run(runs_root, "first").summary
        shown = cells(view(runs_root, "first")["html"])
        expected = {
            (head.benchmark, head.group, head.metric, strategy): entry
            for strategy, entries in own.lines.items()
            for head, entry in zip(own.heads, entries, strict=True)
            if entry.p is not None
        }
        assert set(shown) == set(expected)
        assert {strategy for *_, strategy in shown} == set(STRATEGIES[1:])
        assert ("pope", "adversarial", "accuracy", "vcd") in shown
        for place, entry in expected.items():
            assert shown[place].startswith(entry.short)
            assert shown[place].endswith(entry.beside)

    def test_downloads_are_the_results_formats(self, runs_root, full):
        _, evaluated, _ = full
        opened = open_run(runs_root, "first")
        shown = view(runs_root, "first")["html"]
        links = dict(re.findall(r'download="first\.(\w+)" href="data:text/plain;charset=utf-8;base64,([^"]*)"', shown))
        texts = {end: b64decode(html.unescape(link)).decode() for end, link in links.items()}
        assert texts["md"] == as_markdown(opened.summary)
        assert texts["tex"] == as_latex(opened.summary)
        lines = list(csv.DictReader(io.StringIO(texts["csv"])))
        every = {(r["benchmark"], r["group"], r["metric"], r["strategy"]): r for r in records(evaluated)}
        places = {(head.benchmark, head.group, head.metric) for head in opened.summary.heads if head.metric}
        assert {(line["benchmark"], line["group"], line["metric"]) for line in lines} == places
        for line in lines:
            own = every[line["benchmark"], line["group"], line["metric"], line["strategy"]]
            assert line == {name: "" if value is None else str(value) for name, value in own.items()}

    def test_forest_and_tables_can_be_read_by_screen_readers(self, runs_root):
        shown = view(runs_root, "first")["html"]
        panels = open_run(runs_root, "first").summary.leading
        assert shown.count('<svg role="img" aria-label="') == len(panels) * (len(STRATEGIES) - 1) > 0
        assert re.search(r'<div class="scroll" tabindex="0" role="region" aria-label="[^"]+">\s*<table', shown)

    def test_every_table_has_what_the_report_has(self, runs_root, full):
        run, evaluated, summary = full
        shown = text_of(more_tables(runs_root, "first")["html"])
        for section in sections(evaluated):
            assert " ".join(f"{section.title} strategy {' '.join(section.metrics)}".split()) in shown
            for line in section.lines:
                pairs = zip(line.values, line.differences, strict=True)
                told = " ".join([line.strategy, *(f"{value} {difference}" for value, difference in pairs)])
                assert " ".join(told.split()) in shown
        for cost in cost_lines(evaluated):
            assert " ".join(cost) in shown
        for text in (*remarks(evaluated, run.fitted), *summary.lead, *(one.text for one in summary.statements)):
            assert " ".join(text.split()) in shown

    def test_a_run_without_answers_says_so(self, runs_root):
        assert "No answers yet" in view(runs_root, "group/begun")["html"]

    def test_a_run_of_which_no_item_is_answered_by_all_shows_no_figures(self, own_root):
        run = reopen(own_root / "first")
        with closing(run.store), run.store.writing() as connection:
            connection.execute("delete from answers where strategy = 'vhr'")
        shown = view(own_root, "first")["html"]
        assert "No item is answered by all strategies yet" in shown
        assert "<svg" not in shown

    def test_what_a_run_holds_is_escaped(self, own_root):
        run = reopen(own_root / "first")
        evil = "<img src=x onerror=alert(1)>"
        with closing(run.store), run.store.writing() as connection:
            connection.execute("update setup set value = ? where key = 'model'", (f'"{evil}"',))
        shown = view(own_root, "first")["html"] + more_tables(own_root, "first")["html"]
        assert "<img src=x" not in shown
        assert html.escape(evil) in shown

    def test_a_run_is_read_once_until_its_file_changes(self, own_root, monkeypatch):
        opened = []
        monkeypatch.setattr(runs, "reopen", lambda folder: opened.append(folder) or reopen(folder))
        before = view(own_root, "first")
        assert view(own_root, "first") == before
        assert len(opened) == 1
        run = reopen(own_root / "first")
        with closing(run.store), run.store.writing() as connection:
            connection.execute("update answers set text = 'No' where strategy = 'vhr' and benchmark = 'pope'")
        assert view(own_root, "first") != before
        assert len(opened) == 2


def test_who_asks_for_what_is_being_computed_waits_for_it():
    made = []

    def make(key):
        made.append(key)
        sleep(0.05)
        if key == "wrong":
            raise RunError("no")
        return [key]

    kept, found = Cache(make, 2), []
    together = [Thread(target=lambda: found.append(kept("a"))) for _ in range(3)]
    for one in together:
        one.start()
    for one in together:
        one.join()
    assert (made, found) == (["a"], [["a"]] * 3)
    for _ in range(2):
        with pytest.raises(RunError):
            kept("wrong")
    assert made == ["a", "wrong", "wrong"]
    for key in ("b", "c", "a"):
        assert kept(key) == [key]
    assert made[3:] == ["b", "c", "a"]
