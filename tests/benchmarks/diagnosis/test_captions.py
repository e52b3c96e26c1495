"""Hallucination in captions, counted by hand."""

from __future__ import annotations

import pytest

from mmhall.analysis import AnswerScores
from mmhall.answers import Answer, Uncertainty, Usage
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.data.pictures import PictureSet
from mmhall.benchmarks.diagnosis.captions import Caption, entropy, growth, hallucination
from mmhall.benchmarks.diagnosis.causes import in_captions, unlike_grey

SURE = {  # entropy at the word, by picture: hallucinated car 0.9, cup 0.4 and car 0.2
    "1": {"dog": 0.1, "cat": 0.3, "car": 0.9, "cup": 0.4},
    "2": {"bus": 0.5, "car": 0.2},
}
TEXTS = {"1": "A dog. A cat and a car. A cup.", "2": "A bus and a car. A bus."}
SHOWN = {"1": ["dog", "cat"], "2": ["bus"]}


@pytest.fixture
def captions(processor):
    made = []
    for name, text in TEXTS.items():
        ids = tuple(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        words = [processor.tokenizer.decode([i]).strip() for i in ids]
        answer = Answer(text, tuple(words), ids, "eos", "greedy", {}, Usage(1.0, 9, len(ids), None))
        entropies = tuple(SURE[name].get(word, 2.0) for word in words)
        scores = AnswerScores(Uncertainty(entropies, entropies, None, None), None, None)
        made.append(Caption(Item(name, name, "", (), {"objects": SHOWN[name]}), answer, scores))
    return made


def by_key(figures):
    return {figure.key: figure.estimate for figure in figures}


def test_texts_are_counted_by_hand(captions):
    """Of 7 mentions 3 are hallucinated. First sentences: 0 of 1 and 1 of 2; last ones: 1 of 1 and 0 of 1.

    Without the last sentences 2 of 5 are left: 2/5 over 3/7 is 14/15.
    """
    found = by_key(hallucination(captions))
    assert found["chair_i"].value == pytest.approx(3 / 7)
    assert found["chair_s"].value == 1
    assert found["recall"].value == 1
    assert found["words"].value == pytest.approx((9 + 7) / 2)
    assert found["first_over_last"].value == pytest.approx((1 / 3) / (1 / 2))
    assert found["last_dropped"].value == pytest.approx(14 / 15 - 1)


def test_growth_over_mentions_by_hand(captions):
    """Dog, cat | car, cup: 0 of 2, then 2 of 2. Bus, car | bus: 1 of 2, then 0 of 1. 2/3 minus 1/4."""
    figure = growth(captions)
    assert figure.estimate.value == pytest.approx(2 / 3 - 1 / 4)
    assert figure.note == "earlier half 25.0%, later half 66.7%"
    assert [(place, e.value) for place, e in figure.places] == [("1", 0), ("2", 0.5), ("3", 0.5), ("4", 1)]


def test_a_caption_of_one_sentence_has_no_first_and_last(captions):
    one = [Caption(c.item, Answer("A dog and a cup.", (), (), "eos", "", {}, c.answer.usage)) for c in captions]
    found = by_key(hallucination(one))
    assert found["first_over_last"].value is None
    assert found["last_dropped"].value == 0


def test_entropy_at_the_first_token_of_a_mention(captions, processor):
    """0.9 beats 0.1, 0.3, 0.5 and 0.5; 0.4 beats 0.1 and 0.3; 0.2 beats 0.1: 7 of 12 pairs."""
    assert entropy(captions, processor.tokenizer).estimate.value == pytest.approx(7 / 12)


def test_an_empty_caption_has_no_entropy(captions, processor):
    silent = Caption(captions[0].item, Answer("", (), (), "eos", "", {}, captions[0].answer.usage))
    assert entropy([*captions, silent], processor.tokenizer).estimate.value == pytest.approx(7 / 12)


def test_what_captions_claim(captions):
    """Of the likely cup and bus, and car, two are named; of the other absent car, and cat, cup and dog, one."""
    pictures = PictureSet((), ("bus", "car", "cat", "cup", "dog"))
    found = by_key(in_captions(captions, pictures, {"1": ["cup", "bus"], "2": ["car"]}))
    assert found["likely_named"].value == pytest.approx(2 / 3)
    assert found["other_named"].value == pytest.approx(1 / 4)
    assert unlike_grey(captions, TEXTS["1"]).estimate.value == 0.5
