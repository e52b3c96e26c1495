"""Answers to questions with lettered options."""

from __future__ import annotations

import pytest

from mmhall.benchmarks.rules.choices import lettered, parse_choice

OPTIONS = ["red", "blue", "dark blue"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("B", "B"),
        (" b.", "B"),
        ("(C)", "C"),
        ("**A**", "A"),
        ("A. red", "A"),
        ("B) red", "B"),
        ("Answer: C", "C"),
        ("The answer is B.", "B"),
        ("Option A", "A"),
        ("The car is red.", "A"),
        ("RED", "A"),
        ("dark blue", "C"),
        ("It is blue", "B"),
        ("<think>A. red?</think>B", "B"),
        ("D", None),
        ("A dog", None),
        ("red or blue", None),
        ("reddish", None),
        ("green", None),
        ("", None),
        ("<think>B", None),
    ],
)
def test_choices(answer, said):
    assert parse_choice(answer, OPTIONS) == said


def test_options_have_letters():
    assert lettered(OPTIONS) == "A. red\nB. blue\nC. dark blue"
