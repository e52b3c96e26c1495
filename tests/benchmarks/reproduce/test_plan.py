"""Time and memory of a plan by hand, and where the data of a step is looked for."""

from __future__ import annotations

import pytest

from mmhall.benchmarks.base import Benchmark
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.reproduce.data import Given, locate
from mmhall.benchmarks.reproduce.memory import widths_of
from mmhall.benchmarks.reproduce.plan import PartPlan, StepPlan
from mmhall.benchmarks.reproduce.probe import ArmCost
from mmhall.benchmarks.reproduce.protocols import PROTOCOLS
from mmhall.errors import DataError
from mmhall.models import LoadOptions
from tests.benchmarks.conftest import picture, write_json

LLAVA = PROTOCOLS["llava-1.5-7b"]
STEPS = {step.name: step for step in LLAVA.steps}


def test_memory_and_rows_follow_from_the_size_of_the_model():
    """A token of one row is 2 x 32 layers x 32 heads x 128 values x 2 bytes = 524 288 bytes.

    A beam of 5 with a batch of 4 holds 20 rows of 576 + 64 + 512 = 1152 tokens. Two strategies of 1 and 5 rows write
    119 further tokens of 10 captions each: 6 x 1190 = 7140 rows.
    """
    assert LLAVA.shape.cache_bytes(1, 2) == 524_288
    part = PartPlan(Chair(max_new_tokens=512), 10, True, 120, {"greedy": 30.0, "beam": 90.0}, ())
    arms = (ArmCost("greedy", 1, 1, 1), ArmCost("beam", 1, 1, 5), ArmCost("odd", refused="no such layers"))
    plan = StepPlan(STEPS["chair-512"], (part,), arms)
    assert plan.cache_bytes(LLAVA.shape, 4, 2) == 20 * 1152 * 524_288
    assert (plan.answers, plan.token_rows, plan.seconds) == (20, 7140, 120.0)


def test_bytes_of_a_value_follow_the_options_of_loading():
    for options, weight, cache in (
        ({"dtype": "float16"}, 2, 2),
        ({"dtype": "float32"}, 4, 4),
        ({"dtype": "auto"}, 2, 2),
    ):
        widths = widths_of(LoadOptions(**options))
        assert (widths.weight, widths.cache) == (weight, cache)
    assert widths_of(LoadOptions(dtype="bfloat16", quantize="4bit")).weight == 0.5


def test_data_is_found_in_the_published_layout(tmp_path):
    coco = tmp_path / "coco"
    annotations = write_json(coco / "annotations" / "instances_val2014.json", {})
    captions = write_json(coco / "annotations" / "captions_val2014.json", {})
    picture(coco / "val2014" / "a.jpg")
    found = locate(STEPS["chair-64"], Given(coco=coco), {})
    assert (found.data, found.images) == (str(annotations), coco / "val2014")
    assert found.options == {"captions": str(captions)}
    assert [remark[:12] for remark in found.remarks] == ["captions are"]
    for name in ("synonyms.txt", "lemmas.json"):
        (coco / name).write_text("{}")
    found = locate(STEPS["chair-64"], Given(coco=coco), {})
    assert (found.options["rule"], found.remarks) == ("wordnet", ())
    kind: Benchmark = found.benchmark("chair(max_new_tokens=64)")
    assert (kind.rule, kind.max_new_tokens) == ("wordnet", 64)


def test_questions_come_from_the_user_else_from_coco_else_from_the_hub(tmp_path):
    coco = tmp_path / "coco"
    annotations = write_json(coco / "annotations.json", {})
    made = locate(STEPS["pope"], Given(coco=coco), {})
    assert made.data == str(annotations)
    assert "not POPE's published ones" in made.remarks[0]
    (coco / "pope").mkdir()
    assert locate(STEPS["pope"], Given(coco=coco), {}).data == str(coco / "pope")
    mine = tmp_path / "mine"
    mine.mkdir()
    assert locate(STEPS["pope"], Given(pope=str(mine), coco=coco), {}).images == coco
    (mine / "images").mkdir()
    assert locate(STEPS["pope"], Given(pope=str(mine), coco=coco), {}).images is None
    assert locate(STEPS["pope"], Given(pope="hub:a/b@c", coco=coco), {}).images is None
    assert locate(STEPS["pope"], Given(), {"lmms-lab-encoder/POPE": "1"}).data == "hub:lmms-lab-encoder/POPE@1"
    assert locate(STEPS["chair-64"], Given(), {}).data == "hub:tsunghanwu/mscoco_chair"


def check(given):
    given.check()
    locate(STEPS["amber"], given, {})


def test_missing_data_is_named_with_what_to_give(tmp_path):
    for given, message in (
        (Given(), "AMBER: no data"),
        (Given(amber=tmp_path / "none"), "does not exist; give another --amber"),
        (Given(coco=tmp_path / "none"), "does not exist; give another --coco"),
    ):
        with pytest.raises(DataError, match=message):
            check(given)
    with pytest.raises(DataError, match=r"holds no annotations/instances_val2014\.json"):
        locate(STEPS["chair-64"], Given(coco=tmp_path), {})
