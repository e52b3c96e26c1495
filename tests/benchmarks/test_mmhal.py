from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from mmhall.benchmarks.base import Source
from mmhall.benchmarks.mmhal import TYPES, MmHal, parse_rating
from mmhall.errors import DataError
from tests.benchmarks.conftest import picture, totals, write_json

REPLIES = ["Rating: 4", "rating: 2", "Good.\n\nRATING: 6", "Rating: 0", "Rating: 7", "four", "Rating: 1, Rating: 3", ""]


def entry(n, **changes):
    return {
        "question_type": TYPES[n % 8],
        "question_topic": "topic",
        "image_id": f"id{n}",
        "image_src": f"https://example.org/a/{n}.jpg",
        "image_content": ["Cat", "Hat"],
        "question": f"What is {n}?",
        "gt_answer": f"It is {n}.",
        "model_answer": "",
        "model_name": "",
        **changes,
    }


def written(folder, entries):
    return write_json(folder / "response_template.json", entries)


def test_the_authors_template(tmp_path):
    for n in range(9):
        picture(tmp_path / "images" / f"{n}.jpg")
    written(tmp_path, [entry(n) for n in range(9)])
    material = MmHal().material(Source(tmp_path))
    assert [i.groups[1] for i in material.items] == [*TYPES, "attribute"]
    assert material.items[0].prompt == "What is 0?"
    assert material.items[0].truth["contents"] == "Cat, Hat"
    assert MmHal().judge_fields(material.items[3], "Three.") == {
        "contents": "Cat, Hat", "question": "What is 3?", "reference": "It is 3.", "answer": "Three.",
    }  # fmt: skip
    assert len(MmHal().material(Source(tmp_path, limit=3)).items) == 3


def test_pictures_may_be_named_by_their_id(tmp_path):
    picture(tmp_path / "id0.jpg")
    written(tmp_path, [entry(0)])
    assert MmHal().material(Source(tmp_path)).items[0].picture == "id0.jpg"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(1)], "entry 1: is of type 'adversarial', expected type 'attribute' here"),
        ([entry(0, image_content="Cat")], "'image_content' must be a list of texts, got \"Cat\""),
        ([entry(0, gt_answer=None)], "'gt_answer' must be a text, got null"),
        ([entry(0)], r"0.jpg: is not in .* \(1 of 1 pictures are missing\); check --images"),
        ([{k: v for k, v in entry(0).items() if not k.startswith("image_")}], "names no picture"),
        ([], "is empty"),
    ],
)
def test_unfit_entries_are_refused(tmp_path, entries, message):
    written(tmp_path, entries)
    with pytest.raises(DataError, match=message):
        MmHal().material(Source(tmp_path))


@pytest.mark.parametrize(("reply", "rating"), list(zip(REPLIES, [4, 2, 6, 0, None, None, None, None], strict=True)))
def test_ratings(reply, rating):
    assert parse_rating(reply) == rating


def test_scores_by_hand():
    """Official: 4, 2, 6, 0 and four times 0: 12 of 8; below 3: 2, 0 and the four: 6. Strict: 12 of 4; 2."""
    items = [None] * 8
    extras = [{"judgement": {"judge": "j", "reply": reply}} for reply in REPLIES]
    for rule, rated, low in (("official", 8, 6), ("strict", 4, 2)):
        made = MmHal(rule=rule)
        rows = [answered_row(made, n, extra) for n, extra in enumerate([*extras, None])]
        got = totals(made, [*items, None], rows)
        assert got == {
            "score": (12, rated), "hallucination": (low, rated), "unparsed": (4, 8), "judged": (8, 9),
        }  # fmt: skip


def answered_row(made, n, extra):
    from mmhall.results.store import Row

    return Row(made.name, f"{n}", "greedy", "text", "eos", 1, 0.1, 0, extra)


@given(st.integers(0, 2**32), st.sampled_from(["official", "strict"]))
def test_metrics_equal_a_slow_table_on_random_replies(seed, rule):
    rng = random.Random(seed)
    made = MmHal(rule=rule)
    replies = [
        rng.choice([None, "", "rating: "])
        if rng.random() < 0.3
        else f"Rating: {rng.randrange(9)}" * rng.choice([1, 1, 2])
        for _ in range(rng.randrange(1, 12))
    ]
    rows = [
        answered_row(made, n, r if r is None else {"judgement": {"judge": "j", "reply": r}})
        for n, r in enumerate(replies)
    ]
    got = totals(made, [None] * len(rows), rows)
    ratings = []
    for reply in replies:
        if reply is not None:
            hits = {c for c in "0123456" if "rating: " + c in reply.lower()}
            if len(hits) == 1:
                ratings.append(int(hits.pop()))
            elif rule == "official":
                ratings.append(0)
    assert got["score"] == (sum(ratings), len(ratings))
    assert got["hallucination"] == (len([r for r in ratings if r < 3]), len(ratings))
    assert got["judged"] == (len([r for r in replies if r is not None]), len(replies))


def test_nothing_is_scored_before_it_is_judged():
    made = MmHal()
    assert totals(made, [None], [answered_row(made, 0, None)]) == {
        "score": (0, 0), "hallucination": (0, 0), "unparsed": (0, 0), "judged": (0, 1),
    }  # fmt: skip


def test_scoring_needs_no_pictures(tmp_path):
    written(tmp_path, [entry(n) for n in range(3)])
    material = MmHal().material(Source(tmp_path, pictures=False, limit=2))
    assert [i.picture for i in material.items] == ["0.jpg", "1.jpg"]
    with pytest.raises(DataError, match="pictures are missing"):
        MmHal().material(Source(tmp_path))
