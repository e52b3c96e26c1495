"""Relevance-weighted uncertainty, by hand."""

from __future__ import annotations

import math

import pytest

from mmhall.analysis import answer_sar, relevance_shares, token_sar


def test_tokens_count_by_their_relevance():
    """0.1 * 1 + 0.3 * 2 + 0.6 * 0.5 = 1, where the plain mean is 1.1667."""
    assert token_sar([0.1, 0.3, 0.6], [-1.0, -2.0, -0.5]) == pytest.approx(1.0)
    assert token_sar([0.0, 0.0], [-1.0, -3.0]) == pytest.approx(2.0)  # nothing is relevant: the plain mean
    assert relevance_shares([-0.5, 1.0]) == [0.0, 1.0]  # more similar without the token: it does not matter
    assert token_sar([0.0, 1.0], [-math.inf, -2.0]) == 2.0


def test_an_answer_is_surer_with_others_that_mean_the_same():
    """E 1.2, 1.2, 3; similarity 0.9 within the first pair, 0.1 else. t = 1: 0.5495 twice, 2.2070, mean 1.1020."""
    energies, similar = [1.2, 1.2, 3.0], [[1, 0.9, 0.1], [0.9, 1, 0.1], [0.1, 0.1, 1]]

    def scores(**options):
        return [
            answer_sar(energies[k], energies[:k] + energies[k + 1 :], similar[k][:k] + similar[k][k + 1 :], **options)
            for k in range(3)
        ]

    assert scores(temperature=1) == pytest.approx([0.5495, 0.5495, 2.2070], abs=1e-4)
    assert sum(scores(temperature=1)) / 3 == pytest.approx(1.1020, abs=1e-4)
    assert sum(scores()) / 3 == pytest.approx(-5.1142, abs=1e-4)  # t = 0.001, the released code's
    assert answer_sar(2.5, [1.0], [0.0]) == pytest.approx(2.5)  # nothing in common: its own energy
    assert answer_sar(2000.0, [3000.0], [0.5]) == pytest.approx(2000.0)  # e^-2000 underflows
