"""Several runs as one: means and deviations over seeds, pictures that runs share, ticks of sampled answers."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import numpy as np
import pytest

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.report.aggregate import _count_by_run, aggregate
from mmhall.benchmarks.report.design import design_remarks
from mmhall.benchmarks.report.sections import spread_text
from mmhall.benchmarks.report.table import as_data, sections
from mmhall.benchmarks.run.runs import Run, reopen
from mmhall.errors import RunError
from mmhall.results.store import Row, Store

PICTURES = 80


def make_run(folder, right, *, seed=0, pictures="a", strategies=("greedy", "vcd"), spec=None, model="one"):
    """A finished run: each strategy is right on the first so many questions, one of each picture."""
    benchmark = Pope(sample=True, sample_seed=seed) if spec is None else spec
    about = {"spec": str(benchmark), "rule": "strict", "remarks": [], "count": PICTURES, "seed": 0}
    about |= {"settings": {"do_sample": benchmark.sample, "temperature": 1.0, "seed": seed}}
    setup = {"model": model, "strategies": list(strategies), "fitted": {s: s for s in strategies}}
    setup |= {"benchmarks": {"pope": about}, "num_beams": {}, "versions": {}}
    items = [Item(f"{n}", f"{n}", "Is there?", ("random",), {"label": "yes"}) for n in range(PICTURES)]
    with_files = {
        item.id: asdict(item) | {"file": "x.png", "sha256": hashlib.sha256(f"{pictures}{item.id}".encode()).hexdigest()}
        for item in items
    }
    store = Store.create(folder, setup)
    store.keep_items("pope", with_files.items())
    for strategy in strategies:
        said = ["Yes" if n < right[strategy] else "No" for n in range(PICTURES)]
        store.add(Row("pope", i.id, strategy, text, "eos", 2, 1.0, 0) for i, text in zip(items, said, strict=True))
    store.close()
    return reopen(folder)


@pytest.fixture
def three(tmp_path):
    """Accuracy of greedy 48, 50 and 52 of 80, of vcd twenty more each."""
    return [make_run(tmp_path / f"{s}", {"greedy": 48 + 2 * s, "vcd": 68 + 2 * s}, seed=s) for s in range(3)]


def test_three_seeds_are_shown_with_mean_deviation_and_range():
    assert spread_text([83.1, 83.9, 82.7]) == "83.2 (sd 0.61, 82.7-83.9, 3 seeds)"
    assert spread_text([83.1]) == "83.1"


def test_three_seeds_on_eighty_pictures_are_eighty_pictures(three):
    found = aggregate(three)
    ((part, evaluation),) = found.evaluated
    assert evaluation.sizes == {"random": (3 * PICTURES, PICTURES)}
    greedy = next(cell for cell in evaluation.cells if cell.strategy == "greedy" and cell.metric.name == "accuracy")
    assert greedy.runs == pytest.approx((0.6, 0.625, 0.65))
    assert greedy.estimate.value == pytest.approx(0.625)
    assert (greedy.estimate.low, greedy.estimate.high) == pytest.approx((0.51, 0.725), abs=0.02)  # 80 answers, not 240
    assert sections(found.evaluated)[0].lines[0].values[0].startswith("62.5 (sd 2.50, 60.0-65.0, 3 seeds) [5")
    assert found.remarks[0].endswith("They differ in: seed of the draws.")
    assert design_remarks(part, evaluation)[0].startswith("pope: the primary metric")
    told = as_data(found.evaluated, {"strategies": ["greedy", "vcd"]})["metrics"]
    assert next(one["runs"] for one in told if one["metric"] == "accuracy") == pytest.approx((0.6, 0.625, 0.65))


@pytest.mark.slow
def test_sampled_answers_get_ticks_from_three_seeds_on(three):
    (alone,) = three[0].evaluate()[0][1].evidence
    assert (alone.lacks_seeds, alone.better_than_baseline) == (True, "not run")
    (two,) = aggregate(three[:2]).evaluated[0][1].evidence
    assert two.better_than_baseline == "not run"
    (all_three,) = aggregate(three).evaluated[0][1].evidence
    assert (all_three.lacks_seeds, all_three.better_than_baseline) == (False, "yes")


@pytest.mark.slow
def test_other_pictures_and_models_are_told_apart(tmp_path):
    right = {"greedy": 50, "vcd": 60}
    greedy = Pope()
    runs = [
        make_run(tmp_path / "a", right, spec=greedy),
        make_run(tmp_path / "b", right, spec=greedy, pictures="b"),
        make_run(tmp_path / "c", right, spec=greedy, model="two"),
    ]
    found = aggregate(runs)
    assert found.evaluated[0][1].sizes == {"random": (3 * PICTURES, 2 * PICTURES)}
    assert found.remarks[0].endswith("They differ in: pictures, model.")
    assert found.evaluated[0][1].evidence[0].better_than_baseline == "yes"  # greedy: no seeds are needed


def test_runs_of_other_designs_are_refused(three, tmp_path):
    with pytest.raises(RunError, match="is one run; give several"):
        aggregate(three[:1])
    vcd_first = make_run(tmp_path / "v", {"greedy": 1, "vcd": 2}, strategies=("vcd", "greedy"))
    with pytest.raises(RunError, match="its baseline is vcd"):
        aggregate([three[0], vcd_first])
    other = make_run(tmp_path / "o", {"greedy": 1, "vcd": 2}, spec=Pope(rule="official"))
    with pytest.raises(RunError, match="aggregate runs of the same benchmarks"):
        aggregate([three[0], other])
    more = make_run(tmp_path / "m", {"greedy": 1, "vcd": 2, "vdd": 3}, strategies=("greedy", "vcd", "vdd"), seed=7)
    assert any("Left out, as not every run has them: vdd" in text for text in aggregate([three[0], more]).remarks)


def test_counts_do_not_mix_runs():
    """Counts that depend on all items of a run, such as pairs, see those of one run at a time."""

    class Sizes:
        def counts(self, items, rows):
            return [{"n": len(items), "row": row} for row in rows]

    items = [Item(f"{run}:{n}", None, "?", ()) for n in range(3) for run in (0, 1) if n + run < 3]
    found = _count_by_run(Sizes(), items, np.arange(5))
    assert [one["n"] for one in found] == [3 if item.id[0] == "0" else 2 for item in items]
    assert [one["row"] for one in found] == [0, 1, 2, 3, 4]


def test_searches_have_names(tmp_path, monkeypatch):
    run = make_run(tmp_path / "s", {"greedy": 1, "opera": 2}, strategies=("greedy", "opera"), spec=Pope())
    setup = run.store.setup() | {"searches": ["opera", "vhr+cgd"], "num_beams": {"opera": 5}}
    monkeypatch.setattr(Store, "setup", lambda self: setup)
    rules = Run(run.store, run.parts, ("greedy", "opera", "vhr+cgd")).rules(run.parts[0])
    assert rules == {"greedy": "greedy", "opera": "search of opera, 5 beams", "vhr+cgd": "search of cgd"}
