from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mmhall.results.statistics import Resampler, count_turns, holm, mcnemar


def outcomes(lost, won, both=5):
    base = np.array([1] * lost + [0] * won + [1] * both, bool)
    return base, np.array([0] * lost + [1] * won + [1] * both, bool)


@pytest.mark.parametrize(
    ("lost", "won", "p"), [(57, 58, 1.0), (75, 55, 0.09525), (38, 59, 0.04173), (0, 0, 1.0), (0, 3, 0.25)]
)
def test_mcnemar_is_exact(lost, won, p):
    assert mcnemar(*outcomes(lost, won)) == pytest.approx(p, abs=5e-6)


@pytest.mark.parametrize(("lost", "won"), [(4, 11), (7, 7), (1, 0)])
def test_mcnemar_equals_the_binomial_sum(lost, won):
    n = lost + won
    tail = sum(math.comb(n, j) for j in range(min(lost, won) + 1)) / 2**n
    assert mcnemar(*outcomes(lost, won)) == pytest.approx(min(1.0, 2 * tail))


def test_a_constant_has_an_interval_of_no_width():
    estimate = Resampler(list("aabbcc")).estimate(np.ones(6), np.full(6, 2.0))
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.5, 0.5)


def test_nothing_to_divide_by_is_no_number():
    assert Resampler(["a", "b"]).estimate(np.zeros(2), np.zeros(2)).value is None


@pytest.mark.slow
def test_the_interval_of_a_share_is_near_the_normal_one():
    """400 pictures of one item, share 0.3: 0.3 +- 1.96 sqrt(0.3 * 0.7 / 400) = 0.3 +- 0.0449."""
    hits = np.array([1.0] * 120 + [0.0] * 280)
    estimate = Resampler([str(i) for i in range(400)]).estimate(hits, np.ones(400))
    assert estimate.low == pytest.approx(0.3 - 0.0449, abs=0.004)
    assert estimate.high == pytest.approx(0.3 + 0.0449, abs=0.004)


def test_pictures_are_resampled_not_items():
    """Four copies of each item within a picture must not narrow the interval."""
    hits = np.array([1.0] * 30 + [0.0] * 70)
    alone = Resampler([str(i) for i in range(100)]).estimate(hits, np.ones(100))
    copied = Resampler([str(i) for i in range(100) for _ in range(4)]).estimate(hits.repeat(4), np.ones(400))
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_pairing_narrows_a_difference():
    rng = np.random.default_rng(0)
    base = rng.random(200) < 0.5
    better = base | (rng.random(200) < 0.1)
    resampler, ones = Resampler([str(i) for i in range(200)]), np.ones(200)
    difference = resampler.difference(better.astype(float), ones, base.astype(float), ones)
    assert difference.value == pytest.approx(better.mean() - base.mean())
    assert 0 < difference.low < difference.value < difference.high < 0.15
    assert difference.p < 0.01


def test_no_difference_is_no_evidence():
    same = np.array([1.0, 0.0] * 50)
    difference = Resampler([str(i) for i in range(100)]).difference(same, np.ones(100), same, np.ones(100))
    assert (difference.value, difference.p) == (0.0, 1.0)


def test_the_same_answers_give_the_same_digits():
    hits = np.random.default_rng(1).random(50)
    runs = [Resampler([str(i // 2) for i in range(50)]).estimate(hits, np.ones(50)) for _ in range(2)]
    assert runs[0] == runs[1]


def test_one_picture_is_no_evidence_and_few_are_little():
    """All n pictures better: exchanging within pictures reaches the same extreme in 2 of 2**n ways."""
    for count, p in ((1, 1.0), (2, 0.5), (4, 0.125), (6, 0.03125)):
        better, worse, ones = np.ones(count), np.zeros(count), np.ones(count)
        got = Resampler([str(i) for i in range(count)]).difference(better, ones, worse, ones)
        assert got.p == pytest.approx(p, abs=0.015)


def test_questions_of_one_picture_are_not_independent():
    """Two pictures of six questions, all won: p = 0.5, where counting questions would say 0.0005."""
    resampler = Resampler(["a"] * 6 + ["b"] * 6)
    assert resampler.difference(np.ones(12), np.ones(12), np.zeros(12), np.ones(12)).p == pytest.approx(0.5, abs=0.02)
    assert not resampler.one_each


def test_p_values_are_uniform_without_a_difference():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        a, b = rng.random((2, 12)) < 0.5
        resampler = Resampler([str(i) for i in range(12)], draws=400)
        hits += resampler.difference(a.astype(float), np.ones(12), b.astype(float), np.ones(12)).p <= 0.05
    assert hits <= 18


def test_the_permutation_equals_all_exchanges():
    """Ratio of counts over three pictures, every one of the eight exchanges by hand."""
    over, under = np.array([3.0, 1.0, 4.0]), np.array([5.0, 4.0, 6.0])
    base_over, base_under = np.array([1.0, 2.0, 1.0]), np.array([6.0, 4.0, 5.0])
    value = over.sum() / under.sum() - base_over.sum() / base_under.sum()
    extreme = 0
    for mask in range(8):
        swap = np.array([bool(mask >> i & 1) for i in range(3)])
        ours = np.where(swap, base_over, over).sum() / np.where(swap, base_under, under).sum()
        theirs = np.where(swap, over, base_over).sum() / np.where(swap, under, base_under).sum()
        extreme += abs(ours - theirs) >= abs(value) - 1e-12
    got = Resampler(["a", "b", "c"]).difference(over, under, base_over, base_under)
    assert got.p == pytest.approx(extreme / 8, abs=0.02)


def test_pairs_that_turn_are_counted_both_ways():
    assert count_turns(*outcomes(lost=3, won=7)) == (7, 3)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_stepping_down_rejects(ps):
    """Step down: as long as the smallest p left is at most level / number left, reject it."""
    for level in (0.01, 0.05, 0.5):
        left, rejected = sorted(range(len(ps)), key=ps.__getitem__), set()
        while left and ps[left[0]] * len(left) <= level:
            rejected.add(left.pop(0))
        assert {i for i, p in enumerate(holm(ps)) if p <= level} == rejected


def as_before(count, seed, draws):
    """All draws at once, in the widest type: what the figures of earlier versions were made with."""
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
    return weights, rng.integers(0, 2, (draws, count)).astype(np.float64)


@pytest.mark.parametrize(("count", "draws"), [(1, 50), (7, 1000), (300, 3000)])
def test_draws_in_parts_are_the_draws_made_at_once(count, draws):
    weights, swaps = as_before(count, 3, draws)
    values = np.random.default_rng(0).random(count)
    order = np.random.default_rng(1).permutation(count)
    names = [f"{picture:03}" for picture in order]
    resampler = Resampler(names, seed=3, draws=draws)
    by_name = np.empty(count)
    by_name[order] = values
    np.testing.assert_allclose(resampler.sums(values), weights @ by_name, rtol=1e-12)
    base = np.random.default_rng(2).random(count)
    exchanged = resampler._exchanged(lambda total: total, [values], [base])
    by_base = np.empty(count)
    by_base[order] = base
    wanted = values.sum() - base.sum() + 2 * (swaps @ (by_base - by_name))
    np.testing.assert_allclose(exchanged, wanted, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_many_pictures_take_bounded_memory():
    """Two tables of 10 000 draws of 1 000 pictures take 10 MB each; widened to multiply with, one would take 80 MB."""
    values, ones = np.random.default_rng(0).random(1000), np.ones(1000)
    tracemalloc.start()
    try:
        resampler = Resampler([str(i) for i in range(1000)])
        resampler.estimate(values, ones)
        resampler.difference(values, ones, values[::-1], ones)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40e6
