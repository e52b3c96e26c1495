"""Intervals for few pictures and extreme shares: by hand, and how often they hold the truth in simulated runs."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from mmhall.results.intervals import are_shares, detectable, percentile_interval, share_interval, unseen
from mmhall.results.statistics import Resampler

QUESTIONS = 6  # of each picture
RUNS = {60: 500, 200: 300, 1000: 150}


@cache
def resampler(pictures):
    """Draws that the simulated runs of a size share."""
    return Resampler([f"{i:04}" for i in range(pictures) for _ in range(QUESTIONS)], draws=999)


def test_none_of_sixty_is_at_most_six_in_a_hundred():
    """t(0.975, 59) = 2.0010; Wilson's upper end of 0 of 60 is 4.004 / (60 + 4.004) = 0.0626. All right: mirrored."""
    assert share_interval(np.zeros(60), np.ones(60)) == pytest.approx((0, 0.0626), abs=1e-4)
    assert share_interval(np.full(60, 6.0), np.full(60, 6.0)) == pytest.approx((1 - 0.0626, 1), abs=1e-4)
    assert share_interval(np.ones(1), np.ones(1)) == (0, 1)


def test_answers_of_a_picture_that_agree_count_once():
    """Forty pictures, ten right as a whole: as forty answers, with a variance of 40 / 39 times the binomial one."""
    right = np.repeat([1.0, 0.0], [10, 30])
    alone = share_interval(right, np.ones(40))
    assert share_interval(right * 6, np.full(40, 6.0)) == pytest.approx(alone)
    share, quantile, answers = 0.25, 2.0227, 39
    extra = quantile**2 / answers
    half = quantile * math.sqrt(share * (1 - share) / answers + extra / (4 * answers)) / (1 + extra)
    middle = (share + extra / 2) / (1 + extra)
    assert alone == pytest.approx((middle - half, middle + half), abs=1e-4)


def test_percentiles_are_expanded_for_few_pictures():
    """Five: sqrt(5 / 4) x t(0.975, 4) = 3.104, a tail of 0.00095. One picture shows nothing: the whole range."""
    drawn = np.arange(10_001.0)
    assert percentile_interval(drawn, None) == pytest.approx((250, 9750))
    assert percentile_interval(drawn, 5) == pytest.approx((9.5, 9990.5), abs=0.1)
    assert percentile_interval(np.append(drawn, np.nan), 1) == (0, 10_000)


def test_pictures_that_do_not_differ_could():
    """t(0.975, 199) = 1.9720: 3.889 / (200 + 3.889) = 0.0191 for none of 200. One of 200 leaves 0.0231 beside it."""
    assert unseen(0, 200) == pytest.approx(0.0191, abs=1e-4)
    same, ones = np.ones(200), np.ones(200)
    alike = Resampler([f"{i:03}" for i in range(200)], draws=99).difference(same, ones, same, ones)
    assert (alike.value, alike.low, alike.high) == pytest.approx((0, -0.0191, 0.0191), abs=1e-4)
    assert alike.bound == pytest.approx(0.0135, abs=1e-4)  # t(0.95, 199) = 1.6525: 2.731 / 202.731


def test_the_detectable_difference_is_that_of_the_power_formula():
    """Normal: half width / 1.96 x (1.96 + 0.8416) = 1.4294 half widths. Five pictures reach p = 1 / 16 at best."""
    assert detectable(-0.02, 0.02, 100_000) == pytest.approx(0.02 * 1.4294, rel=1e-3)
    assert detectable(-0.5, 0.5, 5) is None


@pytest.mark.parametrize("pictures", [60, 200, 1000])
def test_score_intervals_hold_the_share_of_clustered_answers(pictures):
    """Beta-binomial: correlation 0.1 and 0.4 in a picture, shares from even to nearly all."""
    held, tried = 0, 0
    for share, correlation in ((0.5, 0.4), (0.8, 0.1), (0.9, 0.4), (0.95, 0.1), (0.98, 0.1)):
        rng = np.random.default_rng(1)
        odds = (1 - correlation) / correlation
        each = rng.beta(share * odds, (1 - share) * odds, (400, pictures))
        ends = [share_interval(row, np.full(pictures, 6.0)) for row in rng.binomial(QUESTIONS, each).astype(float)]
        own = np.mean([low <= share <= high for low, high in ends])
        assert 0.925 <= own <= 0.98, (share, correlation, own)  # of 400, a standard error of 0.011
        held, tried = held + own * 400, tried + 400
    assert 0.93 <= held / tried <= 0.975


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [60, 200, 1000])
def test_intervals_of_differences_hold_the_truth_and_equivalence_is_rarely_false(pictures):
    """Right answers turn wrong with 0.125, wrong ones right with 0.4: 0.8 to 0.78, two points less."""
    rng, ones, own = np.random.default_rng(2), np.ones(pictures * QUESTIONS), resampler(pictures)
    held, alike = [], []
    for _ in range(RUNS[pictures]):
        base = rng.random(len(ones)) < 0.8
        turned = rng.random(len(ones)) < np.where(base, 0.125, 0.4)
        found = own.difference((base ^ turned).astype(float), ones, base.astype(float), ones)
        held.append(found.low <= -0.02 <= found.high)
        alike.append(found.bound < 0.02)
    assert 0.93 <= np.mean(held) <= 0.975
    assert np.mean(alike) <= 0.06  # nominally 0.05, at the margin


def test_intervals_of_other_figures_hold_the_truth():
    """A mean of whole numbers that is no share, 3, over 60 pictures."""
    rng, own = np.random.default_rng(3), Resampler([f"{i:02}" for i in range(60)], draws=999)
    ends = [own.estimate(rng.poisson(3, 60).astype(float), np.ones(60)) for _ in range(800)]
    assert 0.93 <= np.mean([one.low <= 3 <= one.high for one in ends]) <= 0.975


@pytest.mark.slow
def test_a_difference_is_found_with_the_power_that_is_stated():
    """The mean stated difference of runs without one is then found in about 80 of 100 runs."""
    rng, ones, own = np.random.default_rng(4), np.ones(60 * QUESTIONS), resampler(60)

    def turned(lost, won):
        base = rng.random(len(ones)) < 0.5
        other = base ^ (rng.random(len(ones)) < np.where(base, lost, won))
        return own.difference(other.astype(float), ones, base.astype(float), ones)

    stated = np.mean([turned(0.2, 0.2).detectable for _ in range(50)])
    found = np.mean([turned(0.2 - stated, 0.2 + stated).p < 0.05 for _ in range(300)])
    assert 0.72 <= found <= 0.88


def test_figures_that_count_no_part_of_a_whole_are_no_shares():
    """Nats that happen to lie between 0 and 1 have no share that 0 and 1 would bound."""
    assert are_shares(np.array([0.0, 2.0]), np.array([1.0, 2.0]))
    for over, under in (([0.5, 1.0], [1, 1]), ([-1, 0], [1, 1]), ([2, 0], [1, 1])):
        assert not are_shares(np.array(over, float), np.array(under, float))


def test_ratios_beyond_one_are_left_to_the_bootstrap():
    values, ones = np.array([0.0, 3.0] * 30), np.ones(60)
    own = Resampler([f"{i:02}" for i in range(60)], draws=999)
    found = own.estimate(values, ones)
    assert (found.value, found.under) == (1.5, 60)
    assert (found.low, found.high) == percentile_interval(own.sums(values) / own.sums(ones), 60)
