"""What README and guides tell people to type works: from a fresh folder, from the top of each page to its end.

A block that cannot be run says why in a comment before it. Its commands, and those of all other pages, must exist with
their options.
"""

from __future__ import annotations

import re
import shlex
import sys
import types

import pytest
import typer

import mmhall
from mmhall.benchmarks import BENCHMARKS
from mmhall.benchmarks.report.table import COST, sections
from mmhall.cli import app, main
from mmhall.decoders import STRATEGIES
from tests.docs.pages import DOCS, PAGES, TYPED, blocks, rows

FEWER = {"--n": 3, "scenes": 2}
"""Pictures to draw, and scenes of a run: as many as the pages name take minutes, in `make families`."""

COSTLY = ("first-afternoon", "my-strategy", "reading-the-table", "controls")
LONG = pytest.mark.long


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty folder; names that a page registers are forgotten."""
    monkeypatch.chdir(tmp_path)
    for registry in (STRATEGIES, BENCHMARKS):
        monkeypatch.setattr(registry, "_added", {})
    return tmp_path


def type_command(line, monkeypatch):
    monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
    assert sys.argv[0] == "mmhall", f"{line}: is no command of mmhall; say before the block why it is not run"
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    assert code == 0, line


def type_page(page, monkeypatch, fewer):
    """Type a page's blocks in order, with fewer pictures; its Python blocks share their names."""

    def shorter(text):
        for told, most in fewer.items():
            text = re.sub(rf"({told}[ =])(\d+)", lambda found, n=most: f"{found[1]}{min(int(found[2]), n)}", text)
        return text

    names = types.ModuleType("typed")
    monkeypatch.setitem(sys.modules, "typed", names)
    for block in blocks(page):
        if block.why:
            continue
        if block.kind == "console":
            for line in block.commands:
                type_command(shorter(line), monkeypatch)
        elif block.kind == "python":
            exec(compile(shorter(block.text), f"{page.name}: {block.text.splitlines()[0]}", "exec"), vars(names))


@pytest.mark.slow
@pytest.mark.parametrize("fewer", [FEWER, pytest.param({}, marks=LONG)], ids=["shorter", "as written"])
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=LONG if page.stem in COSTLY else ()) for page in TYPED],
    ids=lambda page: page.stem,
)
def test_a_page_can_be_typed(page, fewer, fresh, monkeypatch, capsys):
    type_page(page, monkeypatch, fewer)
    capsys.readouterr()
    if page.stem == "reading-the-table":
        check_columns(mmhall.open_run("runs/first"))


def check_columns(results):
    """Check that the glossary has every column of a run's tables; a number in it stands for any."""

    def general(column):
        return re.sub(r"\d+(\.\d+)?", "N", column.removeprefix("Δ ").removesuffix(" (%)"))

    terms = {general(t) for cells in rows(DOCS / "glossary.md") for t in re.findall(r"`([^`]+)`", cells[0])}
    shown = {column for section in sections(results.evaluated) for column in section.metrics}
    shown |= {head.name for head in results.summary.heads} | set(COST[2:])
    settings = {cell.group for _, evaluation in results.evaluated for cell in evaluation.cells}
    assert not {column for column in shown - settings if general(column) not in terms}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist_with_their_options(page):
    group = typer.main.get_command(app)
    for block in blocks(page):
        for line in block.commands if block.kind in ("console", "bash") else ():
            words = shlex.split(line, comments=True)
            if words[0] != "mmhall":
                continue
            assert words[1] in group.commands, line
            known = {name for one in group.commands[words[1]].params for name in one.opts} | {"--help"}
            assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, line


def test_only_a_few_blocks_are_not_run():
    told = {page.stem: [block.why for block in blocks(page) if block.why] for page in TYPED}
    assert all(len(whys) <= 4 for whys in told.values()), told
