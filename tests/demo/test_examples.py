"""Examples: what their titles say holds, one is made again by the model, and opening them needs none."""

from __future__ import annotations

import json
import re

import pytest

import mmhall
from mmhall.benchmarks.data.vocabulary import mentions
from mmhall.benchmarks.rules.yesno import parse_strict
from mmhall.demo.examples import FILE, find_cases, list_examples, stored_example
from mmhall.demo.runs import open_run
from mmhall.demo.scenes import SEED, bundled_scenes
from mmhall.errors import RunError

pytestmark = pytest.mark.slow

SHIPPED = json.loads(FILE.read_text(encoding="utf-8"))
EXAMPLES = SHIPPED["examples"]


def test_an_example_is_what_the_model_says(embedded):
    assert SHIPPED["seed"] == SEED
    assert SHIPPED["made_with"]["embedded"]["weights"] == embedded.identity()["weights"]
    assert SHIPPED["made_with"]["embedded"]["mmhall"] == mmhall.__version__
    example = next(one for one in EXAMPLES if one["model"] == "embedded")
    picture = bundled_scenes()[example["scene"]].scene.image
    for told in example["answers"]:
        answer = embedded.generate(
            picture, example["prompt"], told["strategy"], max_new_tokens=example["max_new_tokens"]
        )
        assert (answer.text, answer.usage.new_tokens) == (told["text"], told["tokens"])


@pytest.mark.parametrize("key", range(len(EXAMPLES)))
def test_what_a_title_says_holds_and_is_marked(key):
    opened, example = stored_example(key), EXAMPLES[key]
    columns = {column["strategy"]: column for column in opened["columns"]}
    worse, objects, better = re.fullmatch(r"(\S+) makes up (.+), (\S+) does not", example["title"]).groups()
    made_up = re.findall(r"an? ([\w ]+?)(?=, an? | and an? |$)", objects)
    there = bundled_scenes()[example["scene"]].present
    assert made_up
    for name in made_up:
        assert name not in there
        assert name in columns[worse]["objects"]["made_up"]
        assert name not in columns[better]["objects"]["named"]
    assert opened["setup"]["picture"] == {"scene": example["scene"]}
    assert list(columns) == opened["setup"]["strategies"]
    assert (opened["model"], opened["image"]) == (example["model"], "")


def test_cases_of_a_run_are_gains_and_one_loss(disputed_root):
    run = open_run(disputed_root, "first")
    cases = find_cases(run)
    assert {case.strategy for case in cases} <= set(run.strategies[1:])
    for benchmark in ("pope", "chair"):
        assert sum(case.found.side == "worse" for case in cases if case.benchmark == benchmark) <= 1
    assert any(case.title.startswith("greedy sees the") and case.title.endswith(", vhr does not") for case in cases)
    for case in cases:
        texts = dict(zip(("greedy", case.strategy), case.found.texts, strict=True))
        truth = case.found.item.truth
        if case.benchmark == "pope":
            seer, other = re.fullmatch(r"(\S+) sees .+, (\S+) does not", case.title).groups()
            assert (parse_strict(texts[seer]), parse_strict(texts[other])) == ("yes", "no")
            assert truth["object"] in case.title
            assert ("that is not there" in case.title) == (truth["label"] == "no")
        else:
            worse, better = re.fullmatch(r"(\S+) makes up .+, (\S+) does not", case.title).groups()
            wrong = [{m.name for m in mentions(texts[one])} - set(truth["objects"]) for one in (worse, better)]
            assert wrong[0] > wrong[1]


def test_all_are_listed_and_open(disputed_root, tmp_path):
    shown = list_examples(tmp_path)["html"]
    assert shown.count("data-call=") == len(EXAMPLES) > 5
    assert "Of the run" not in shown
    shown = list_examples(disputed_root)["html"]
    assert shown.count("data-call=") == len(EXAMPLES) + len(find_cases(open_run(disputed_root, "first")))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.sqlite").write_bytes(b"no database" * 100)
    assert "torn/run.sqlite: " in list_examples(tmp_path)["html"]
    for key in (-1, len(EXAMPLES), "0", True, None, [0]):
        with pytest.raises(RunError, match="there is no example"):
            stored_example(key)
