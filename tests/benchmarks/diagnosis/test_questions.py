"""Yes/no questions: what a threshold would add, and how present objects differ from likely absent ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.data.pictures import Picture, PictureSet
from mmhall.benchmarks.diagnosis.causes import in_answers, of_grey
from mmhall.benchmarks.diagnosis.figures import UnmeasuredError
from mmhall.benchmarks.diagnosis.questions import (
    NO_LIKELY,
    Questions,
    headroom,
    likely_absent,
    make_questions,
    partner_auroc,
)
from mmhall.benchmarks.evidence.halves import halves
from mmhall.benchmarks.evidence.threshold import SCORE
from mmhall.benchmarks.scenes.world import PARTNERS
from mmhall.results.store import Row


def question(picture, name, label):
    return Item(f"{picture}/{name}", picture, "", ("adversarial",), {"label": label, "object": name})


def answered(item, score):
    extra = None if score is None else {SCORE: score}
    return Row("pope", item.id, "greedy", "Yes" if (score or 0) > 0 else "No", "eos", 2, 0.1, 0, extra)


def asked(scores):
    """Questions and answers: (label, score) of each picture."""
    items = [question(str(n), str(i), label) for n, own in enumerate(scores) for i, (label, _) in enumerate(own)]
    flat = [score for own in scores for _, score in own]
    present, absent = (tuple(i for i in items if i.truth["label"] == label) for label in ("yes", "no"))
    rows = {item.id: answered(item, score) for item, score in zip(items, flat, strict=True)}
    return Questions(tuple(items), "too few", present, absent, (), "made"), rows


def test_a_threshold_adds_what_it_could():
    """Present objects score -0.5 and absent ones -1.5: all say no, half are right; a shift makes all right.

    c of 0 of 8 found and 0 of 8 false: -z(0.5 / 9) = 1.5932.
    """
    questions, answers = asked([[("yes", -0.5), ("no", -1.5)]] * 8)
    assert len(halves(questions.pope)) == 2
    found = {figure.key: figure.estimate.value for figure in headroom(questions, answers)}
    assert found == {
        "pope_accuracy": 0.5,
        "pope_yes": 0.0,
        "criterion": pytest.approx(1.5932, abs=1e-4),
        "headroom": 0.5,
    }


def test_where_zero_is_the_best_threshold_nothing_is_added():
    questions, answers = asked([[("yes", 0.5), ("no", -0.5)]] * 8)
    assert [f.estimate.value for f in headroom(questions, answers)] == pytest.approx([1, 0.5, 0, 0])


def test_what_cannot_be_measured_says_why():
    questions, answers = asked([[("yes", None), ("no", None)]] * 8)
    found = []
    with pytest.raises(UnmeasuredError, match="yes/no scores"):
        found += [figure.key for figure in headroom(questions, answers)]
    with pytest.raises(UnmeasuredError, match="no single tokens for yes and no"):
        partner_auroc(questions, answers)
    with pytest.raises(UnmeasuredError, match="too few"):
        list(headroom(replace(questions, pope=()), answers))
    with pytest.raises(UnmeasuredError, match=NO_LIKELY):
        partner_auroc(replace(questions, likely=(), why_no_pope=""), answers)


def test_present_against_likely_absent_objects():
    """Present -2, -1, -0.5, 0.5 and absent -3, -1.5, -0.8, 0.2: 1 + 2 + 3 + 4 of 16 pairs are won."""
    questions, answers = asked(
        [[("yes", p), ("no", a)] for p, a in zip((-2, -1, -0.5, 0.5), (-3, -1.5, -0.8, 0.2), strict=True)]
    )
    assert partner_auroc(questions, answers).estimate.value == pytest.approx(10 / 16)
    shares = {figure.key: figure.estimate.value for figure in in_answers(questions, answers)}
    assert shares == {"present_yes": 0.25, "likely_yes": 0.25}
    assert of_grey(questions.present, ["Yes", "No", "No", "No"]).estimate.value == 0.25


WORLD = {"1": ("cup", "fork", "knife"), "2": ("cup", "fork", "dog"), "3": ("cup", "fork", "bed"), "4": ("dog",)}


@pytest.fixture
def pictures():
    made = tuple(Picture(name, Path(f"{name}.png"), objects, {}) for name, objects in WORLD.items())
    return PictureSet(made, ("bed", "bus", "car", "cup", "dog", "fork", "knife"))


def test_a_question_asked_for_two_reasons_is_asked_once(pictures):
    questions = make_questions(pictures, 0)
    every = questions.everything()
    assert len({item.id for item in every}) == len(every)
    assert {item.id for item in questions.present} == {f"{p}/{o}" for p, objects in WORLD.items() for o in objects}
    known = {item.id: item for item in questions.present}
    shared = [item for item in questions.pope if item.id in known]
    assert shared
    assert all(item.prompt == known[item.id].prompt for item in shared)
    assert all(item.truth["object"] not in WORLD[str(item.picture)] for item in (*questions.likely, *questions.other))


def test_likely_objects_are_popes_or_a_drawn_scenes_partners(pictures):
    questions = make_questions(pictures, 0)
    no = {item.id for item in questions.pope if item.truth["label"] == "no"}
    assert {item.id for item in questions.likely} == no
    drawn = likely_absent(replace(pictures, drawn="usual"), ())
    assert drawn["1"] == sorted({*PARTNERS["cup"], *PARTNERS["fork"], *PARTNERS["knife"]} - {"cup", "fork", "knife"})
    assert drawn["4"] == sorted(PARTNERS["dog"])


def test_likely_objects_of_a_hard_scene_are_companions_that_are_expected_in_its_place():
    """In a restaurant a fork calls for a knife, which is missing, and a tv for nothing."""
    tables = [Picture("1", Path("1.png"), ("fork", "tv"), {}, place="restaurant")]
    assert likely_absent(PictureSet(tuple(tables), (), drawn="hard"), ()) == {"1": ["knife"]}


def test_pictures_of_too_few_objects_have_no_pope(pictures):
    questions = make_questions(replace(pictures, pictures=pictures.pictures[3:]), 0)
    assert questions.pope == ()
    assert "no picture has 3 objects" in questions.why_no_pope
