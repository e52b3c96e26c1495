"""Drawing: weights spread over boxes, colours over a picture."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from mmhall.adapters._grid import Boxes, Grid
from mmhall.analysis import _heat_map as heat


def grid_of(*views):
    """A grid of whole-picture rasters, each (rows, columns)."""
    edges, numbers = [], []
    for number, (rows, columns) in enumerate(views):
        for row in range(rows):
            for column in range(columns):
                edges.append([column / columns, row / rows, (column + 1) / columns, (row + 1) / rows])
                numbers.append(number)
    return Grid.of(Boxes(torch.tensor(edges), torch.zeros(len(edges)), torch.tensor(numbers)), 1)


def test_a_coarse_view_is_spread_evenly_over_the_finer_one():
    """One token over all of it with weight 8 adds 2 to each quarter: 1+2, 2+2, 3+2, 4+2."""
    grid = grid_of((1, 1), (2, 2))
    spread = heat.spread(grid, 0, torch.tensor([8.0, 1.0, 2.0, 3.0, 4.0]))
    torch.testing.assert_close(spread, torch.tensor([[3.0, 4.0], [5.0, 6.0]]))


def test_rasters_that_do_not_divide_each_other_share_by_area():
    """A row of 2 over a row of 3: the middle third gets half of a third from each side."""
    spread = heat.spread(grid_of((1, 3), (1, 2)), 0, torch.tensor([0.0, 0.0, 0.0, 3.0, 6.0]))
    torch.testing.assert_close(spread, torch.tensor([[2.0, 3.0, 4.0]]))


def test_a_map_over_a_part_leaves_the_rest_of_the_picture_alone():
    picture = Image.new("RGB", (40, 20), "white")
    drawn = heat.overlay(picture, torch.tensor([[0.0, 1.0]]), (0.25, 0.0, 0.75, 1.0))
    assert drawn.getpixel((2, 10)) == (255, 255, 255)
    assert drawn.getpixel((37, 10)) == (255, 255, 255)
    assert drawn.getpixel((12, 10)) != drawn.getpixel((28, 10)) != (255, 255, 255)


def test_no_attention_at_all_is_drawn_evenly():
    drawn = heat.overlay(Image.new("RGB", (9, 9), "white"), torch.zeros(3, 3), (0.0, 0.0, 1.0, 1.0))
    assert len(drawn.getcolors()) == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1)])
def test_odd_pictures_can_be_drawn(size):
    picture = Image.new("RGB", size, "white")
    assert heat.overlay(picture, torch.rand(2, 3), (0.0, 0.0, 1.0, 1.0)).size == size
    assert heat.sheet([(picture, "word")]).width > 100


def test_a_sheet_has_a_cell_for_each_picture():
    cells = [(Image.new("RGB", (20, 20), colour), colour) for colour in ("red", "lime", "blue")]
    drawn = heat.sheet(cells, columns=2)
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255)} <= {colour for _, colour in drawn.getcolors(99999)}
    assert drawn.height > drawn.width * 0.8
