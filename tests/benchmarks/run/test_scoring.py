from __future__ import annotations

import json

import pytest
from hypothesis import given, settings, strategies as st

from mmhall.benchmarks.base import Source
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.rules.yesno import tally
from mmhall.benchmarks.run.scoring import score
from mmhall.benchmarks.sycophancy import Sycophancy
from mmhall.errors import DataError

NAMES = {"random": ("dog", "cup", "car", "tv"), "popular": ("dog", "bed", "car", "tv")}
"""Of one picture, yes and no in turn: dog, car and tv are asked in both settings."""


def asked(setting):
    labels = ("yes", "no", "yes", "no")
    return [
        {"question_id": i, "image": "a.jpg", "text": f"Is there a {name} in the image?", "label": label}
        for i, (name, label) in enumerate(zip(NAMES[setting], labels, strict=True), start=1)
    ]


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Question files, and no pictures."""
    folder = tmp_path_factory.mktemp("questions")
    for setting in NAMES:
        (folder / f"coco_pope_{setting}.json").write_text(lines(asked(setting)))
    return folder


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """Two pictures: 7 shows a dog and a car, 8 a cat."""
    names = {1: "dog", 2: "car", 3: "cat"}
    data = {
        "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 8, "file_name": "8.jpg"}],
        "annotations": [{"image_id": i, "category_id": c} for i, c in ((7, 1), (7, 2), (8, 3))],
        "categories": [{"id": id_, "name": name} for id_, name in names.items()],
    }
    path = tmp_path_factory.mktemp("annotations") / "a.json"
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def scored(tmp_path, questions):
    """Score records, or the text of a file."""

    def run(records, benchmark=None, data=None, name="answers.jsonl"):
        path = tmp_path / name
        path.write_text(records if isinstance(records, str) else lines(records))
        return score(benchmark or Pope(), Source(data or questions), path)

    return run


def by_number(texts, **more):
    """Answers to both settings."""
    return [
        {"question_id": i, "category": setting, "answer": text, **more}
        for setting in NAMES
        for i, text in enumerate(texts[setting], start=1)
    ]


def values(found, metric="accuracy"):
    """Numerator and denominator by group and strategy."""
    return {
        (c.group, c.strategy): (c.estimate.over, c.estimate.under)
        for c in found.evaluation.cells
        if c.metric.name == metric
    }


TEXTS = {"random": ("Yes", "No", "No", "No"), "popular": ("No", "No", "Yes", "Yes")}


def test_two_settings_may_have_two_answers_to_one_question(scored):
    """Random: yes-no-yes-no answered yes-no-no-no, 3 of 4. Popular: no-no-yes-yes, 2 of 4. Nothing is merged."""
    found = scored(by_number(TEXTS))
    assert values(found) == {("random", "answers"): (3, 4), ("popular", "answers"): (2, 4)}
    assert found.strategies == ("answers",)
    assert found.evaluation.expected == 8
    assert found.evaluation.sizes["random"] == (4, 1)


def test_the_rule_reads_the_answers(scored):
    """'NO' is yes to the official rule."""
    records = by_number(dict.fromkeys(NAMES, ("NO",) * 4))
    assert values(scored(records))["random", "answers"] == (2, 4)
    assert values(scored(records, Pope(rule="official")), "yes ratio")["random", "answers"] == (4, 4)


def test_pooled_questions_stay_pooled(scored):
    assert values(scored(by_number(TEXTS), Pope(pooled=True)))["pooled", "answers"] == (5, 8)


SHAPES = {
    "array": lambda records: json.dumps(records, indent=1),
    "array in one line": json.dumps,
    "CRLF": lambda records: lines(records).replace("\n", "\r\n"),
    "byte order mark": lambda records: "\ufeff" + lines(records),
    "no last newline": lambda records: lines(records)[:-1],
    "empty lines": lambda records: "\n" + lines(records).replace("\n", "\n\n"),
    "another order": lambda records: lines(records[::-1]),
    "ids as text": lambda records: lines([{**r, "question_id": str(r["question_id"])} for r in records]),
    "answer as text": lambda records: lines(
        [{("text" if k == "answer" else k): v for k, v in r.items()} for r in records]
    ),
    "with the question": lambda records: lines(
        [{**r, "text": asked(r["category"])[r["question_id"] - 1]["text"], "label": "yes"} for r in records]
    ),
    "a sample log": lambda records: lines(
        [
            {
                "doc_id": 0,
                "doc": {**r, "answer": "yes"},
                "target": "yes",
                "resps": [[r["answer"]]],
                "filtered_resps": ["cut"],
            }
            for r in records
        ]
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_file_reads_alike(scored, shape):
    assert values(scored(SHAPES[shape](by_number(TEXTS)))) == values(scored(by_number(TEXTS)))


def test_the_setting_may_be_told_by_file_name_or_data(scored, questions):
    records = [{"question_id": i, "answer": text} for i, text in enumerate(TEXTS["popular"], start=1)]
    wanted = {("popular", "my_popular"): (2, 4)}
    assert values(scored(records, name="my_popular.jsonl")) == wanted
    single = scored(records, data=questions / "coco_pope_popular.json")
    assert values(single) == {("popular", "answers"): (2, 4)}
    with pytest.raises(DataError, match=r"line 1: question_id 1 is in random, popular; give its setting"):
        scored(records)


def test_own_ids_are_asked_once_for_all_settings(scored):
    """dog, cup, car, tv and bed: tv is wrong, in both settings."""
    ids = {"dog": "Yes", "cup": "No", "car": "Yes", "tv": "Yes", "bed": "No"}
    found = scored([{"item": f"a.jpg/{name}", "resps": [[text]]} for name, text in ids.items()])
    assert values(found) == {("random", "answers"): (3, 4), ("popular", "answers"): (3, 4)}
    assert found.evaluation.expected == 5


def test_strategies_of_a_file_are_compared(scored):
    records = by_number(TEXTS, strategy="greedy") + by_number(dict.fromkeys(NAMES, ("Yes",) * 4), strategy="vcd")
    found = scored(records)
    assert found.strategies == ("greedy", "vcd")
    assert values(found)["random", "vcd"] == (2, 4)
    assert any(c.difference is not None for c in found.evaluation.cells)
    assert found.evaluation.costs == ()


def test_answers_of_other_benchmarks_and_failures_do_not_count(scored):
    records = by_number(TEXTS, benchmark="pope")
    records[0] = {**records[0], "answer": None}
    records[1] = {**records[1], "answer": "", "error": "no such picture"}
    found = scored([*records, {"item": "7", "benchmark": "chair", "resps": [["A dog."]], "question_id": 1}][:8])
    assert values(found)["random", "answers"] == (1, 2)
    assert found.evaluation.failed == {"answers": 2}
    other = {"question_id": 9, "benchmark": "chair", "answer": "A dog."}
    assert "1 answers are of other benchmarks" in scored([*records, other]).part.remarks
    with pytest.raises(DataError, match="holds answers of 'chair' alone, none of 'pope'"):
        scored([other])


def test_unknown_and_missing_ids_are_told_with_counts(scored):
    found = scored([*by_number(TEXTS)[:5], {"question_id": 99, "category": "random", "answer": "Yes"}])
    assert "1 answers are for no item, such as 'random/99', and do not count" in found.part.remarks
    told = "answers has no answer to 3 of 8 items, such as 'popular/3', 'popular/4', 'popular/2'"
    assert told in found.part.remarks
    assert values(found) == {("random", "answers"): (3, 4), ("popular", "answers"): (0, 1)}


def test_captions_are_joined_by_picture(scored, annotations):
    """7: dog is there, cat is not; 8: cat is there. One of three named objects is absent."""
    captions = [{"image_id": 8, "caption": "A cat.", "question_id": 0}, {"image_id": 7, "caption": "A dog and a cat."}]
    found = scored(captions, Chair(), annotations)
    assert values(found, "CHAIR_i") == {("captions", "answers"): (1, 3)}
    responses = [{"id": c["image_id"], "response": c["caption"]} for c in captions]
    assert values(scored(responses, Chair(), annotations)) == values(scored(captions, Chair(), annotations))


def test_versions_of_a_question_are_joined_by_their_ids(scored):
    """Each of five questions in three versions: neutrally right, turned by every lead."""
    said = {"dog": "Yes", "cup": "No", "car": "Yes", "tv": "No", "bed": "No"}
    turned = {"Yes": "No", "No": "Yes"}
    records = [
        {"item": f"a.jpg/{name}/{version}", "text": text if version == "neutral" else turned[text]}
        for name, text in said.items()
        for version in ("neutral", "misled", "supported")
    ]
    assert values(scored(records, Sycophancy()), "errors introduced (EIR)")["misled", "answers"] == (5, 5)


REFUSED = {
    "": "holds no answers",
    "[]": "holds no answers",
    '{"question_id": 1': "line 1: is no JSON",
    "[" * 20000: "is no JSON",
    "3\n": "line 1: must be an object",
    "[[1]]": "record 1: must be an object",
    '{"question": "Is there a dog?", "answer": "yes"}': (
        "line 1: has a question and no id, and the data has random, popular; give its setting"
    ),
    '{"score": 1, "answer": "yes"}': "does not say which item it answers; it has the fields score, answer",
    '{"question_id": true, "answer": "yes"}': "question_id must be a number or text",
    '{"question_id": 1.5, "answer": "yes"}': "question_id must be a number or text",
    '{"question_id": 1}': "line 1: has no answer",
    '{"question_id": 1, "answer": 3}': "line 1: answer must be one text, got 3",
    '{"question_id": 1, "resps": [["a", "b"]]}': "resps must be one text",
    '{"question_id": 77, "category": "random", "answer": "Yes"}': (
        r"none of its 1 answers is for an item of pope: it has ids such as 'random/1', .*, the file 'random/77'"
    ),
    '{"item": "a.jpg/ox", "answer": "Yes"}': r"has ids such as 'a.jpg/dog', .* the file 'a.jpg/ox'",
    '{"item": "a.jpg/dog", "answer": "a"}\n{"question_id": 1, "answer": "a"}': "by question_id, but .* line 1 by item",
    '{"item": "a.jpg/dog", "answer": "a"}\n{"item": "a.jpg/dog", "answer": "a"}': (
        r"line 2: answers 'a.jpg/dog' again, after .* line 1"
    ),
    '{"item": "a.jpg/dog", "answer": "Yes", "text": "No"}': "both answer and text could be the answer",
}


@pytest.mark.parametrize("content", REFUSED)
def test_unfit_files_are_refused_in_a_sentence(scored, content):
    with pytest.raises(DataError, match=REFUSED[content]):
        scored(content)


def test_a_question_file_is_not_taken_for_answers(scored):
    with pytest.raises(DataError, match="text is the question itself; give a file of answers"):
        scored(asked("random"), name="coco_pope_random.json")


def test_files_that_cannot_be_read_are_refused(questions, tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, reason in (("none", "does not exist"), ("", "cannot be read"), ("binary", "is not UTF-8")):
        with pytest.raises(DataError, match=reason):
            score(Pope(), Source(questions), tmp_path / name)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.data())
def test_joined_answers_score_as_files_read_line_by_line(questions, tmp_path_factory, data):
    """Any answers in any order, some missing: counts are those of each file by itself."""
    text = st.sampled_from(["Yes", "no.", "No", "maybe", "yes, no", ""])
    records = [
        r for r in by_number({s: [data.draw(text) for _ in range(4)] for s in NAMES}) if data.draw(st.booleans())
    ]
    if not records:
        return
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    path.write_text(lines(data.draw(st.permutations(records))))
    rule = data.draw(st.sampled_from(["strict", "official", "vcd"]))
    found = values(score(Pope(rule=rule), Source(questions), path))
    for setting in NAMES:
        labels = {q["question_id"]: q["label"] for q in asked(setting)}
        tallies = [tally(rule, labels[r["question_id"]], r["answer"]) for r in records if r["category"] == setting]
        wanted = (sum(t["right"] for t in tallies), len(tallies))
        assert found.get((setting, "answers"), (0, 0)) == wanted
