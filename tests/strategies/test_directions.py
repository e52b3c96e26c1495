"""Directions on numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mmhall.errors import FitError
from mmhall.strategies._directions import (
    mean_difference,
    project_out,
    shuffled_range,
    sign_aligned_component,
)

CLOSE = {"rtol": 0.0, "atol": 1e-4}
SAMPLES = torch.tensor([[1.0, 0.0], [3.0, 2.0], [8.0, 7.0]])


def test_the_mean_difference_of_pairs():
    """(1, 0), (3, 2), (8, 7) have the mean (4, 3); exchanging the labels negates it, and order does not matter."""
    zeros = torch.zeros_like(SAMPLES)
    torch.testing.assert_close(mean_difference(SAMPLES, zeros), torch.tensor([4.0, 3.0]), **CLOSE)
    torch.testing.assert_close(mean_difference(zeros, SAMPLES), torch.tensor([-4.0, -3.0]), **CLOSE)
    torch.testing.assert_close(mean_difference(SAMPLES.flip(0), zeros), torch.tensor([4.0, 3.0]), **CLOSE)


def test_a_component_lies_on_the_side_of_the_mean_whatever_the_order():
    """Centred, they are (-3, -3), (-1, -1), (4, 4): all of their variance lies along (1, 1).

    Its cosine with (4, 3) is 7 / (5 * sqrt 2) = 0.98995. Mean plus component is (4.7071, 3.7071).
    """
    for samples in (SAMPLES, SAMPLES.flip(0)):
        found = sign_aligned_component(samples)
        torch.testing.assert_close(found.direction, torch.tensor([0.7071, 0.7071]), **CLOSE)
        torch.testing.assert_close(samples.mean(dim=0) + found.direction, torch.tensor([4.7071, 3.7071]), **CLOSE)
        assert found.cosine == pytest.approx(0.98995, abs=1e-4)
        assert found.share == pytest.approx(1.0, abs=1e-4)
    turned = sign_aligned_component(-SAMPLES)
    torch.testing.assert_close(turned.direction, torch.tensor([-0.7071, -0.7071]), **CLOSE)


def test_a_component_that_has_nothing_to_do_with_the_mean_is_refused():
    """(0, 3, 0.1) and (0, 3, -0.1) vary along the third axis, and point along the second."""
    samples = torch.tensor([[0.0, 3.0, 0.1], [0.0, 3.0, -0.1]])
    with pytest.raises(FitError, match=r"cosine of -?0\.000 with the samples' mean, below 0\.05.*use their mean"):
        sign_aligned_component(samples)


def test_the_cosine_below_which_it_is_refused():
    """Samples (1, 0), (-1, 0) moved by m: variance along x, cosine m_x / |m|."""
    spread = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    with pytest.raises(FitError, match=r"0\.049"):
        sign_aligned_component(spread + torch.tensor([0.049, math.sqrt(1 - 0.049**2)]))
    found = sign_aligned_component(spread + torch.tensor([-0.051, math.sqrt(1 - 0.051**2)]))
    torch.testing.assert_close(found.direction, torch.tensor([-1.0, 0.0]), **CLOSE)


@pytest.mark.parametrize("samples", [torch.ones(1, 3), torch.full((4, 3), 0.1), torch.zeros(2, 3)])
def test_samples_that_do_not_differ_have_no_component(samples):
    with pytest.raises(FitError, match="do not differ from each other"):
        sign_aligned_component(samples)


def test_what_lies_along_a_direction_is_taken_out():
    """(2, 1), (1, 3), (0, 2) without the x axis: (0, 1), (0, 3), (0, 2), of mean norm 2."""
    samples = torch.tensor([[2.0, 1.0], [1.0, 3.0], [0.0, 2.0]])
    for scale in (1.0, -5.0):
        left = project_out(samples, torch.tensor([scale, 0.0]))
        torch.testing.assert_close(left, torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 2.0]]), **CLOSE)
        assert float(left.norm(dim=1).mean()) == pytest.approx(2.0, abs=1e-4)


def test_a_common_direction_lies_outside_the_shuffled_range():
    """Twelve times (3, 4): norm 5; with signs s it is 5 |sum s| / 12."""
    differences = torch.tensor([[3.0, 4.0]]).repeat(12, 1)
    found = shuffled_range(differences, seed=0)
    assert (found.norm, found.draws) == (pytest.approx(5.0), 20)
    assert found.outside
    assert found.high * 12 / 5 == pytest.approx(round(found.high * 12 / 5))
    assert 0 <= found.low <= found.high < 5
    found.check("layer 1")


def test_differences_that_cancel_are_no_direction():
    differences = torch.tensor([[3.0, 4.0], [-3.0, -4.0]]).repeat(6, 1)
    found = shuffled_range(differences, seed=0)
    assert not found.outside
    with pytest.raises(FitError, match=r"layer 1: there is no direction to steer along: .* norm 0, and with shuffled"):
        found.check("layer 1")


@pytest.mark.parametrize("pairs", [1, 2])
def test_so_few_pairs_that_every_sign_is_all_signs_are_no_direction(pairs):
    generator = torch.Generator().manual_seed(3)
    assert not shuffled_range(torch.rand(pairs, 5, generator=generator), seed=0).outside


def test_noise_is_no_direction_and_seeds_repeat():
    noise = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
    assert not shuffled_range(noise, seed=0).outside
    assert shuffled_range(noise, seed=4) == shuffled_range(noise, seed=4)
    assert shuffled_range(noise, seed=4) != shuffled_range(noise, seed=5)


def test_samples_without_partners_have_no_difference():
    with pytest.raises(FitError, match=r"samples of shape \(3, 2\) have no partners in \(1, 2\)"):
        mean_difference(SAMPLES, SAMPLES[:1])


def difference_to_zero(samples):
    return mean_difference(samples, torch.zeros_like(samples))


def range_of(samples):
    return shuffled_range(samples, seed=0)


@pytest.mark.parametrize("measure", [difference_to_zero, range_of, sign_aligned_component])
def test_no_samples_and_samples_that_are_no_numbers_are_refused(measure):
    with pytest.raises(FitError, match="there are no samples"):
        measure(SAMPLES[:0])
    for lost in (math.nan, math.inf):
        with pytest.raises(FitError, match="1 of 3 samples hold NaN or infinity"):
            measure(torch.cat([SAMPLES[:2], torch.tensor([[lost, 0.0]])]))
