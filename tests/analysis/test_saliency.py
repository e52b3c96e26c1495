"""Saliency maps from shifts of attention, made by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from mmhall.analysis._saliency import SaliencyProbe


def looked(shifts: Tensor, image: Tensor, words: Tensor, layer: int = 0) -> SaliencyProbe:
    """A gaze that has seen attention rows which grow by shifts, (B, H, word, column), from one word to the next."""
    gaze = SaliencyProbe(frozenset({layer}), image, words)
    probs = torch.cat([torch.zeros_like(shifts[:, :, :1]), shifts.cumsum(dim=2)], dim=2)
    empty = torch.zeros(len(image), 1, image.shape[1], 1)

    class Call:
        start, offset, key, kind, layer = 0, 0, empty, "full", 0
        count, where = empty.shape[2], SimpleNamespace(queries=empty.shape[2])

    first = int(words.any(dim=0).nonzero()[0]) - 1
    Call.each, Call.owners = staticmethod(lambda values: values), None
    gaze.see(Call(), torch.arange(first, first + probs.shape[2]), probs)
    return gaze


def places(length: int, *at: int) -> Tensor:
    mask = torch.zeros(1, length, dtype=torch.bool)
    mask[0, list(at)] = True
    return mask


def test_a_map_made_by_hand():
    """Two heads: the first shifts 0.1 + 0.3 to column 0 and 0.2 to column 1, the second less; the first is kept.

    Mean over two words: 0.2, 0.1, 0 on columns 0, 1, 2; mean 0.1, deviation 0.1: nothing is clipped.
    """
    shifts = torch.zeros(1, 2, 2, 6)
    shifts[0, 0, :, 0] = torch.tensor([0.1, 0.3])
    shifts[0, 0, 1, 1] = 0.2
    shifts[0, 1, :, 2] = 0.1
    gaze = looked(shifts, places(6, 0, 1, 2), places(6, 3, 4))
    torch.testing.assert_close(gaze.map(), torch.tensor([[1.0, 0.5, 0, 0, 0, 0]]))


def test_shifts_away_do_not_count_and_their_return_does():
    shifts = torch.zeros(1, 2, 2, 6)
    shifts[0, 0, :, 0] = torch.tensor([-0.2, 0.2])
    shifts[0, 0, :, 1] = torch.tensor([0.1, 0.0])
    gaze = looked(shifts, places(6, 0, 1, 2), places(6, 3, 4))
    torch.testing.assert_close(gaze.map(), torch.tensor([[1.0, 0.5, 0, 0, 0, 0]]))


@pytest.mark.parametrize("constant", [0.01, 1.0, 300.0])
def test_a_constant_factor_of_the_shifts_leaves_the_map(constant):
    shifts = torch.rand(1, 4, 2, 20, generator=torch.Generator().manual_seed(1))
    image, words = places(20, *range(16)), places(20, 17, 18)
    wanted = looked(shifts, image, words).map()
    torch.testing.assert_close(looked(shifts * constant, image, words).map(), wanted, rtol=1e-4, atol=1e-5)
    assert (wanted.min(), wanted.max()) == (0, 1)
    assert (wanted[~image] == 0).all()


def test_one_huge_shift_is_clipped_at_three_deviations():
    """Of 40 columns one has 100 and the others 0 to 1: it is cut to mean + 3 deviations and still the largest."""
    shifts = torch.zeros(1, 2, 1, 44)
    shifts[0, 0, 0, :39] = torch.linspace(0, 1, 39)
    shifts[0, 0, 0, 39] = 100
    own = shifts[0, 0, 0, :40]
    top = float(own.mean() + 3 * own.std())
    assert 1 < top < 100
    got = looked(shifts, places(44, *range(40)), places(44, 42)).map()[0, :40]
    torch.testing.assert_close(got[:39], torch.linspace(0, 1, 39) / top)
    assert got[39] == 1


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_an_even_map_lifts_nothing(value):
    assert (looked(torch.full((1, 2, 1, 6), value), places(6, 0, 1, 2), places(6, 3)).map() == 0).all()
