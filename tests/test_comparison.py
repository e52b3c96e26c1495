"""`mmhall.compare`: the answers of the Python API, the records of the page, drawn in one piece."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import ClassVar

import pytest

import mmhall
from mmhall.benchmarks.scenes import make_scene
from mmhall.errors import DataError, MmhallError
from tests.notebooks import run_notebook
from tests.sources import ROOT

PROMPT = "Please describe this image in detail."
SCENE = make_scene(2026, 4)
PRESENT = sorted({placed.name for placed in SCENE.objects})


@dataclass(frozen=True, slots=True)
class Mine(mmhall.Strategy):
    """Change nothing."""

    name: ClassVar[str] = "mine"

    def prepare(self, adapter, inputs):
        return mmhall.Session()


@pytest.fixture(scope="module")
def compared(embedded):
    return mmhall.compare(SCENE.image, PROMPT, ["greedy", "vdd"], embedded, present=PRESENT)


def test_the_answers_are_those_of_generate(embedded, compared):
    for spec, answer, trace in zip(["greedy", "vdd"], compared.answers, compared.traces, strict=True):
        assert answer.token_ids == embedded.generate(SCENE.image, PROMPT, spec).token_ids
        assert len(answer.uncertainty.image_gains) == len(trace.image_attention) == len(answer.tokens)


def test_made_up_objects_are_told(compared):
    first, second = compared.records
    assert (first["strategy"], first["objects"]["made_up"]) == ("greedy", ["boat"])
    assert (second["strategy"], second["objects"]["made_up"]) == ("vdd", [])
    assert first["known"] == second["known"] == len(PRESENT)
    assert "1 made up: boat" in str(compared)
    assert compared.answers[1].text in str(compared)
    assert ">✗boat</mark>" in compared._repr_html_()


def test_each_word_has_a_map_and_the_likeliest_tokens(compared):
    for answer, record, gaze in zip(compared.answers, compared.records, compared.gazes, strict=True):
        assert (gaze["id"], gaze["error"]) == (record["id"], "")
        rows, columns = gaze["grid"]
        assert len(base64.b64decode(gaze["maps"])) == len(record["words"]) * rows * columns
        assert [sum(one["chosen"] for one in some) for some in gaze["candidates"]] == [1] * len(answer.tokens)


def test_it_is_saved_as_one_file(compared, tmp_path):
    path = compared.save(tmp_path / "comparison.html")
    assert path.read_text(encoding="utf-8").count("<script>") == 1
    with pytest.raises(DataError, match="give another name"):
        compared.save(tmp_path)


def test_classes_and_single_strategies_are_taken_and_nothing_known_is_marked_unknown(embedded):
    one = mmhall.compare(SCENE.image, "Is there a boat in the image?", Mine, embedded, max_new_tokens=8)
    assert [record["strategy"] for record in one.records] == ["mine"]
    assert one.records[0]["known"] is None
    assert one.records[0]["verdict"]["right"] is None


def test_a_prompt_without_a_picture_is_compared_without_maps(embedded):
    bare = mmhall.compare(None, "What is a boat?", ["greedy"], embedded, max_new_tokens=4)
    assert bare.gazes == ()
    for shown in (bare, *bare.traces, *bare.answers):
        assert "<img" not in shown._repr_html_()


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"strategies": []}, "at least one strategy"),
        ({"present": "cup"}, "a list of objects"),
        ({"present": [3]}, "a list of objects"),
        ({"strategies": "nonsense"}, "unknown strategy"),
        ({"max_new_tokens": 0}, "max_new_tokens must be"),
    ],
)
def test_what_cannot_be_compared_is_refused(embedded, told, why):
    with pytest.raises(MmhallError, match=why):
        mmhall.compare(**{"picture": SCENE.image, "prompt": PROMPT, "strategies": "greedy", "lvlm": embedded, **told})


@pytest.mark.slow
@pytest.mark.long
def test_the_notebook_of_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "first-look.ipynb").read_text(encoding="utf-8")
    assert '"outputs": []' in text
    assert str(ROOT.parent) not in text
    picture, compared, made_up, *others = run_notebook(text)
    assert picture.size == SCENE.image.size
    assert isinstance(compared, mmhall.Comparison)
    assert made_up == {"greedy": ["boat"], "vdd": []}
    assert [type(value) for value in others] == [mmhall.Answer, mmhall.Trace, mmhall.Results]
