"""The parts of OPERA against hand-made stripes and votes."""

from __future__ import annotations

import math

import pytest
import torch

from mmhall.decoders.opera import (
    Opera,
    add_rows,
    apply_penalty,
    earliest_rollback,
    find_rollback,
    rate_candidates,
    vote,
)


def test_every_beam_must_agree():
    options = Opera(threshold=2)
    history = [[step] * 3 for step in range(11)] + [[11, 11, 11], [11, 11, 0]]
    assert find_rollback(history, {}, options) is None
    assert find_rollback([*history, [11, 3, 11]], {}, options) is None
    assert find_rollback([*history, [3, 3, 11]], {}, options) is None
    assert find_rollback([*history, [11, 3, 11], [11, 11, 11]], {}, options) == 12


def test_a_step_that_was_just_taken_is_not_gone_back_to():
    """There is nothing yet that was chosen after it."""
    agreed = [[step] for step in range(11)] + [[10]]
    assert find_rollback(agreed, {}, Opera(threshold=1)) is None
    assert find_rollback(agreed, {11: 5}, Opera(threshold=1)) == 10


def test_votes_take_the_most_frequent_location_and_of_several_the_smallest():
    assert vote([[3, 3, 7], [7, 3, 5], [9, 2, 9, 2]]) == [3, 3, 2]


def test_column_sums_are_products_of_columns():
    """Also those that grow row by row while beams change places."""
    draws = torch.Generator().manual_seed(0)
    rows = [torch.rand(2, 3, length, generator=draws) for length in range(1, 9)]
    sums, chains = torch.zeros(2, 0), [[], []]
    for row in rows:
        grown = add_rows(sums, row, 50.0)
        for beam in range(2):
            for candidate in range(3):
                full = [*chains[beam], row[beam, candidate].tolist()]
                direct = [math.prod(50 * one[j] for one in full[j:]) for j in range(len(full))]
                assert grown[beam, candidate].exp().tolist() == pytest.approx(direct, rel=1e-4)
        parents, picked = torch.tensor([1, 0]), torch.tensor([2, 1])
        sums = grown[parents, picked]
        chains = [[*chains[p], row[p, c].tolist()] for p, c in ((1, 2), (0, 1))]


def test_the_penalty_is_the_pictures_share_first_and_the_worst_stripe_later():
    image = torch.tensor([[0.25, 0.5]])
    early, late = torch.full((1, 2, 10), 3.0), torch.full((1, 2, 11), -5.0)
    early[0, 1, 4], late[0, 1, 7] = 4.0, math.log(2e7)
    penalty, where = rate_candidates(early, image, half=False)
    assert (penalty.tolist(), where.tolist()) == ([[-0.25, -0.5]], [[0, 4]])
    penalty, where = rate_candidates(late, image, half=False)
    assert penalty[0].tolist() == pytest.approx([1e-7 * math.exp(-5), 2.0], rel=1e-5)
    assert where.tolist() == [[0, 7]]
    penalty, _ = rate_candidates(torch.full((1, 2, 11), 2000.0), image, half=False)
    assert penalty.isfinite().all()


def test_half_precision_flushes_and_bars():
    """1e-7 x 0.297 rounds to 0, 1e-7 x 0.299 to 2 ** -24, half precision's least; above 65504 it overflows."""
    sums = torch.full((1, 6, 11), -9.0)
    for candidate, product in enumerate((0.297, 0.299, 1.0, 65503.0, 65505.0)):
        sums[0, candidate, 6] = math.log(product)
    penalty, where = rate_candidates(sums, torch.zeros(1, 6), half=True)
    assert penalty[0].tolist() == pytest.approx([0, 2**-24, 2**-23, 0.00655, math.inf, 0], rel=1e-3)
    assert where.tolist() == [[0, 6, 6, 6, 6, 0]]


def test_a_penalty_that_all_candidates_share_changes_nothing():
    draws = torch.Generator().manual_seed(1)
    logits, candidates = torch.randn(2, 9, generator=draws), torch.tensor([[1, 5, 7], [0, 2, 8]])
    penalty = torch.tensor([[0.5, 0.25, 2.0], [1.0, 0.0, 4.0]])
    plain = apply_penalty(logits, candidates, penalty)
    assert torch.equal(plain, apply_penalty(logits, candidates, penalty + torch.tensor([[64.0], [2.0**40]])[:1]))
    wanted = (logits[0, [1, 5, 7]] - penalty[0]).log_softmax(-1)
    torch.testing.assert_close(plain[0, [1, 5, 7]], wanted)
    others = [0, 2, 3, 4, 6, 8]
    assert plain[0, others].max() < -900
    assert plain[0, others].argsort().tolist() == logits[0, others].argsort().tolist()


def test_barred_candidates_are_out_unless_all_are():
    logits, candidates = torch.arange(8.0).repeat(2, 1), torch.tensor([[7, 6], [7, 5]])
    free = apply_penalty(logits, candidates, torch.zeros(2, 2))
    one = apply_penalty(logits, candidates, torch.tensor([[math.inf, 0.0], [0.0, 0.0]]))
    assert one[0, 6:].tolist() == [0.0, -math.inf]
    assert torch.equal(one[1], free[1])
    beam = apply_penalty(logits, candidates, torch.tensor([[math.inf, math.inf], [0.0, 0.0]]))
    assert beam[0].max() < -900
    assert torch.equal(beam[1], free[1])
    assert torch.equal(apply_penalty(logits, candidates, torch.full((2, 2), math.inf)), free)


def test_a_step_can_be_gone_back_to_as_long_as_its_location_can_still_agree():
    """Threshold 3: a location needs four steps; of 14, only the tenth to the last leave so many."""
    options = Opera(threshold=3)
    assert earliest_rollback([], {}, options, 13) is None
    assert earliest_rollback([], {}, options, 14) == 10
    history = [[0, 0]] * 11
    assert earliest_rollback(history, {}, options, 14) is None
    assert earliest_rollback([*history[:10], [10, 10]], {}, options, 14) == 10
    assert earliest_rollback([*history[:10], [10, 9]], {}, options, 14) is None
    assert earliest_rollback(history, {}, options, 15) == 10
    assert earliest_rollback(history, {10: 5, 11: 5}, options, 15) == 11
    assert earliest_rollback(history, {10: 5, 11: 5, 12: 5}, options, 15) is None
