from __future__ import annotations

import hashlib
import json
import math

import pytest

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.run.runs import Part, reopen
from mmhall.benchmarks.run.samples import COLUMNS, counts, flatten, samples
from mmhall.benchmarks.sycophancy import Sycophancy
from mmhall.errors import RunError
from mmhall.results.store import Row, Store

SETTINGS = {"max_new_tokens": 8}


def question(id_, label, groups=("random",)):
    truth = {"label": label, "object": "dog", "visibility": None, "question": "Is there a dog?", "ids": {}}
    return {"id": id_, "picture": "p", "prompt": "Is there a dog?", "groups": groups, "truth": truth, "cluster": "p"}


@pytest.fixture
def run(tmp_path):
    """Two questions, two strategies; one failure, one not asked yet."""
    told = {"spec": "pope", "settings": SETTINGS, "remarks": []}
    setup = {"strategies": ["greedy", "vcd"], "benchmarks": {"pope": told}}
    store = Store.create(tmp_path / "run", setup)
    items = [question("p/dog", "yes"), question("p/cat", "no", ("random", "popular"))]
    store.keep_items("pope", [(i["id"], {**i, "file": "p.png"}) for i in items])
    store.add([Row("pope", "p/cat", "greedy", "Yes, two.", "eos", 3, 0.5, 0)])
    store.add([Row("pope", "p/dog", "vcd", "", "", 0, 0.0, 0, error="no such picture")])
    store.add([Row("pope", "p/dog", "greedy", "=Yes", "length", 8, 0.25, 0, extra={"seen": 1})])
    store.close()
    opened = reopen(tmp_path / "run")
    yield opened
    opened.store.close()


def test_one_record_for_each_item_and_strategy_in_order(run):
    told = [(r["doc_id"], r["item"], r["strategy"], r["error"]) for r in samples(run)]
    assert told == [
        (0, "p/dog", "greedy", None),
        (0, "p/dog", "vcd", "no such picture"),
        (1, "p/cat", "greedy", None),
    ]


def test_a_record_is_a_sample_log_of_the_harness(run):
    """Names and shapes of its files; hashes are SHA-256 of the text."""
    record = samples(run)[2]
    doc = json.loads(json.dumps(question("p/cat", "no", ["random", "popular"])))
    assert json.loads(json.dumps(record["doc"])) == doc
    assert record["target"] == "no"
    assert record["arguments"] == {"gen_args_0": {"arg_0": "Is there a dog?", "arg_1": SETTINGS}}
    assert (record["resps"], record["filtered_resps"], record["filter"]) == ([["Yes, two."]], ["Yes, two."], "none")
    assert record["prompt_hash"] == hashlib.sha256(b"Is there a dog?").hexdigest()
    assert record["target_hash"] == hashlib.sha256(b"no").hexdigest()
    assert len(record["doc_hash"]) == 64
    assert record["picture_sha256"] is None  # the run is as older versions wrote it
    assert {"n", "right", "said_yes"} <= set(record["metrics"])
    assert {name: record[name] for name in record["metrics"]} == run.parts[0].benchmark.count(
        run.parts[0].items[1], "Yes, two."
    )


def test_a_failure_has_neither_answer_nor_counts(run):
    record = samples(run)[1]
    assert (record["resps"], record["filtered_resps"], record["metrics"]) == ([], [], [])
    assert flatten(record)["answer"] is None


def test_a_table_holds_prompt_and_answer_in_cells(run):
    line = flatten(samples(run)[0])
    assert set(COLUMNS) <= set(line)
    assert (line["prompt"], line["answer"], line["settings"], line["extra"]) == (
        "Is there a dog?",
        "=Yes",
        SETTINGS,
        {"seen": 1},
    )
    assert not {"resps", "arguments"} & set(line)


def test_a_benchmark_that_is_not_there_is_refused(run):
    assert len(samples(run, "pope")) == 3
    with pytest.raises(RunError, match="has no chair, only pope"):
        samples(run, "chair")


def test_what_answers_decide_together_is_counted_with_them():
    """Right neutrally, wrong when misled: lost once, at the misled answer; the neutral one counts as itself."""
    truth = {"label": "yes", "object": "dog", "question": "q"}
    versions = {"neutral": ("neutral", "misled", "supported"), "misled": ("misled",)}
    items = [Item(f"q/{v}", "p", "?", groups, {**truth, "version": v}) for v, groups in versions.items()]
    rows = {i.id: Row("s", i.id, "g", t, "eos", 1, math.nan, 0) for i, t in zip(items, ("Yes", "No"), strict=True)}
    found = counts(Part(Sycophancy(), items, {}), rows)
    assert (found["q/neutral"]["n"], found["q/neutral"]["right"], found["q/neutral"]["lost"]) == (1, 1, 0)
    assert (found["q/misled"]["n"], found["q/misled"]["right"], found["q/misled"]["lost"]) == (1, 0, 1)


def test_counts_of_a_run_sum_to_its_metrics(run):
    part = run.parts[0]
    assert isinstance(part.benchmark, Pope)
    records = [r for r in samples(run) if r["strategy"] == "greedy"]
    evaluation = part.benchmark.evaluate(part.items, list(run.store.rows("pope")), ["greedy"])
    (cell,) = [c for c in evaluation.cells if c.group == "random" and c.metric.name == "accuracy"]
    assert (cell.estimate.over, cell.estimate.under) == (
        sum(r["right"] for r in records),
        sum(r["n"] for r in records),
    )
