from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from mmhall.results import statistics
from mmhall.results.separation import Separation, pairs_won, quantile_strata
from mmhall.results.statistics import Resampler


@pytest.fixture(scope="module", params=[12, 200_000], ids="{} counts at once".format)
def at_once(request):
    """Draws are counted one or two at a time, and all together."""
    before, statistics._AT_ONCE = statistics._AT_ONCE, request.param
    yield
    statistics._AT_ONCE = before


THINGS = st.lists(
    st.tuples(st.integers(0, 4) | st.floats(-1e6, 1e6), st.booleans(), st.integers(0, 5), st.integers(0, 2)),
    max_size=14,
)


def columns(things):
    values, positive, pictures, strata = zip(*things, strict=True) if things else ((), (), (), ())
    return np.array(values, float), np.array(positive, bool), np.array(pictures, np.intp), np.array(strata, np.intp)


def slowly(things):
    """Compare every positive thing with every other one of its stratum."""
    won, pairs = 0.0, 0
    for value, positive, _, stratum in things:
        for other, wrong, _, where in things:
            if positive and not wrong and stratum == where:
                pairs += 1
                won += 1.0 if value > other else 0.5 if value == other else 0.0
    return won, pairs


@pytest.mark.slow
@given(THINGS)
def test_the_count_is_that_of_all_pairs(things):
    values, positive, _, strata = columns(things)
    assert pairs_won(values, positive, strata) == slowly(things)


@pytest.mark.slow
@given(things=THINGS, seed=st.integers(0, 2**32 - 1))
def test_a_draw_counts_each_picture_as_often_as_it_was_drawn(at_once, things, seed):
    """A slow second bootstrap: copy the things of every picture drawn, then compare all pairs."""
    values, positive, pictures, strata = columns(things)
    clusters = [str(number) for number in range(6)]
    separation = Separation(Resampler(clusters, seed, draws=5), pictures, positive, strata)
    got = separation.auroc(values).drawn
    weights = np.random.default_rng(seed).multinomial(6, np.full(6, 1 / 6), size=5)
    for drawn, times in zip(got, weights, strict=True):
        won, pairs = slowly([thing for thing in things for _ in range(times[thing[2]])])
        assert drawn == pytest.approx(won / pairs) if pairs else np.isnan(drawn)


def test_by_hand():
    """Positives 3 and 1 against 2 and 1: wins 1 + 1 + 0 + 0.5 of 4; in strata {3, 2} and {1, 1}: 1 + 0.5 of 2."""
    values, positive = np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False])
    assert pairs_won(values, positive, np.zeros(4, int)) == (2.5, 4)
    assert pairs_won(values, positive, np.array([0, 1, 0, 1])) == (1.5, 2)
    everything = Separation(Resampler(list("abcd")), np.arange(4), positive).auroc(values).estimate()
    assert (everything.value, everything.over, everything.under) == (0.625, 2.5, 4)
    assert 0 <= everything.low <= 0.625 <= everything.high <= 1


def made(count=300, shift=1.0, seed=0):
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.3
    return rng.normal(size=count) + shift * positive, positive


def test_the_interval_is_near_the_one_of_the_normal_model():
    """Binormal with d' = 1: AUROC 0.760; Hanley and McNeil's error with 90 and 210 things is 0.031."""
    values, positive = made(300)
    estimate = Separation(Resampler([str(i) for i in range(300)]), np.arange(300), positive).auroc(values).estimate()
    assert estimate.value == pytest.approx(0.760, abs=0.08)
    assert (estimate.high - estimate.low) / (2 * 1.96) == pytest.approx(0.031, abs=0.006)


def test_pictures_are_drawn_not_things():
    """Four copies of each thing in its picture change neither the value nor the interval."""
    values, positive = made(120)
    resampler = Resampler([str(i) for i in range(120)])
    alone = Separation(resampler, np.arange(120), positive).auroc(values).estimate()
    copied = Separation(resampler, np.arange(120).repeat(4), positive.repeat(4)).auroc(values.repeat(4)).estimate()
    assert (copied.value, copied.low, copied.high) == pytest.approx((alone.value, alone.low, alone.high))
    assert copied.under == 16 * alone.under


def test_the_same_things_give_the_same_digits():
    values, positive = made()
    things, again = (Separation(Resampler(list("abc") * 100), np.arange(300), positive) for _ in range(2))
    assert things.auroc(values).estimate() == again.auroc(values).estimate()


@pytest.mark.slow
def test_a_gain_is_paired():
    """Hardly differing numbers gain hardly anything, in every draw; the difference is exact."""
    values, positive = made()
    separation = Separation(Resampler([str(i) for i in range(300)]), np.arange(300), positive)
    worse = values + 0.1 * np.random.default_rng(1).normal(size=300)
    gain = separation.auroc(values).minus(separation.auroc(worse))
    one, other = separation.auroc(values).estimate(), separation.auroc(worse).estimate()
    assert gain.value == pytest.approx(one.value - other.value)
    assert gain.under == one.under
    assert gain.high - gain.low < 0.3 * (one.high - one.low)
    itself = separation.auroc(values).minus(separation.auroc(values))
    assert (itself.value, itself.low, itself.high) == (0, 0, 0)


@pytest.mark.parametrize("positive", [[True, True], [False, False], []])
def test_one_kind_alone_cannot_be_told_apart(positive):
    things = Separation(Resampler(["a", "b"]), np.arange(len(positive)), np.array(positive, bool))
    values = np.ones(len(positive))
    assert things.auroc(values).estimate().value is None
    assert things.auroc(values).minus(things.auroc(values)).value is None


@pytest.mark.slow
def test_what_only_position_explains_vanishes_at_equal_position():
    """The number is the position, and late things are positive: 0.5 within strata of one position each."""
    position = np.repeat(np.arange(10.0), 30)
    positive = np.random.default_rng(0).random(300) < position / 10
    resampler, strata = Resampler([str(i) for i in range(300)]), quantile_strata(position, 10)
    assert Separation(resampler, np.arange(300), positive).auroc(position).estimate().value > 0.7
    assert Separation(resampler, np.arange(300), positive, strata).auroc(position).estimate().value == 0.5


@given(hnp.arrays(float, st.integers(0, 60), elements=st.integers(0, 9)), st.integers(1, 12))
def test_strata_are_intervals_of_values(values, count):
    strata = quantile_strata(values, count)
    assert len(np.unique(strata)) <= count
    assert all(a <= b for a, b in zip(strata[np.argsort(values)], strata[np.argsort(values)][1:], strict=False))
    assert all(len(np.unique(strata[values == value])) == 1 for value in np.unique(values))
    assert np.bincount(quantile_strata(np.arange(100.0), 10)).tolist() == [10] * 10
