"""Hallucination by position and by length, and signs of degeneration, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.evaluation import evaluate
from mmhall.benchmarks.evidence.captions import hazards, least_squares, text_figures
from mmhall.benchmarks.report.captions import caption_remarks, caption_sections, captions_as_data
from mmhall.results.store import Row

WORDS = "word " * 18


def test_hazard_by_hand():
    """Wrong mentions as 0 0 1 0 1 1 and 0 1: of two first mentions none is wrong, of two second ones one."""
    found = hazards([[False, False, True, False, True, True], [False, True], []])
    assert [(h.position, h.wrong, h.count) for h in found] == [
        (1, 0, 2), (2, 1, 2), (3, 1, 1), (4, 0, 1), (5, 1, 1), (6, 1, 1),
    ]  # fmt: skip
    assert len(hazards([[True] * 12])) == 8


def test_the_line_by_hand():
    """Words 40, 60, 80, 100 and 10, 16, 19, 25 %: mean 70 and 17.5; slope (30 * 15 + 10 * 3) / 2000 = .24."""
    x, y = np.array([40.0, 60, 80, 100]), np.array([10.0, 16, 19, 25])
    slope, start = least_squares(np.stack([x, x], 1), np.stack([y, 2 * y], 1))
    np.testing.assert_allclose([slope, start], [[0.24, 0.48], [0.7, 1.4]])
    assert np.isnan(least_squares(np.full(3, 5.0), y[:3])[0])


def evaluated(**texts):
    """Of 40 pictures, of which all have a dog and only every second one a cat."""
    items = [Item(f"{n}", f"{n}", "?", Chair.groups, {"objects": ["dog", "cat"][: 1 + n % 2]}) for n in range(40)]
    rows = [
        Row("chair", item.id, name, text, "length" if name == "cut" and int(item.id) < 3 else "eos", 9, 1.0, 0)
        for name, text in texts.items()
        for item in items
    ]
    return evaluate(Chair(), items, rows, list(texts))


def test_the_slope_is_of_a_strategys_own_cuts():
    """Greedy: 20 words with a dog, then a cat in the 22nd, which is wrong in half of the pictures.

    First 20 words: 0 %. Uncut, 22 words: 50 %. So 25 points for each word, and at greedy's 22 words 50. The method has
    the dog in its first 20 of 40 words, the cat in the 40th: 2.5 points for each word, and 5 at 22 words. Both errors
    are paired: the difference has the sign of every draw.
    """
    greedy, method = f"A dog {WORDS}a cat.", f"A dog {WORDS}{WORDS}a cat."
    first, second = evaluated(greedy=greedy, method=method).captions
    assert first.slope.points == ((20.0, 0.0), (22.0, 0.5))
    assert (first.slope.slope.value, first.slope.value.value) == (pytest.approx(0.25), pytest.approx(0.5))
    assert first.slope.difference is None
    assert second.slope.points == ((20.0, 0.0), (30.0, 0.0), (40.0, 0.5))
    x, y = np.array([20.0, 30, 40]), np.array([0, 0, 0.5])
    slope, start = least_squares(x, y)
    assert second.slope.value.value == pytest.approx(start + 22 * slope)
    assert second.slope.difference.value == pytest.approx(start + 22 * slope - 0.5)
    assert second.slope.difference.high < 0
    assert second.slope.slope.low < slope < second.slope.slope.high


def test_short_captions_have_no_slope_and_are_told():
    evaluation = evaluated(greedy="A dog. A cat.", silent="Nothing.")
    first, second = evaluation.captions
    assert (first.slope, second.slope, first.unmatched, second.unmatched) == (None, None, 0, 40)
    by_length = next(s for s in caption_sections(evaluation, "captions") if s.title.endswith("by length"))
    assert [line.values for line in by_length.lines] == [("n/a", "n/a", "0 of 40"), ("n/a", "n/a", "40 of 40")]


def test_degeneration_is_marked():
    """Distinct-1 falls from 1 to 1 / 3, and of 40 captions three more are at the limit: 7.5 points."""
    evaluation = evaluated(greedy="A dog runs.", cut="dog dog dog dog dog dog", fine="A dog sits. Hm a.")
    base, cut, fine = (figures.text for figures in evaluation.captions)
    assert (base.distinct_1, base.words, base.sentences, base.at_limit) == (1.0, 3.0, 1.0, 0.0)
    assert (cut.distinct_1, cut.repeating, cut.at_limit) == (pytest.approx(1 / 6), 1.0, 3 / 40)
    assert (cut.poorer_than(base), cut.more_cut_off_than(base)) == (True, True)
    assert (fine.distinct_1, fine.poorer_than(base)) == (pytest.approx(4 / 5), True)
    assert not replace(fine, distinct_1=0.9).poorer_than(base)
    assert not replace(cut, at_limit=0.05).more_cut_off_than(base)
    (*_, texts) = caption_sections(evaluation, "captions")
    assert [line.differences[0] for line in texts.lines] == ["", "POORER", "POORER"]
    assert [line.differences[3] for line in texts.lines] == ["", "MORE CUT OFF", ""]
    assert "POORER" in " ".join(caption_remarks(evaluation))


def test_empty_captions_are_no_numbers_in_json():
    evaluation = evaluated(greedy="", other="A dog.")
    empty, _ = captions_as_data(evaluation)["figures"]
    assert (empty["text"]["distinct_1"], empty["text"]["words"], empty["share"]) == (None, 0.0, "CHAIR_s")
    (told, untold) = (Row("chair", "1", "greedy", "A dog.", by, 9, 1.0, 0) for by in ("length", ""))
    assert text_figures([told, untold]).at_limit == 1.0  # an imported answer does not say why it ended
    assert np.isnan(text_figures([untold]).at_limit)


def test_benchmarks_of_questions_have_none():
    from mmhall.benchmarks.pope import Pope

    items = [Item(f"{n}", f"{n}", "?", ("random",), {"label": "yes"}) for n in range(4)]
    rows = [Row("pope", item.id, "greedy", "Yes", "eos", 1, 1.0, 0) for item in items]
    evaluation = evaluate(Pope(), items, rows, ["greedy"])
    assert (evaluation.captions, evaluation.frontiers, caption_sections(evaluation, "random")) == ((), {}, [])
