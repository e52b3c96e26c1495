"""Prompt positions as columns: full layers, sliding ones, joined rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmhall.attention import Block, Call, Columns, Frame, Groups
from mmhall.attention._passes import Pass


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
