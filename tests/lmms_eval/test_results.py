"""Capability scores from a results file of lmms-eval."""

from __future__ import annotations

import json

import pytest

from mmhall.errors import DataError, UnknownNameError
from mmhall.lmms_eval.results import read_capability
from mmhall.results.capability import Capability, change, merge


def written(path, results, **more):
    """The parts of lmms-eval 0.7's results file that are read, with some that are not."""
    told = {"results": results, "n-samples": {}, "versions": {}, "model_name": "llava-hf/llava-1.5-7b-hf", **more}
    path.write_text(json.dumps(told))
    return path


RESULTS = {
    "mmstar": {"alias": "mmstar", "coarse perception,none": 0.5, "average,none": 0.3325, "average_stderr,none": "N/A"},
    "mmbench_en_dev": {"alias": "mmbench_en_dev", "gpt_eval_score,none": 64.3, "submission,none": None},
    "mmvet": {"gpt_eval_score,none": 31},
    "mme": {"mme_perception_score,none": 1510.7},
}
MMHALL = {"model": "mmhall", "model_args": "pretrained=llava-hf/llava-1.5-7b-hf,strategy=vcd,alpha=0.5"}


def test_scores_strategy_model_and_sizes_are_read(tmp_path):
    sizes = {"mmstar": {"original": 1500, "effective": 100}, "mme": {"original": 2374, "effective": 2374}}
    got = read_capability(written(tmp_path / "r.json", RESULTS, config=MMHALL, **{"n-samples": sizes}))
    assert got.scores == pytest.approx({"MMStar": 33.25, "MMBench en_dev": 64.3, "MM-Vet": 31.0})
    assert (got.strategy, got.model, got.documents) == (
        "vcd(alpha=0.5)", "llava-hf/llava-1.5-7b-hf", {"MMStar": 100},
    )  # fmt: skip
    plain = read_capability(written(tmp_path / "p.json", RESULTS, config={**MMHALL, "model_args": {}}))
    assert (plain.strategy, plain.model) == ("greedy", "embedded")
    other = read_capability(written(tmp_path / "o.json", RESULTS, config={"model": "llava_hf", "model_args": "x"}))
    assert (other.strategy, other.model) == ("", "llava-hf/llava-1.5-7b-hf")


def test_unsuitable_files_are_refused(tmp_path):
    path = tmp_path / "r.json"
    for results, message in (
        (
            {"mme": {"mme_perception_score,none": 1510.7}},
            "has the tasks mme; expected a results file of",
        ),
        ({"mmstar": {"alias": "mmstar"}}, "has the tasks mmstar; expected"),
        ({"mmstar": {"average,none": 33.25}}, r"score of MMStar must be a fraction in \[0, 1\], got 33\.25"),
        ({"mmvet": {"gpt_eval_score,none": 0.31}}, r"score of MM-Vet must be a percentage, not a fraction, got 0\.31"),
    ):
        with pytest.raises(DataError, match=message):
            read_capability(written(path, results))
    with pytest.raises(UnknownNameError, match="strategy 'vdc'"):
        read_capability(written(path, RESULTS, config={"model": "mmhall", "model_args": "strategy=vdc"}))
    path.write_text("[1]")
    with pytest.raises(DataError, match="has no results, it is a list of 1 values"):
        read_capability(path)
    path.write_text("{")
    with pytest.raises(DataError, match="is no JSON, but text that begins with"):
        read_capability(path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_capability(tmp_path / "none.json")


def test_a_change_is_that_of_the_same_documents():
    """70.2 -> 56.4 is -13.8."""
    base, own = Capability("a", {"MMStar": 70.2}, {"MMStar": 1500}), Capability("b", {"MMStar": 56.4})
    assert change("MMStar", own, base) == pytest.approx(-13.8)
    assert change("MMBench", own, base) is change("MMStar", None, base) is change("MMStar", own, None) is None
    with pytest.raises(DataError, match="b: scores 100 documents of MMStar, a 1500; measure the same"):
        change("MMStar", Capability("b", {"MMStar": 56.4}, {"MMStar": 100}), base)


def test_scores_of_one_strategy_may_lie_in_several_files():
    both = merge([Capability("a", {"MMStar": 70.2}), Capability("b", {"MM-Vet": 30.0}, {"MM-Vet": 218})])
    assert (both.scores, both.documents) == ({"MMStar": 70.2, "MM-Vet": 30.0}, {"MM-Vet": 218})
    with pytest.raises(DataError, match="b: scores MMStar again, after a; give one of them"):
        merge([Capability("a", {"MMStar": 70.2}), Capability("b", {"MMStar": 70.2})])
