"""Prompt positions as columns: full layers, sliding ones, joined rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmhall.attention import Block, Call, Columns, Frame, Groups, Op, column_means
from mmhall.attention._attend import attend_with_ops
from mmhall.attention._passes import Pass
from tests.attention.reference import given_scores


def call(offset, width, rows=1):
    empty = torch.zeros(rows, 1, width, 2)
    owners = torch.arange(2).repeat_interleave(rows // 2) if rows > 1 else None
    block = Block(None)
    where = Pass(Frame((block,), owners=owners), block, width + offset, 1, None)
    return Call(0, "full", where, offset, empty[:, :, :1], empty, empty, None, 1.0)


@pytest.mark.parametrize(
    ("offset", "width", "columns"),
    [
        (0, 4, [1, 2, 3, 4]),  # the prompt itself
        (0, 6, [1, 2, 3, 4, 0, 0]),  # two tokens later
        (2, 3, [3, 4, 0]),  # a window has dropped two columns and one token was written
        (5, 2, [0, 0]),  # the prompt has left the window
        (-2, 6, [0, 0, 1, 2, 3, 4]),  # padded on the left to be joined with a longer row
        (-1, 7, [0, 1, 2, 3, 4, 0, 0]),
    ],
)
def test_values_stand_at_their_positions(offset, width, columns):
    held = Columns(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    for _ in range(2):
        assert held(call(offset, width)).tolist() == [[[columns]]]


def test_layouts_take_turns():
    held = Columns(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    for width in (2, 3, 4, 3, 2):
        assert held(call(0, width, rows=2)).shape == (2, 1, 1, width)
        assert held(call(1, width - 1, rows=2))[:, 0, 0, 0].tolist() == [2.0, 4.0]


def test_every_beam_of_a_prompt_has_the_prompts_values():
    held = Columns(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert held(call(0, 3, rows=4))[:, 0, 0].tolist() == [[1, 2, 0], [1, 2, 0], [3, 4, 0], [3, 4, 0]]


@pytest.mark.parametrize(("offset", "width", "rows"), [(0, 4, 2), (0, 6, 2), (2, 5, 4), (5, 3, 2), (-2, 7, 2)])
def test_groups_sum_and_scale_as_columns_do(offset, width, rows):
    random = torch.Generator().manual_seed(offset + width)
    one, other = (torch.rand(2, 4, generator=random) for _ in range(2))
    probs = torch.rand(rows, 3, 2, width, generator=random)
    factors = torch.rand(2, rows, 3, 2, 1, generator=random)
    columns = [Columns(values)(call(offset, width, rows)) for values in (one, other)]
    groups = Groups(one, other)
    masses = groups.masses(call(offset, width, rows), probs)
    for mass, laid in zip(masses, columns, strict=True):
        torch.testing.assert_close(mass, (probs * laid).sum(-1, keepdim=True))
    for given in (factors, factors[:1]):
        wanted = probs * (1 + sum(factor * laid for factor, laid in zip(given, columns, strict=False)))
        torch.testing.assert_close(groups.scale(call(offset, width, rows), probs.clone(), *given), wanted)


def test_a_layer_on_another_device_gets_its_own():
    held, groups = Columns(torch.tensor([[1.0, 2.0]])), Groups(torch.tensor([[1.0, 2.0]]))
    there = call(0, 2)
    elsewhere = replace(there, key=there.key.to("meta"), query=there.query.to("meta"))
    for one in (there, elsewhere, there):
        assert held(one).device == one.key.device
        (mass,) = groups.masses(one, torch.ones(1, 1, 1, 2, device=one.key.device))
        assert mass.device == one.key.device


@pytest.mark.parametrize("size", [1, 2, 256])
def test_column_means_are_over_the_rows_that_see_a_column(size, monkeypatch):
    """Rows 1 | .5 .5 | .3 .6 .1 | .2 .5 .1 .2: 2 / 4, 1.6 / 3, .2 / 2, .2 / 1."""
    monkeypatch.setattr("mmhall.attention._rows.BLOCK", size)
    weights = torch.tensor([[1, 1, 1, 1], [0.5, 0.5, 1, 1], [0.3, 0.6, 0.1, 1], [0.2, 0.5, 0.1, 0.2]])
    call = given_scores(weights.log().expand(2, 3, 4, 4))
    wanted = torch.tensor([0.5, 0.5333, 0.1, 0.2])
    torch.testing.assert_close(column_means(call), wanted.expand(2, 3, 4), rtol=0, atol=1e-4)
    padded = torch.tensor([[True] * 4, [False, True, True, True]])  # the second prompt's first row is padding
    mask = torch.ones(4, 4, dtype=torch.bool).tril() & padded[:, None, None]
    mask[1, 0, 0, 0] = True  # in some masks a row of padding sees itself
    means = column_means(replace(call, mask=mask), padded)
    torch.testing.assert_close(means[0], wanted.expand(3, 4), rtol=0, atol=1e-4)
    rest = [0.0, (1 + 0.6 / 0.7 + 0.5 / 0.8) / 3, (0.1 / 0.7 + 0.1 / 0.8) / 2, 0.2 / 0.8]
    torch.testing.assert_close(means[1], torch.tensor(rest).expand(3, 4), rtol=0, atol=1e-6)


def test_heads_may_have_values_of_their_own():
    held = Columns(torch.tensor([[[1.0, 2.0], [5.0, 6.0]], [[3.0, 4.0], [7.0, 8.0]]]))
    assert held(call(0, 3, rows=2))[:, :, 0].tolist() == [[[1, 2, 0], [5, 6, 0]], [[3, 4, 0], [7, 8, 0]]]
    assert held(call(1, 2, rows=4))[:, :, 0].tolist() == 2 * [[[2, 0], [6, 0]]] + 2 * [[[4, 0], [8, 0]]]


class Edit(Op):
    """Adds to the scores of rows, row by row, and notes in how many calls."""

    writes = True

    def __init__(self, by_blocks, rows):
        self.by_blocks, self._rows, self.sizes, self.seen = by_blocks, torch.tensor(rows), [], []

    def rows(self, call):
        return self._rows

    def edit_scores(self, call, rows, scores):
        self.sizes.append(len(rows))
        return scores + rows[:, None] * torch.linspace(0, 1, scores.shape[-1])

    def see(self, call, rows, probs):
        self.seen.append(probs)


class Read(Edit):
    """Only reads its rows."""

    writes = False
    edit_scores = Op.edit_scores


@pytest.mark.parametrize(("two", "sizes"), [(True, [2, 2, 1]), (False, [5])])
def test_rows_that_are_edited_by_blocks_are_the_same(two, sizes, monkeypatch):
    """Unless another op needs them at once; readers get all their rows in one call."""
    call = given_scores(torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1)))
    outputs = []
    for by_blocks in (False, True):
        monkeypatch.setattr("mmhall.attention._attend.BLOCK", 2)
        ops = [Edit(by_blocks, [0, 1, 2, 4, 5]), Edit(by_blocks and two, [1, 2]), Read(False, [0, 3, 4])]
        outputs.append(attend_with_ops(call, ops, lambda q, k, v, mask: (torch.zeros(2, 6, 3, 6), None)))
        seen = [torch.cat(op.seen, dim=2) for op in ops]
        outputs[-1] = [outputs[-1], *seen]
    assert ops[0].sizes == sizes
    assert len(ops[2].seen) == 1
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
