"""OPOPE: POPE's questions, answered from captions; figures by hand, and answers of chair scored again."""

from __future__ import annotations

import pytest

from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Item, Source
from mmhall.benchmarks.opope import Opope, f_beta
from mmhall.benchmarks.pope import SETTINGS, Pope
from mmhall.benchmarks.run.scoring import score
from mmhall.errors import DataError
from tests.benchmarks.conftest import answered, picture, write_json, write_lines

OBJECTS = {
    "a.jpg": ["dog", "car", "person"],
    "b.jpg": ["cup", "dining table", "person", "dog"],
    "c.jpg": ["bed"],
    "d.jpg": ["cat", "tv", "couch"],
}
POLLS = {
    "random": [["dog", "yes"], ["cup", "no"], ["car", "yes"], ["bed", "no"]],
    "popular": [["dog", "yes"], ["person", "no"], ["car", "yes"], ["chair", "no"]],
    "adversarial": [["dog", "yes"], ["cat", "no"], ["car", "yes"], ["truck", "no"]],
}


def item(name="1"):
    return Item(name, name, "?", ("captions",), {"objects": ["dog", "car"], "polls": POLLS})


@pytest.fixture
def data(tmp_path):
    for name in OBJECTS:
        picture(tmp_path / name)
    return write_json(tmp_path / "objects.json", OBJECTS)


def figures(made, items, texts):
    cells = made.evaluate(items, answered(made, items, texts), ["greedy"]).cells
    return {cell.metric.name: cell.estimate.value for cell in cells if cell.group == "captions"}


def test_figures_by_hand():
    """Two captions: "a dog and a person" and "a dog near a cup, a cat and a car".

    random: tp 1 + 2, said yes 1 + 3, accuracy 3/4 and 3/4; popular: tp 3, said yes 2 + 2, accuracy 2/4 and 4/4;
    adversarial: tp 3, said yes 1 + 3. Each setting has precision 3/4 and recall 3/4, so that F0.2 is 3/4, too.
    """
    made = Opope()
    items = [item("1"), item("2")]
    got = figures(made, items, ["A dog and a person.", "A dog near a cup, a cat and a car."])
    assert got["random accuracy"] == got["popular accuracy"] == got["adversarial accuracy"] == pytest.approx(3 / 4)
    assert (got["accuracy"], got["precision"], got["recall"], got["F0.2"]) == pytest.approx((0.75,) * 4)
    assert got["yes ratio"] == pytest.approx(12 / 24)
    assert got["words"] == pytest.approx((5 + 10) / 2)
    got = figures(made, items, ["A dog and a cup.", "A dog."])
    assert [got[f"{setting} precision"] for setting in SETTINGS] == pytest.approx([2 / 3, 1, 1])
    assert got["precision"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert got["recall"] == pytest.approx(2 / 4)
    by_hand = [1.04 * p * 0.5 / (0.04 * p + 0.5) for p in (2 / 3, 1, 1)]
    assert [got[f"{setting} F0.2"] for setting in SETTINGS] == pytest.approx(by_hand)
    assert got["F0.2"] == pytest.approx(sum(by_hand) / 3)


def test_f_beta_weighs_precision_most():
    assert float(f_beta(3, 4, 6)) == pytest.approx(1.04 * 0.75 * 0.5 / (0.04 * 0.75 + 0.5))
    assert float(f_beta(0, 2, 6)) == 0


def test_the_authors_rule_looks_for_words_within_words():
    """ "car" is in "carpet"; of "dining table" one word is enough; a synonym is none."""
    made = benchmark("opope(rule='substring')")
    assert made._named(item(), "A carpet and a puppy") == {"car"}
    assert Opope()._named(item(), "A carpet and a puppy") == {"dog"}
    table = Item("1", "1", "?", ("captions",), {"objects": [], "polls": {"random": [["dining table", "yes"]]}})
    assert made._named(table, "a table") == {"dining table"}


def test_questions_are_popes(data):
    """The objects and labels of each setting; pictures with fewer than three objects are left out."""
    items = Opope().material(Source(data, seed=3)).items
    asked = Pope().material(Source(data, seed=3)).items
    assert [i.id for i in items] == ["a.jpg", "b.jpg", "d.jpg"]
    for each in items:
        for setting in SETTINGS:
            wanted = {
                (i.truth["object"], i.truth["label"]) for i in asked if i.picture == each.id and setting in i.groups
            }
            assert {tuple(poll) for poll in each.truth["polls"][setting]} == wanted
            assert len(each.truth["polls"][setting]) == 6
    assert Opope().material(Source(data)).remarks[-1] == ("1 of 4 pictures show fewer than 3 objects and are left out.")
    with pytest.raises(DataError, match="no picture has 5 objects"):
        Opope(per_picture=5).material(Source(data))


def test_equal_length_cuts_both_captions(data):
    made = Opope()
    items = made.material(Source(data)).items
    long, short = ["A dog. A car. A person. A cup."] * 3, ["A dog."] * 3
    rows = [*answered(made, items, long), *answered(made, items, short, "vcd")]
    cells = made.evaluate(items, rows, ["greedy", "vcd"]).cells
    gap = {c.group: c.difference.value for c in cells if c.strategy == "vcd" and c.metric.name == "recall"}
    assert gap["equal length"] == 0
    assert gap["captions"] < 0


def test_captions_of_chair_are_scored_again(data, tmp_path):
    answers = [{"benchmark": "chair", "item": name, "answer": "A dog and a person."} for name in OBJECTS]
    scored = score(Opope(), Source(data), write_lines(tmp_path / "chair.jsonl", answers))
    got = {c.metric.name: c.estimate for c in scored.evaluation.cells}
    assert got["recall"].under == 9
    assert any("1 answers are for no item, such as 'c.jpg'" in remark for remark in scored.part.remarks)
    with pytest.raises(DataError, match="holds answers of 'mme' alone"):
        score(Opope(), Source(data), write_lines(tmp_path / "x.jsonl", [{**answers[0], "benchmark": "mme"}]))
