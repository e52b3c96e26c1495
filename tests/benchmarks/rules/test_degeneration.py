"""Signs of a degenerated text, by hand, and self-BLEU against a slow count."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from mmhall.benchmarks.rules.degeneration import bleu, distinct, repeats_itself, self_bleu, words_of
from mmhall.benchmarks.rules.length import count_sentences

DOGS = [text.split() for text in ("a dog runs in the park", "a dog sits in the park", "two cats sleep")]


def test_the_worked_examples():
    """Four of eight words and four of seven pairs differ. BLEU: 5/6, 4/6, 2/5 and 1/4 give .0556 ** .25 = .4855."""
    words = words_of("A dog and a dog, and a cat.")
    assert (distinct(words, 1), distinct(words, 2)) == (4 / 8, 4 / 7)
    assert bleu(DOGS[0], [DOGS[1]]) == pytest.approx((5 / 6 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25)
    assert self_bleu(DOGS) == pytest.approx(0.3237, abs=5e-5)
    assert count_sentences("A dog. It is 3.5 years old! A c") == 2


def test_a_short_text_is_penalised_by_the_closest_length():
    """Three words against five and nine: all precisions are 1 (0 of 0 four-grams are 1 / 1), times exp(1 - 5 / 3)."""
    references = [["a", "dog", "runs", "in", "here"], ["a", "dog", "runs", "in", "the", "park", "with", "a", "cat"]]
    assert bleu(["a", "dog", "runs"], references) == pytest.approx(math.exp(1 - 5 / 3))


def test_what_cannot_be_measured_is_nan():
    assert math.isnan(distinct([], 1))
    assert math.isnan(distinct(["dog"], 2))
    assert math.isnan(self_bleu([["dog"]]))
    assert self_bleu([["dog"], []]) == 0.0


def test_four_words_said_three_times():
    assert repeats_itself(words_of("There is a dog. There is a dog! there is a dog"))
    assert not repeats_itself(words_of("There is a dog. There is a dog."))
    assert not repeats_itself(["dog"] * 5)
    assert repeats_itself(["dog"] * 6)


def test_self_bleu_equals_a_slow_count():
    """N-grams of one caption are matched by the largest count in any other caption."""
    rng = random.Random(0)
    captions = [rng.choices("abcde", k=rng.randint(1, 12)) for _ in range(8)]

    def grams(words, n):
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    def slow(own, others):
        product = 1.0
        for n in range(1, 5):
            counted = grams(own, n)
            matched = sum(min(count, max(grams(o, n)[g] for o in others)) for g, count in counted.items())
            product *= matched / len(own) if n == 1 else (matched + 1) / (counted.total() + 1)
        closest = min((abs(len(o) - len(own)), len(o)) for o in others)[1]
        return product**0.25 * min(1.0, math.exp(1 - closest / len(own)))

    wanted = [slow(own, captions[:at] + captions[at + 1 :]) for at, own in enumerate(captions)]
    assert self_bleu(captions) == pytest.approx(sum(wanted) / len(wanted))
