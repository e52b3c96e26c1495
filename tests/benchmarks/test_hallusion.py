from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Item, Source
from mmhall.benchmarks.hallusion import Hallusion, parse_contains, parse_verdict
from mmhall.errors import DataError
from tests.benchmarks.conftest import answered, picture, totals, write_json


def record(category, set_id, figure, question, answer="1", visual="1", **changes):
    text_only = category == "VS" and figure == "0"
    return {
        "category": category,
        "subcategory": "chart",
        "visual_input": "0" if text_only else visual,
        "set_id": set_id,
        "figure_id": figure,
        "sample_note": "note",
        "question_id": question,
        "question": f"Is {question} so?",
        "gt_answer_details": f"It is{'' if answer == '1' else ' not'}.",
        "gt_answer": answer,
        "filename": None if text_only else f"./{category}/chart/{set_id}_{figure}.png",
        **changes,
    }


RECORDS = [
    record("VS", "0", "0", "0"),
    record("VS", "0", "1", "0", "0"),
    record("VS", "0", "2", "0", "1", "2"),
    record("VS", "0", "1", "1"),
    record("VD", "0", "0", "0"),
    record("VD", "0", "1", "0", "0", "2"),
    record("VD", "1", "0", "0"),
]


@pytest.fixture
def folder(tmp_path):
    for each in RECORDS:
        if each["filename"]:
            picture(tmp_path / each["filename"])
    write_json(tmp_path / "HallusionBench.json", RECORDS)
    return tmp_path


def test_the_authors_file(folder):
    material = Hallusion().material(Source(folder))
    first, second, third = material.items[:3]
    assert (first.id, first.picture, first.groups) == ("VS_chart_0_0_0_0", None, ("overall", "VS", "easy"))
    assert first.prompt == "Is 0 so?\nPlease answer yes or no."
    assert first.truth["label"] == "yes"
    assert second.picture == "VS/chart/0_1.png"
    assert second.truth["label"] == "no"
    assert third.groups == ("overall", "VS", "hard")
    assert [i.cluster for i in material.items] == ["VS/chart/0"] * 4 + ["VD/chart/0"] * 2 + ["VD/chart/1"]
    assert len(material.pictures) == 5
    assert benchmark("hallusion(prompt='plain')").material(Source(folder)).items[0].prompt == "Is 0 so?"


def test_text_only_questions_may_be_left_out(folder):
    items = Hallusion(text_only=False).material(Source(folder)).items
    assert len(items) == len(RECORDS) - 1
    assert all(item.picture for item in items)


def test_a_limit_keeps_the_text_only_questions_of_its_control_groups(folder):
    limited = Hallusion().material(Source(folder, limit=1)).items
    assert [i.id for i in limited] == ["VS_chart_0_0_0_0", "VS_chart_1_0_1_0", "VS_chart_1_0_1_1"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gt_answer": "2"}, "'gt_answer' must be '0' or '1', got '2'"),
        ({"category": "VX"}, "entry 1: 'category' must be 'VD' or 'VS', got 'VX'"),
        ({"question": None}, "'question' must be a text"),
        ({"set_id": ["0"]}, "'set_id' must be a text"),
        ({"question_id": "1", "figure_id": "1", "visual_input": "1"}, "entry 4: question 'VS_chart_1_0_1_1' is there"),
        ({"filename": "no/where.png"}, r"where.png: is not in .* \(1 of 6 pictures are missing"),
    ],
)
def test_unfit_records_are_refused(folder, changed, message):
    write_json(folder / "HallusionBench.json", [{**RECORDS[0], **changed}, *RECORDS[1:]])
    with pytest.raises(DataError, match=message):
        Hallusion().material(Source(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("[", "is no JSON"), ("{}", "must be a text"), ("7", "is no JSON object"), ("[]", "is empty")],
)
def test_files_of_another_kind_are_refused(folder, text, message):
    (folder / "HallusionBench.json").write_text(text)
    with pytest.raises(DataError, match=message):
        Hallusion().material(Source(folder))


def test_a_folder_without_the_file_and_a_file_that_is_no_text(tmp_path):
    with pytest.raises(DataError, match=r"HallusionBench.json: does not exist; expected HallusionBench.json, or"):
        Hallusion().material(Source(tmp_path))
    (tmp_path / "HallusionBench.json").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        Hallusion().material(Source(tmp_path))
    (tmp_path / "torn").write_bytes(b"\xff\xfd\x00[")
    with pytest.raises(DataError, match="is no UTF-8 text"):
        Hallusion().material(Source(tmp_path / "torn"))


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("correct", "correct"), ("Incorrect", "incorrect"), ("not correct", "correct"), ("?", "unclear"), ("", "unclear")],
)
def test_verdicts(reply, verdict):
    assert parse_verdict(reply) == verdict


@pytest.mark.parametrize(("answer", "label"), [("Yes.", "yes"), ("yesterday", "yes"), ("No", "no"), ("", "no")])
def test_contains(answer, label):
    assert parse_contains(answer) == label


def test_figures_and_questions_by_hand(folder):
    """Right: all but VS figure 2 and VD set 1.

    aAcc 5/7. Figures: VS 0/1 (two right), VS 0/2 wrong, VD 0/0, VD 0/1 right, VD 1/0 wrong: 3/5; VS figure 0 is none.
    Questions: VS 0/0 wrong by figure 2, VS 0/1 right, VD 0/0 right, VD 1/0 wrong: 2/4.
    """
    made = Hallusion()
    items = made.material(Source(folder)).items
    texts = ["yes", "no", "no", "yes", "yes", "no", "maybe"]
    got = totals(made, items, answered(made, items, texts))
    assert got == {"aAcc": (5, 7), "fAcc": (3, 5), "qAcc": (2, 4), "unparsed": (1, 7)}


def said(reply):
    return None if reply is None else {"judgement": {"judge": "j", "reply": reply}}


def test_unclear_is_right_without_a_figure_only_and_what_is_not_judged_counts_nowhere(folder):
    """Judged: VS figure 0 unclear (right), VS figure 1 unclear (wrong), figure 2 correct; nothing else.

    aAcc 2/3; figures VS 0/1 wrong, 0/2 right; question VS 0/0 wrong.
    """
    made = Hallusion(rule="judge")
    items = made.material(Source(folder)).items
    extras = [said("unclear"), said("unclear"), said("Correct."), None, None, None, None]
    got = totals(made, items, answered(made, items, ["?"] * 7, extras=extras))
    assert got == {"aAcc": (2, 3), "fAcc": (1, 2), "qAcc": (0, 1), "unparsed": (0, 3)}


def test_a_reply_that_is_no_verdict_is_unclear_and_unparsed(folder):
    made = Hallusion(rule="judge")
    items = made.material(Source(folder)).items[1:2]
    got = totals(made, items, answered(made, items, ["?"], extras=[said("banana")]))
    assert (got["aAcc"], got["unparsed"]) == ((0, 1), (1, 1))


@given(st.integers(0, 2**32), st.sampled_from(["strict", "vlmevalkit", "contains", "judge"]))
def test_metrics_equal_a_slow_table_on_random_answers(seed, rule):
    rng = random.Random(seed)
    made = Hallusion(rule=rule)
    items, seen = [], set()
    for _ in range(rng.randrange(1, 12)):
        key = (rng.choice(["VD", "VS"]), rng.choice("ab"), rng.choice("01"), rng.choice("012"), rng.choice("01"))
        if key not in seen:
            seen.add(key)
            names = ("category", "subcategory", "set_id", "figure_id", "question_id")
            truth = {**dict(zip(names, key, strict=True)), "label": rng.choice(["yes", "no"])}
            items.append(Item("_".join(key), "p", "?", ("overall",), truth))
    texts = [rng.choice(["Yes", "No", "no, yes", "what", "yes!"]) for _ in items]
    replies = [rng.choice([None, "correct", "incorrect", "unclear", "eh"]) for _ in items]
    got = totals(made, items, answered(made, items, texts, extras=[said(r) for r in replies]))

    right = {}
    for item, text, reply in zip(items, texts, replies, strict=True):
        label, bare = item.truth["label"], item.truth["category"] == "VS" and item.truth["figure_id"] == "0"
        if rule == "judge":
            if reply is not None:
                right[item.id] = reply == "correct" or (reply in ("unclear", "eh") and bare)
        elif rule == "contains":
            right[item.id] = ("yes" in text.lower()) == (label == "yes")
        elif rule == "strict":
            right[item.id] = text.lower().split()[0].strip(",!") == label
        else:
            words = text.lower().replace(",", " ").replace("!", " ").split()
            right[item.id] = words.count(label) > 0 and not ("yes" in words and "no" in words)
    figures, questions = {}, {}
    for key, ok in right.items():
        c, sub, s, f, q = key.split("_")
        if not (c == "VS" and f == "0"):
            figures.setdefault((c, sub, s, f), []).append(ok)
        questions.setdefault((c, sub, s, q), []).append(ok)
    assert got["aAcc"] == (sum(right.values()), len(right))
    assert got["fAcc"] == (sum(map(all, figures.values())), len(figures))
    assert got["qAcc"] == (sum(map(all, questions.values())), len(questions))
