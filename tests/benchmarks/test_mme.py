from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Item, Source
from mmhall.benchmarks.mme import (
    COGNITION,
    HALLUCINATION,
    PERCEPTION,
    Mme,
    official_scores,
    parse_lmms_eval,
    parse_official,
)
from mmhall.benchmarks.report.table import sections
from mmhall.benchmarks.run.runs import Part
from mmhall.errors import DataError
from tests.benchmarks.conftest import answered, picture, totals, write_lines


@pytest.mark.parametrize(
    ("answer", "official", "lmms_eval"),
    [
        ("Yes", "yes", "yes"),
        ("no", "no", "no"),
        ("Yes, it is.", "yes", "yes"),
        ("not", "no", "no"),
        ("none", "no", "no"),
        ("now", "no", "no"),
        ("north", "no", "no"),
        ("  yes", None, "yes"),
        (" yes", "yes", "yes"),
        ("y", None, "yes"),
        ("N.", None, "no"),
        ("n", None, "no"),
        (".Yes", "yes", "yes"),
        ("...no", None, "no"),
        ("eyes", "yes", "yes"),
        ("I say yes", None, None),
        ("maybe", None, None),
        ("", None, None),
        ("noyes", "no", "no"),
        ("nyes", "yes", "yes"),
    ],
)
def test_rules_read_answers_as_described(answer, official, lmms_eval):
    assert (parse_official(answer), parse_lmms_eval(answer)) == (official, lmms_eval)


@pytest.fixture
def folders(tmp_path):
    """Two pictures of count beside their texts, one of artwork in folders of their own."""
    root = tmp_path / "MME"
    for n in (1, 2):
        picture(root / "count" / f"000{n}.jpg")
        (root / "count" / f"000{n}.txt").write_text(
            f"Are there {n} cats? Please answer yes or no.\tYes\nIs there none? Please answer yes or no.\tNo\n"
        )
    picture(root / "artwork" / "images" / "7.png")
    texts = root / "artwork" / "questions_answers_YN"
    texts.mkdir()
    (texts / "7.txt").write_text("Is it old?\tYes\r\nIs it new?\tNo")
    (root / "eval_tool").mkdir()
    return root


def test_the_authors_folders(folders):
    material = Mme().material(Source(folders))
    assert [i.id for i in material.items] == [
        "count/0001.jpg/1", "count/0001.jpg/2", "count/0002.jpg/1", "count/0002.jpg/2",
    ]  # fmt: skip
    assert material.items[0].prompt == "Are there 1 cats? Please answer yes or no."
    assert material.items[0].groups == ("hallucination", "perception", "count")
    assert [i.truth["label"] for i in material.items] == ["yes", "no", "yes", "no"]
    assert set(material.pictures) == {"count/0001.jpg", "count/0002.jpg"}
    every = Mme(subset="all").material(Source(folders))
    assert every.items[-1].groups == ("perception", "artwork")
    assert every.items[-1].prompt == "Is it new?"
    assert all(file.is_file() for file in every.pictures.values())


def test_the_llava_profile_changes_the_tail(folders):
    item = benchmark("mme(prompt='llava')").material(Source(folders)).items[0]
    assert item.prompt == "Are there 1 cats?\nAnswer the question using a single word or phrase."


def test_a_limit_is_of_pictures(folders):
    assert [i.picture for i in Mme().material(Source(folders, limit=1)).items] == ["count/0001.jpg"] * 2


def entry(image, question, answer="Yes", category="color"):
    return {"question_id": image, "image": image, "question": question, "answer": answer, "category": category}


def test_a_manifest(tmp_path):
    picture(tmp_path / "color" / "a.jpg")
    path = write_lines(tmp_path / "m.jsonl", [entry("color/a.jpg", "Red?"), entry("color/a.jpg", "Blue?", "No")])
    items = Mme().material(Source(path)).items
    assert [(i.id, i.picture, i.truth["label"]) for i in items] == [
        ("color/a.jpg/1", "color/a.jpg", "yes"), ("color/a.jpg/2", "color/a.jpg", "no"),
    ]  # fmt: skip


def test_scoring_needs_no_pictures(tmp_path):
    path = write_lines(tmp_path / "m.jsonl", [entry("color/a.jpg", "Red?"), entry("color/a.jpg", "Blue?", "No")])
    assert [i.id for i in Mme().material(Source(path, pictures=False)).items] == ["color/a.jpg/1", "color/a.jpg/2"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry("a.jpg", "Red?")], "a.jpg has 1 questions in color; each picture of MME has 2"),
        ([entry("a.jpg", q) for q in "abc"], "a.jpg has 3 questions"),
        ([entry("a.jpg", "Red?")] * 2, "line 2: question 'color, a.jpg: Red.' is there already"),
        ([entry("a.jpg", "Red?", "maybe")], "line 1: 'answer' must be 'yes' or 'no', got 'maybe'"),
        ([entry("a.jpg", "Red?", category="taste")], "line 1: 'category' must be"),
        ([{**entry("a.jpg", "Red?"), "question": None}], "'question' must be a text, got null"),
        ([entry("a.jpg", "Red?"), entry("a.jpg", "Blue?")], "a.jpg: is not in .* pictures are missing"),
        ([], "is empty"),
        (["color"], "line 1: is no JSON object"),
    ],
)
def test_unfit_manifests_are_refused(tmp_path, entries, message):
    path = write_lines(tmp_path / "m.jsonl", entries)
    with pytest.raises(DataError, match=message):
        Mme().material(Source(path))


def test_unfit_folders_are_refused(folders, tmp_path):
    with pytest.raises(DataError, match="give --data"):
        Mme().material(Source(None))
    with pytest.raises(DataError, match="holds no questions of MME's categories"):
        Mme().material(Source(folders / "eval_tool"))
    (folders / "count" / "0002.txt").write_text("Are there two? Yes\n")
    with pytest.raises(DataError, match=r"0002.txt, line 1: 'answer' must be 'yes' or 'no', got 'Are there two\? Yes'"):
        Mme().material(Source(folders))
    (folders / "count" / "0002.txt").write_text("")
    with pytest.raises(DataError, match=r"0002.txt: is empty"):
        Mme().material(Source(folders))
    (folders / "count" / "0002.jpg").unlink()
    with pytest.raises(DataError, match=r"0002.txt: has no picture 0002"):
        Mme().material(Source(folders))


def items_of(pictures):
    """Two items for each (category, picture): yes, then no."""
    return [
        Item(f"{c}/{p}/{k}", f"{c}/{p}", "?", ("hallucination", c), {"label": label, "category": c})
        for c, p in pictures
        for k, label in enumerate(("yes", "no"))
    ]


def test_scores_by_hand():
    """count: picture a both right, b one; color: c none. count acc 3/4, acc+ 1/2, score 1.25; color 0; total 1.25."""
    items = items_of([("count", "a"), ("count", "b"), ("color", "c")])
    rows = answered(Mme(), items, ["yes", "no", "yes", "yes", "no", "what?"])
    got = totals(Mme(), items, rows)
    assert got["acc"] == (3, 6)
    assert got["acc+"] == (1, 3)
    assert got["score"][0] / got["score"][1] == pytest.approx(1.25)
    assert got["unparsed"] == (1, 6)
    count = totals(Mme(), items[:4], rows[:4])
    assert count["score"] == (2.5, 2)


def test_a_picture_with_an_answer_missing_counts_in_acc_only():
    items = items_of([("count", "a"), ("count", "b")])[:3]
    got = totals(Mme(), items, answered(Mme(), items, ["yes", "no", "yes"]))
    assert got["acc"] == (3, 3)
    assert got["acc+"] == (1, 1)
    assert got["score"] == (2.0, 1)


def test_an_official_table_of_the_hallucination_subset():
    """In each category 28 pictures with both right, one with one, one with none: 57/60 + 28/30 = 95 + 93.33."""
    pictures = [(c, True, True) for c in HALLUCINATION for _ in range(28)]
    pictures += [(c, first, False) for c in HALLUCINATION for first in (True, False)]
    scores = official_scores(pictures)
    assert scores["count"] == pytest.approx(95 + 100 * 28 / 30)
    assert scores["hallucination"] == pytest.approx(4 * (95 + 100 * 28 / 30))
    assert "perception" not in scores


@given(st.integers(0, 2**32))
def test_metrics_equal_a_slow_table_on_random_answers(seed):
    rng = random.Random(seed)
    categories = rng.sample([*PERCEPTION, *COGNITION], 3)
    items = items_of([(rng.choice(categories), f"{n}") for n in range(rng.randrange(1, 7))])
    texts = [rng.choice(["Yes", "No", "yes.", "nope", "y", "", "  no", "eh, no"]) for _ in items]
    rows = answered(Mme(), items, texts)
    order = list(range(len(items)))
    rng.shuffle(order)
    got = totals(Mme(), [items[i] for i in order], [rows[i] for i in order])

    def read(text):
        text = text.lower()
        if text in ("yes", "no"):
            return text
        for word in ("yes", "no"):
            if word in text[:4]:
                return word
        return "other"

    right = [read(t) == i.truth["label"] for t, i in zip(texts, items, strict=True)]
    pairs = [(items[k].truth["category"], right[k], right[k + 1]) for k in range(0, len(items), 2)]
    total = Fraction(0)
    for category in {c for c, _, _ in pairs}:
        own = [(a, b) for c, a, b in pairs if c == category]
        total += Fraction(sum(a + b for a, b in own), 2 * len(own)) + Fraction(sum(a and b for a, b in own), len(own))
    assert got["acc"] == (sum(right), len(right))
    assert got["acc+"] == (sum(a and b for _, a, b in pairs), len(pairs))
    assert got["score"][0] / got["score"][1] == pytest.approx(float(total))
    assert got["unparsed"][0] == sum(read(t) == "other" for t in texts)
    scores = official_scores(pairs)
    assert sum(scores[c] for c in {c for c, _, _ in pairs}) == pytest.approx(100 * float(total))


def test_the_report_has_the_authors_scores(folders):
    """Three of four right, one picture of two: 75 + 50. A total needs all of its categories."""
    made = Mme()
    items = made.material(Source(folders)).items
    rows = answered(made, items, ["Yes", "No", "Yes", "Yes"])
    found = made.evaluate(items, rows, ["greedy"])
    assert found.official == {"greedy": {"count": (125.0,)}}
    (table,) = (table for table in sections([(Part(made, list(items), {}), found)]) if "script" in table.title)
    assert (table.metrics, table.lines[0].values) == (("count",), ("125.0",))
    assert not Mme(rule="lmms-eval").evaluate(items, rows, ["greedy"]).official
