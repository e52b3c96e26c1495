"""Captions and answers about hard scenes are true, long enough, and end with a summary."""

from __future__ import annotations

import random
import re

import pytest

from mmhall.benchmarks.data.vocabulary import mentions
from mmhall.benchmarks.scenes.companions import COMPANIONS
from mmhall.benchmarks.scenes.hard import plan_hard_training_scene
from mmhall.benchmarks.scenes.language import Fact, planned_facts
from mmhall.benchmarks.scenes.prose import narrate, truthful_conversation, truthful_without_picture
from mmhall.benchmarks.scenes.world import PLACES

COUNT = 200


@pytest.fixture(scope="module")
def told():
    """Scenes as (facts by name, place, caption, all turns)."""
    scenes = []
    for index in range(COUNT):
        rng = random.Random(index)
        plan = plan_hard_training_scene(rng)
        facts = planned_facts(plan.objects)
        turns = truthful_conversation(rng, facts, plan.place)
        scenes.append(({f.name: f for f in facts}, plan.place, narrate(rng, facts, plan.place), turns))
    return scenes


def sentences(text):
    return re.findall(r"[^.]+\.", text)


def test_a_caption_names_exactly_what_is_there(told):
    for facts, _, caption, _ in told:
        assert {m.name for m in mentions(caption)} == set(facts), caption


def test_captions_have_60_to_120_tokens_on_average(told):
    lengths = [len(re.findall(r"[A-Za-z]+|[^A-Za-z\s]", caption)) for _, _, caption, _ in told]
    assert 60 <= sum(lengths) / COUNT <= 120
    assert max(lengths) < 200


def test_the_last_sentence_sums_up_in_order(told):
    for facts, place, caption, _ in told:
        body, last = "".join(sentences(caption)[:-1]), sentences(caption)[-1].strip()
        assert last.startswith("Overall, the picture shows")
        assert last.endswith(f" {place.phrase}.")
        order = list(dict.fromkeys(m.name for m in mentions(body)))
        assert [m.name for m in mentions(last)] == order
        assert set(order) == set(facts)


def test_a_companion_stands_in_the_sentence_of_its_object(told):
    """The object that a sentence introduces brings its companion along, unless that was named before."""
    pairs = 0
    for facts, _, caption, _ in told:
        named = set()
        for sentence in sentences(caption)[:-1]:
            new = [m.name for m in mentions(sentence) if m.name not in named]
            companion = COMPANIONS[new[0]] if new else None
            if companion in facts and companion not in named:
                assert companion in new, caption
                pairs += 1
            named.update(new)
    assert pairs > COUNT / 2


def test_large_and_hidden_objects_are_both_named_in_the_first_sentence(told):
    first = [{m.name for m in mentions(sentences(caption)[0])} for _, _, caption, _ in told]
    hard = [any(told[i][0][name].hard for name in names) for i, names in enumerate(first)]
    assert sum(hard) > COUNT / 4


def test_relations_and_sizes_are_true(told):
    checked = 0
    for facts, _, caption, _ in told:
        for name, side, other in re.findall(r"The ([a-z ]+?) is to the (left|right) of the ([a-z ]+?)\.", caption):
            assert (facts[name].x < facts[other].x) == (side == "left"), caption
            checked += 1
        for name, side, other in re.findall(r"The ([a-z ]+?) is (above|below) the ([a-z ]+?)\.", caption):
            assert (facts[name].y < facts[other].y) == (side == "above"), caption
        for name in re.findall(r"The ([a-z ]+?) looks small\.", caption):
            assert facts[name].area < 0.02
        for name in re.findall(r"The ([a-z ]+?) takes up a large part", caption):
            assert facts[name].area > 0.07
    assert checked > 20


def test_answers_are_true_and_half_of_the_negatives_fit_the_scene(told):
    absent, likely = 0, 0
    for facts, place, _, turns in told:
        for turn in turns:
            if turn.kind == "exists":
                assert turn.answer.startswith("Yes") == (turn.target in facts)
                if turn.target not in facts:
                    absent += 1
                    likely += turn.target in place.members or any(COMPANIONS[n] == turn.target for n in facts)
    assert 0.5 < likely / absent < 0.75


def test_counts_are_told_in_the_summary():
    facts = [Fact("sheep", 2, 0.3, 0.5, 0.1), Fact("dog", 1, 0.8, 0.5, 0.02)]
    caption = narrate(random.Random(1), facts, next(p for p in PLACES if p.name == "farm"))
    assert caption.endswith("Overall, the picture shows two sheep and a dog on a farm.")


def test_without_a_picture_there_is_one_caption_and_some_questions():
    turns = truthful_without_picture(random.Random(3))
    assert [turn.kind in ("caption", "brief") for turn in turns].count(True) == 1
    assert sum(turn.kind == "exists" for turn in turns) >= 3
