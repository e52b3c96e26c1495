"""Agnosia: files of one's own, figures by hand, controls, and drawn pairs."""

from __future__ import annotations

import pytest

import mmhall
from mmhall.benchmarks import benchmark
from mmhall.benchmarks.agnosia import Agnosia
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.evidence.unknown_words import UNKNOWN, measure_unknown, unknown_words
from mmhall.benchmarks.run.scoring import score
from mmhall.benchmarks.scenes import write_scenes
from mmhall.errors import DataError, OptionError
from tests.benchmarks.conftest import answered, picture, write_lines

RED, BLUE, TWO = "red.png", "blue.png", "two.png"
ASKED = [  # id, picture, aspect, question, answer, pair: truth turns to no, turns to yes, and stays; a single question
    ("1", RED, "colour", "Is it red?", "yes", "p"),
    ("2", BLUE, "colour", "Is it red?", "No", "p"),
    ("3", RED, "colour", "Is it blue?", "no", "q"),
    ("4", BLUE, "colour", "Is it blue?", "yes", "q"),
    ("5", RED, "entity", "A car?", "yes", "r"),
    ("6", BLUE, "entity", "A car?", "yes", "r"),
    ("7", TWO, "number", "two?", "no", ""),
]
LINES = [
    {"id": id_, "image": image, "aspect": aspect, "question": text, "answer": answer}
    | ({"pair": pair, "scene": "s"} if pair else {})
    for id_, image, aspect, text, answer, pair in ASKED
]
CHOICE = {
    "id": "8",
    "image": TWO,
    "aspect": "number",
    "question": "How many?",
    "options": ["one", "two"],
    "answer": "two",
}


@pytest.fixture
def own(tmp_path):
    for name in (RED, BLUE, TWO):
        picture(tmp_path / name)
    return write_lines(tmp_path / "own.jsonl", LINES)


def figures(made, items, texts, group="all"):
    cells = made.evaluate(items, answered(made, items, texts), ["greedy"]).cells
    return {cell.metric.name: cell.estimate.value for cell in cells if cell.group == group}


def texts_for(items, said, blind):
    """Answers by id to questions with a picture, and by text to those without."""
    return [blind[i.truth["question"]] if i.picture is None else said[i.id] for i in items]


def test_questions_of_ones_own(own):
    items = Agnosia().material(Source(own)).items
    assert [item.id for item in items if item.picture] == list("1234567")
    assert len({item.id for item in items if item.picture is None}) == 4  # each text once
    first = items[0]
    assert (first.prompt, first.cluster, first.groups) == (
        "Is it red?\nAnswer the question using a single word or phrase.", "s", ("all", "colour"),
    )  # fmt: skip
    assert items[-1].cluster == TWO
    assert len(Agnosia(blind=False).material(Source(own)).items) == 7
    assert {i.cluster for i in Agnosia().material(Source(own, limit=1)).items} == {"s"}


def test_figures_by_hand(own):
    """Red: yes, no: both right. Blue: no, no: SBn, and right once. Car: yes, no: ID. Two: yes, wrong.

    Right: 1, 2, 3, 5 of 7. Both right 1 of 2 changed pairs. IG 0, SBp 0, SBn 1/2, SB 1/2. ID 1/1. F1 of 1/2 and 0 is 0.
    Without a picture all is "yes": right for 1, 4, 5, 6 of 7, and the same as with it for 1, 5, 7. Yes: 1, 5, 7 of 7.
    One answer to all: yes is right for 4 of 7.
    """
    made = Agnosia()
    items = made.material(Source(own)).items
    said = dict(zip("1234567", ("Yes", "No", "No", "No", "Yes", "No", "Yes"), strict=True))
    texts = texts_for(items, said, dict.fromkeys(("Is it red?", "Is it blue?", "A car?", "two?"), "Yes"))
    got = figures(made, items, texts)
    want = {
        "accuracy": 4 / 7, "chance": 0.5, "both right": 0.5, "both by chance": 0.25, "IG": 0, "SBp": 0, "SBn": 0.5,
        "same answer (SB)": 0.5, "ID": 1, "F1(TU, ID)": None, "without a picture": 4 / 7, "as without a picture": 3 / 7,
        "yes ratio": 3 / 7, "best single answer": 4 / 7, "unparsed": 0,
    }  # fmt: skip
    got["F1(TU, ID)"] = got["F1(TU, ID)"] or None
    assert {name: got[name] for name in want} == pytest.approx(want)
    assert figures(made, items, texts, "colour")["accuracy"] == 0.75
    assert figures(made, items, texts, "number")["both right"] is None


def test_a_pair_is_read_from_yes_to_no(own):
    """The blue pair, whose truth turns to yes: yes then no is IG, yes twice SBp; unparsed answers are neither."""
    made = Agnosia(blind=False)
    items = made.material(Source(own)).items
    for (third, fourth), name in (
        (("Yes", "No"), "IG"), (("Yes", "Yes"), "SBp"), (("No", "No"), "SBn"), (("No", "Yes"), "both right"),
    ):  # fmt: skip
        got = figures(made, items, ["?", "?", third, fourth, "Yes", "?", "No"])
        assert {key: got[key] for key in ("IG", "SBp", "SBn", "both right")} == {
            key: 0.5 * (key == name) for key in ("IG", "SBp", "SBn", "both right")
        }
        assert got["same answer (SB)"] == 0.5 * name.startswith("SB")
        assert got["ID"] == 1  # the turn to an unreadable answer


def test_choices_and_yes_no_questions_are_two_forms(own, tmp_path):
    mixed = write_lines(tmp_path / "mixed.jsonl", [*LINES, CHOICE])
    material = Agnosia().material(Source(mixed))
    assert material.remarks == ("1 questions of another form than yes-no are left out; another run can ask them.",)
    made = Agnosia(form="choice", prompt="plain")
    assert not made.yes_no
    items = made.material(Source(mixed)).items
    assert [item.prompt for item in items] == ["How many? A. one B. two"] * 2
    assert figures(made, items, ["There are two.", "A"])["accuracy"] == 1
    got = figures(made, items, ["one", "A"])
    assert (got["accuracy"], got["chance"], got["as without a picture"], got["yes ratio"]) == (0, 0.5, 1, None)
    with pytest.raises(DataError, match=r"holds no choice questions; ask them with agnosia\(form='yes-no'\)"):
        Agnosia(form="choice").material(Source(own))
    with pytest.raises(OptionError, match="'strict' with form='choice'"):
        Agnosia(form="choice", rule="official")


def test_the_best_single_answer_is_a_letter_or_an_option(tmp_path):
    """The options stand in both orders: letters are right for 2 of 4, "one" for 3 of 4."""
    picture(tmp_path / TWO)
    asked = (("one two", "one"), ("two one", "one"), ("two one", "two"), ("two one", "one"))
    lines = [CHOICE | {"id": str(n), "options": o.split(), "answer": right} for n, (o, right) in enumerate(asked)]
    made = Agnosia(form="choice", blind=False)
    items = made.material(Source(write_lines(tmp_path / "own.jsonl", lines))).items
    assert [item.truth["label"] for item in items] == ["A", "B", "A", "B"]
    assert figures(made, items, ["one"] * 4)["best single answer"] == 0.75
    rows = answered(made, items, ["one"] * 4)
    assert made.reading_remarks(items, rows)[-1].startswith("greedy: accuracy of number is not shown to be better")


def test_aspects_of_ones_own(tmp_path):
    picture(tmp_path / RED)
    path = write_lines(
        tmp_path / "own.jsonl", [{"image": RED, "aspect": "brand", "question": "Is it?", "answer": "no"}]
    )
    with pytest.raises(DataError, match=r"line 1: the aspect 'brand' is none of entity .* agnosia\(aspects='brand'\)"):
        Agnosia().material(Source(path))
    made = benchmark("agnosia(aspects='brand smell')")
    items = made.material(Source(path)).items
    assert figures(made, items, ["No", "No"], "brand")["accuracy"] == 1


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (0, {"answer": "maybe"}, "'answer' must be 'yes' or 'no', got 'maybe'"),
        (0, {"options": ["a", "A"], "answer": "a"}, "'options' must be 2 to 26 different texts"),
        (0, {"pair": "z"}, "the pair 'z' has 1 questions; a pair has 2"),
        (1, {"question": "Red?"}, "the pair 'p' has two values of question: 'Is it red[?]' and 'Red[?]'"),
        (1, {"scene": "t"}, "has two values of scene: 's' and 't'; give both the same field scene"),
        (1, {"image": RED}, "the pair 'p' asks twice about red.png"),
        (1, {"id": "1"}, "question '1' is there already"),
        (6, {"image": "none.png"}, "none.png: is not in"),
    ],
)
def test_unsuitable_lines_are_refused(own, number, change, message):
    lines = [dict(line) for line in LINES]
    lines[number] |= change
    with pytest.raises(DataError, match=message):
        Agnosia().material(Source(write_lines(own, lines)))


def test_imported_answers_are_scored(own, tmp_path):
    answers = [{"id": line["id"], "answer": line["answer"]} for line in LINES]
    scored = score(Agnosia(blind=False), Source(own), write_lines(tmp_path / "answers.jsonl", answers))
    values = {c.metric.name: c.estimate.value for c in scored.evaluation.cells if c.group == "all"}
    assert (values["accuracy"], values["both right"], values["ID"]) == (1, 1, 0)


def test_what_a_model_cannot_read_is_said(own):
    """The word red, and an accuracy of one half in two aspects; always yes is right for both cars."""
    lvlm = mmhall.load("embedded")
    assert unknown_words(lvlm.adapter.tokenizer, ["Is the dog red, or red?", "Is it a dog?"]) == [["red"], []]
    assert unknown_words(None, ["red"]) == [[]]
    made = Agnosia(blind=False)
    items = made.material(Source(own)).items
    extras = measure_unknown(lvlm.adapter.tokenizer, items)
    assert [bool(extra) for extra in extras] == [True] * 4 + [False] * 3
    assert extras[0] == {UNKNOWN: ["red"]}
    rows = answered(made, items, ["Yes"] * 7, extras=extras)
    unread, near = made.reading_remarks(items, rows)
    assert unread.startswith("4 of 7 questions have words that the model's tokenizer does not know (red, blue)")
    assert near == (
        "greedy: accuracy of entity, number, colour is not shown to be better than chance, or one answer to all."
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    list(write_scenes(folder, 2, seed=5, kind="hard"))
    return folder / "annotations.json"


@pytest.mark.slow
def test_drawn_pairs(scenes):
    made = Agnosia()
    material = made.material(Source(scenes))
    assert all(path.is_file() for path in material.pictures.values())
    assert set(material.pictures) == {item.picture for item in material.items} - {None}
    truth = {item.id: item.truth["label"].title() for item in material.items}
    groups = {group for item in material.items for group in item.groups}
    assert groups >= {"all", "entity", "number", "colour"}
    texts = [truth[item.id] for item in material.items]
    got = figures(made, material.items, texts)
    assert (got["accuracy"], got["both right"], got["ID"], got["F1(TU, ID)"], got["removed"]) == (1, 1, 0, 1, 1)
    yes = figures(made, material.items, ["Yes"] * len(texts))
    assert (yes["both right"], yes["SBp"], yes["ID"], yes["as without a picture"]) == (0, 1, 0, 1)
    for group in ("number", "colour"):  # changed pairs ask as often for what is there before as for what is there after
        labels = [i.truth["label"] for i in material.items if group in i.groups and i.truth.get("other") != i.id]
        assert "yes" in labels
        assert "no" in labels
    first = made.material(Source(scenes, limit=1))
    assert first.items == material.items[: len(first.items)]
    assert made.material(Source(scenes, seed=1, limit=1)).items != first.items


@pytest.mark.slow
def test_drawn_choices(scenes):
    made = Agnosia(form="choice")
    material = made.material(Source(scenes, limit=1))
    assert {item.cluster for item in material.items} == {"000001.png"}
    got = figures(made, material.items, [item.truth["label"] for item in material.items])
    assert (got["accuracy"], got["both right"]) == (1, 1)
    assert 0.3 < got["chance"] <= 0.5
