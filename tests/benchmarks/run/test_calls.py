"""Benchmarks from Python: the same runs as the command's, own classes by name, results for people and programs."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from typing import ClassVar

import pandas
import pytest

import mmhall
from mmhall.decoders import STRATEGIES
from mmhall.errors import ModelError, OptionError, RunError, UnknownNameError
from mmhall.strategies import Session, Strategy


@dataclass(frozen=True)
class Doubled(Strategy):
    """Greedy decoding under another name."""

    name: ClassVar[str] = "doubled"

    def prepare(self, adapter, inputs):
        return Session()


@pytest.fixture(scope="module")
def results(embedded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "python"
    return mmhall.bench(embedded, ["pope", "chair"], ["greedy", "vcd"], out=folder, scenes=3, progress=False)


@pytest.mark.slow
def test_python_and_the_command_go_on_with_each_others_runs(results, embedded, tmp_path, monkeypatch, capsys):
    from mmhall.cli import main

    folder = results.runs[0].store.path.parent
    asked = ["bench", "pope", "chair", "--strategy", "greedy", "--strategy", "vcd", "--scenes", "3"]
    told = []
    for out in (folder, tmp_path / "command"):
        monkeypatch.setattr("sys.argv", ["mmhall", *asked, "--out", str(out), "--json"])
        with pytest.raises(SystemExit):
            main()
        told.append(json.loads(capsys.readouterr().out))
    figures = [json.dumps(one["metrics"]) for one in (*told, results.to_dict())]
    assert figures[0] == figures[1] == figures[2]
    again = mmhall.bench(embedded, ["pope", "chair"], ["greedy", "vcd"], out=tmp_path / "command", scenes=3)
    assert again.table() == mmhall.open_run(tmp_path / "command").table()
    assert again.runs[0].answered == again.runs[0].expected == results.runs[0].answered
    assert repr(again).endswith(f"greedy, vcd; {again.runs[0].expected} of {again.runs[0].expected} answers)")


def test_tables_hold_every_figure(results):
    frame = results.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    row = frame.set_index(["benchmark", "group", "metric", "strategy"]).loc[("chair", "captions", "CHAIR_i", "vcd")]
    shown = f"{100 * row['value']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    assert shown in results.to_markdown()
    numbers = re.findall(r"\d+\.\d", results.to_markdown())
    assert numbers == re.findall(r"\d+\.\d", results.to_latex())
    assert "chair captions" in str(results)
    assert max(map(len, results.table().splitlines())) <= 100
    assert results.table(80) != results.table()
    assert results._repr_html_().startswith("<pre>")
    lines = list(csv.DictReader(io.StringIO(results.to_csv())))
    assert lines == [{k: "" if v is None else str(v) for k, v in one.items()} for one in results.to_records()]


@pytest.mark.slow
def test_the_page_opens_with_the_table_and_folds_the_rest(results, tmp_path):
    page = results.report(tmp_path / "page.html").read_text(encoding="utf-8")
    first, _, rest = page.partition("<details>")
    assert first.count("<table") == 1
    drawn = [cell for cells in results.summary.leading.values() for cell in cells if cell.difference is not None]
    assert first.count("<circle") == len(drawn) > 0
    assert first.count("<figure") == 1
    assert "no strategy is shown to be better than greedy" in first
    assert page.count("<details>") == page.count("</details>") > 10
    assert "chair captions: 3 items" in rest
    with pytest.raises(RunError, match="cannot be written"):
        results.report(tmp_path)


def test_disagreements_are_items_with_other_claims(results):
    found = results.disagreements()
    assert found == results.disagreements("greedy", "vcd")
    rows = {(row.item, row.strategy): row.text for part in results.runs[0].parts for row in results.runs[0].rows(part)}
    for one in found:
        assert one.claims["greedy"] != one.claims["vcd"]
        assert one.answers == {name: rows[one.item, name] for name in ("greedy", "vcd")}
    asked = {(one.benchmark, one.item) for one in found}
    for part in results.runs[0].parts:
        for item in part.items:
            claims = [part.benchmark.claims(item, rows[item.id, name]) for name in ("greedy", "vcd")]
            assert (claims[0] != claims[1]) == ((part.benchmark.name, item.id) in asked)
    with pytest.raises(RunError, match="has no strategy 'gift'"):
        results.disagreements("gift")


@pytest.mark.slow
def test_a_class_of_ones_own_is_found_by_name_after_it_is_registered(embedded, tmp_path, monkeypatch):
    monkeypatch.setattr(STRATEGIES, "_added", {})
    with pytest.raises(UnknownNameError):
        mmhall.strategy("doubled")
    assert mmhall.strategy(Doubled) == Doubled()
    assert mmhall.register(Doubled) is Doubled
    assert mmhall.strategy("doubled") == Doubled()
    assert "doubled" in STRATEGIES.names()
    found = mmhall.bench(embedded, "pope", ["greedy", Doubled], out=tmp_path, scenes=2, progress=False)
    assert found.runs[0].arms == ("greedy", "doubled")
    assert "did nothing" in found.table()

    with pytest.raises(OptionError, match="another name: it is a strategy of mmhall's"):
        mmhall.register(type("Taken", (Doubled,), {"name": "vcd"}))
    with pytest.raises(OptionError, match="derived from"):
        mmhall.register(int)


@pytest.mark.slow
def test_seeds_are_read_together(embedded, tmp_path, capsys):
    found = mmhall.bench(
        embedded, "pope(sample=True)", ["greedy", "vcd"], out=tmp_path, scenes=2, seeds=(0, 1), progress=False
    )
    assert len(found.runs) == 2
    assert capsys.readouterr().err == ""  # progress=False
    assert mmhall.open_run(tmp_path).table() == found.table()
    assert "They differ in: seed of the draws." in found.table(1000)


def test_what_cannot_be_run_is_refused_before_anything_is_asked(embedded, tmp_path):
    for bad in ({"scenes": 0}, {"twins": -1}, {"batch_size": 0}, {"kind": "odd"}, {"seeds": (0, 0)}):
        with pytest.raises(OptionError):
            mmhall.bench(embedded, "pope", out=tmp_path / "run", **bad)
    with pytest.raises(OptionError, match="at least one run folder"):
        mmhall.open_run()
    with pytest.raises(ModelError, match=r"is loaded already; mmhall.wrap\(model, processor\) takes it"):
        mmhall.load(embedded.model)
    assert not (tmp_path / "run").exists()
    wrapped = mmhall.wrap(embedded.model, embedded.processor, "mine")
    assert wrapped.name == "mine"
