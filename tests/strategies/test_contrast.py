from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, strategies as st

from mmhall.strategies._contrast import Contrast, contrast
from mmhall.strategies._step import Step

INF = math.inf


def test_contrast_matches_hand_computed_scores():
    """alpha 1, beta 0.5: cut-off -0.5 + ln 0.5 = -1.193, so token 2 (-2.0) drops out.

    token 0: 2 * -0.5 - -1.0 = 0.0    token 1: 2 * -1.0 - -0.2 = -1.8
    """
    main, other = torch.tensor([[-0.5, -1.0, -2.0]]), torch.tensor([[-1.0, -0.2, -3.0]])
    torch.testing.assert_close(contrast(main, other, 1.0, 0.5), torch.tensor([[0.0, -1.8, -INF]]))


def test_a_token_exactly_on_the_cut_off_stays():
    main = torch.tensor([[0.0, math.log(0.5)]])
    assert contrast(main, main, 1.0, 0.5).isfinite().all()


def test_one_infinity_in_both_branches_gives_no_nan():
    main = torch.tensor([[-0.1, -INF, -3.0]])
    got = contrast(main, main, 1.0, 0.0)
    assert not got.isnan().any()
    assert got[0, 1] == -INF


def test_a_token_only_the_other_branch_rules_out_is_favoured_but_finite():
    got = contrast(torch.tensor([[-0.7, -0.7]]), torch.tensor([[-0.1, -INF]]), 1.0, 0.1)
    assert got.isfinite().all()
    assert got.argmax() == 1


def test_several_branches_are_averaged():
    main, a, b = torch.tensor([[-1.0]]), torch.tensor([[-2.0]]), torch.tensor([[-4.0]])
    got = Contrast(1.0, 0.0)(Step(main, (a, b), torch.zeros(1, 0)))
    torch.testing.assert_close(got, torch.tensor([[-2.0 + 3.0]]))


rows = st.lists(st.floats(-20, 20), min_size=2, max_size=6)


@given(rows, st.floats(0, 3), st.floats(0.01, 1))
def test_identical_branches_give_the_plain_scores_whatever_the_strength(values, alpha, beta):
    main = torch.tensor([values], dtype=torch.float64).log_softmax(-1)
    got = contrast(main, main, alpha, beta)
    kept = got.isfinite()
    torch.testing.assert_close(got[kept], main[kept])
    assert kept[0, main.argmax()]


@given(rows, st.floats(0.01, 1), st.floats(0.01, 1))
def test_kept_tokens_are_nested_in_beta(values, a, b):
    main = torch.tensor([values], dtype=torch.float64)
    loose, tight = (contrast(main, main, 1.0, beta).isfinite() for beta in sorted((a, b)))
    assert (loose | ~tight).all()


@given(rows, rows, st.floats(-5, 5))
def test_a_constant_added_to_a_branch_changes_no_probability(values, others, constant):
    size = min(len(values), len(others))
    main = torch.tensor([values[:size]], dtype=torch.float64)
    other = torch.tensor([others[:size]], dtype=torch.float64)
    torch.testing.assert_close(
        contrast(main, other, 1.0, 0.1).softmax(-1), contrast(main, other + constant, 1.0, 0.1).softmax(-1)
    )


@pytest.mark.parametrize(("alpha", "beta", "neutral"), [(0.0, 0.0, True), (0.0, 0.1, False), (1.0, 0.0, False)])
def test_neutral_means_both_are_zero(alpha, beta, neutral):
    assert Contrast(alpha, beta).neutral is neutral
