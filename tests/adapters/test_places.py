"""The grid is where the model looks: painting a block into a picture moves the tokens whose boxes hold it.

The vision tower's attention is silenced for that, so that a patch tells nothing but its own pixels; the
projection, merging, pooling, tiling and packing that decide where a token looks stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from PIL import Image
from torch import Tensor

from mmhall.adapters._base import Adapter, Request
from mmhall.adapters._grid import Grid
from tests.zoo import REPRESENTATIVES, ZOO

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

QUERIES = {"idefics2": 6, "blip_2": 6, "instructblip": 6}
CROPPED = ("llava", "llava_phi3", "vipllava")
GRIDDED = [name for name in ZOO if name not in QUERIES]
SHAPES = ((96, 64), (40, 72), (64, 64), (200, 50))
SPOTS = ((0.1, 0.1), (0.9, 0.1), (0.1, 0.9), (0.9, 0.9), (0.5, 0.5), (0.8, 0.2), (0.3, 0.7))
WIDE_VIEWS = {
    "llava": [(4, 4)],
    "llava_qwen2": [(4, 4)],
    "llava_phi3": [(4, 4)],
    "vipllava": [(4, 4)],
    "llava_next": [(4, 4), (6, 8)],
    "llava_onevision": [(3, 3), (7, 11)],
    "mistral3": [(4, 6)],
    "internvl": [(3, 3), (6, 9)],
    "aya_vision": [(3, 3), (6, 9)],
    "cohere2_vision": [(3, 3), (6, 9)],
    "qwen2_vl": [(4, 6)],
    "qwen2_5_vl": [(4, 6)],
    "qwen3_vl": [(4, 6)],
    "qwen3_5": [(4, 6)],
    "glm4v": [(4, 6)],
    "gemma3": [(4, 4)],
    "gemma4": [(6, 10)],
    "paligemma": [(4, 4)],
    "idefics3": [(2, 2), (4, 6)],
    "smolvlm": [(2, 2), (4, 6)],
    "mllama": [(6, 8)],
    "llama4": [(2, 2), (4, 6)],
}
"""Rows and columns of each view of a picture of 96 x 64 pixels."""


def plain(size: tuple[int, int], colour: str = "slategray") -> Image.Image:
    return Image.new("RGB", size, colour)


def grid_of(adapter: Adapter, *pictures: Image.Image) -> Grid:
    request = Request("Hi", pictures)
    return adapter.places(request, adapter.inputs([request]))


def features(adapter: Adapter, *pictures: Image.Image) -> Tensor:
    """What the decoder gets at each image token, (tokens, width)."""
    inputs = adapter.inputs([Request("Hi", pictures)])
    got = {}
    hook = adapter.decoder.register_forward_pre_hook(lambda module, args, kwargs: got.update(kwargs), with_kwargs=True)
    with torch.no_grad():
        adapter.model(**inputs)
    hook.remove()
    if "cross" in adapter.kinds:
        return got["cross_attention_states"].flatten(0, -2)
    return got["inputs_embeds"][adapter.image_mask(inputs["input_ids"])]


@contextmanager
def patches_alone(adapter: Adapter) -> Iterator[None]:
    """Let no patch look at another."""
    decoding = set(adapter.decoder.modules())
    looking = [
        part for part in adapter.model.modules() if type(part).__name__.endswith("Attention") and part not in decoding
    ]
    assert looking

    def silence(module, args, output):
        return (output[0] * 0, *output[1:]) if isinstance(output, tuple) else output * 0

    hooks = [part.register_forward_hook(silence) for part in looking]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def views(grid: Grid, picture: int = 0) -> list[Tensor]:
    """Indices of the tokens of each view of a picture."""
    numbers = grid.view[(grid.image == picture) & (grid.view >= 0)].unique().tolist()
    return [((grid.image == picture) & (grid.view == number)).nonzero()[:, 0] for number in numbers]


def shape(grid: Grid, view: Tensor) -> tuple[int, int]:
    return int(grid.row[view].max()) + 1, int(grid.column[view].max()) + 1


def spread(intervals: Tensor, low: float, high: float) -> Tensor:
    """How far each (low, high) interval is from another; below zero where they overlap."""
    return torch.maximum(intervals[:, 0] - high, low - intervals[:, 1])


@pytest.mark.contract
@pytest.mark.parametrize("name", GRIDDED)
def test_a_painted_block_moves_the_tokens_whose_boxes_hold_it_and_no_others(name, adapter):
    """Each family at one of the shapes, its relatives at the others; its representatives at two."""
    first = GRIDDED.index(name)
    for turn in range(2 if name in REPRESENTATIVES else 1):
        check_painted(name, adapter, SHAPES[(first + turn) % len(SHAPES)])


def check_painted(name, adapter, size):
    width, height = size
    grid = grid_of(adapter, plain(size))
    with patches_alone(adapter):
        before = features(adapter, plain(size))
        for x, y in SPOTS:
            side = max(6, min(size) // 6)
            left, top = round(x * width - side / 2), round(y * height - side / 2)
            left, top = max(0, min(left, width - side)), max(0, min(top, height - side))
            painted = plain(size)
            painted.paste((255, 0, 255), (left, top, left + side, top + side))
            moved = (features(adapter, painted) - before).norm(dim=1)
            assert len(moved) == len(grid.view)
            assert moved[grid.view < 0].sum() == 0
            for view in views(grid):
                boxes, here = grid.edges[view], moved[view]
                across = spread(boxes[:, [0, 2]], left / width, (left + side) / width)
                down = spread(boxes[:, [1, 3]], top / height, (top + side) / height)
                box_width, box_height = (boxes[:, 2:] - boxes[:, :2]).median(dim=0).values
                far = (across > box_width) | (down > box_height)  # resampling blurs the block over one token at most
                assert (here[far] <= 1e-3 * here.max()).all()
                held = (across < 0) & (down < 0)
                assert held.any() or name in CROPPED
                if held.any():
                    assert held[here.argmax()]
                half_in = (across < -box_width / 2) & (down < -box_height / 2)
                assert (here[half_in] > 0.1 * here.max()).all()


@pytest.mark.contract
@pytest.mark.parametrize("name", GRIDDED)
def test_a_picture_of_96_by_64_has_the_familys_rows_and_columns(name, adapter):
    grid = grid_of(adapter, plain((96, 64)))
    assert [shape(grid, view) for view in views(grid)] == WIDE_VIEWS[name]
    assert grid.finest(0) == WIDE_VIEWS[name][-1]


AWKWARD = ((365, 372), (116, 350), (83, 94), (33, 16), (11, 7), (300, 3000))


@pytest.mark.slow
@pytest.mark.parametrize("name", GRIDDED)
def test_every_view_is_a_full_raster_read_from_the_top_left(name, adapter):
    for size in AWKWARD:
        grid = grid_of(adapter, plain(size))
        found = views(grid)
        assert 1 <= len(found) <= len(WIDE_VIEWS[name])
        for view in found:
            rows, columns = shape(grid, view)
            cells = list(zip(grid.row[view].tolist(), grid.column[view].tolist(), strict=True))
            assert len(cells) == len(set(cells)) == rows * columns
            middles = torch.empty(rows, columns, 2)
            middles[grid.row[view], grid.column[view]] = (grid.edges[view][:, :2] + grid.edges[view][:, 2:]) / 2
            assert (middles[:, :, 0].diff(dim=1) > 0).all()
            assert (middles[:, :, 1].diff(dim=0) > 0).all()


@pytest.mark.parametrize("name", GRIDDED)
def test_the_boxes_of_a_view_lie_side_by_side(adapter):
    for size in (96, 64), (40, 72), (365, 372):
        grid = grid_of(adapter, plain(size))
        for view in views(grid):
            raster = torch.empty(*shape(grid, view), 4)
            raster[grid.row[view], grid.column[view]] = grid.edges[view]
            for low, high, axis in ((0, 2, 1), (1, 3, 0)):
                usual = (grid.edges[view][:, high] - grid.edges[view][:, low]).median()
                edges = raster.movedim(axis, 0)
                assert ((edges[1:, :, low] - edges[:-1, :, high]).abs() < 0.25 * usual).all()


def test_there_is_one_place_for_each_image_token(adapter):
    for size in (24, 24), (1000, 90):
        request = Request("Hi", (plain(size),))
        inputs = adapter.inputs([request])
        grid = adapter.places(request, inputs)
        count = adapter.image_tokens(inputs)
        assert count == len(features(adapter, *request.images))
        assert {len(part) for part in (grid.image, grid.view, grid.row, grid.column)} == {count}
        assert grid.edges is None or grid.edges.shape == (count, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "llava_next", "llava_onevision", "internvl", "idefics3", "mllama", "llama4"])
def test_a_picture_of_hardly_any_pixels_still_has_a_place_for_each_token(adapter):
    for size in (1, 1), (7, 5), (1, 30), (1, 400), (400, 1):
        request = Request("Hi", (plain(size),))
        inputs = adapter.inputs([request])
        grid = adapter.places(request, inputs)
        assert len(grid.view) == adapter.image_tokens(inputs)
        assert (grid.view >= 0).any()


@pytest.mark.parametrize("name", QUERIES)
def test_query_tokens_have_no_grid(name, adapter):
    grid = grid_of(adapter, plain((96, 64)))
    assert grid.edges is None
    assert grid.image.tolist() == [0] * QUERIES[name]
    assert set(torch.cat([grid.view, grid.row, grid.column]).tolist()) == {-1}
    assert grid.finest(0) == (0, 0)


@pytest.mark.parametrize("name", CROPPED)
def test_a_centre_crop_covers_the_middle_square_only(adapter):
    for size, covered in (((96, 64), (1 / 6, 0, 5 / 6, 1)), ((50, 200), (0, 0.375, 1, 0.625))):
        edges = grid_of(adapter, plain(size)).edges
        extent = torch.cat([edges[:, :2].amin(dim=0), edges[:, 2:].amax(dim=0)])
        torch.testing.assert_close(extent, torch.tensor(covered), atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["llava_next"])
def test_llava_next_has_a_placeless_token_after_each_row_of_tiles(adapter):
    grid = grid_of(adapter, plain((96, 64)))
    assert grid.view.tolist() == [0] * 16 + ([1] * 8 + [-1]) * 6
    assert grid.row.tolist() == [r for r in range(4) for _ in range(4)] + [
        r for row in range(6) for r in [*[row] * 8, -1]
    ]
    assert grid.column.tolist() == [*range(4)] * 4 + [*range(8), -1] * 6
    assert grid.edges[grid.view < 0].isnan().all()
    assert set(grid.image.tolist()) == {0}


@pytest.mark.parametrize("name", ["llava_onevision"])
def test_rows_run_through_all_tiles_that_lie_side_by_side(adapter):
    """Two rows of three tiles of 3 x 3 patches, 4 pixels a patch: every row of 9 patches crosses three tiles."""
    grid = grid_of(adapter, plain((36, 24)))
    assert grid.view.tolist() == [0] * 9 + ([1] * 9 + [-1]) * 6
    tiles = grid.edges[grid.view == 1].view(6, 9, 4)
    for row in range(6):
        for column in range(9):
            wanted = torch.tensor([column / 9, row / 6, (column + 1) / 9, (row + 1) / 6])
            torch.testing.assert_close(tiles[row, column], wanted, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["mllama"])
def test_mllamas_class_tokens_and_unused_tiles_are_nowhere(adapter):
    one_tile = grid_of(adapter, plain((32, 32)))
    assert one_tile.view.tolist() == [-1] + [0] * 16 + [-1] * 51
    assert one_tile.finest(0) == (4, 4)
    four_tiles = grid_of(adapter, plain((64, 64)))
    assert four_tiles.view.tolist() == ([-1] + [0] * 16) * 4
    assert four_tiles.row[:17].tolist() == [-1] + [r for r in range(4) for _ in range(4)]
    assert four_tiles.column[17:34].tolist() == [-1] + [4, 5, 6, 7] * 4


@pytest.mark.parametrize(("name", "size"), [("llama4", (40, 72)), ("mllama", (40, 72))])
def test_patches_of_padding_alone_are_nowhere(adapter, size):
    grid = grid_of(adapter, plain(size))
    with patches_alone(adapter):
        moved = (features(adapter, plain(size, "red")) - features(adapter, plain(size))).norm(dim=1) > 0
    assert torch.equal(grid.view >= 0, moved)
    assert not moved.all()
    assert (grid.row[~moved] == -1).all()
    assert grid.edges[~moved].isnan().all()


@pytest.mark.parametrize("name", [name for name in ZOO if name not in ("blip_2", "instructblip")])
def test_each_of_two_pictures_owns_the_tokens_that_move_with_it(name, adapter):
    changed = list(ZOO).index(name) % 2
    pictures = [plain((96, 64)), plain((40, 72), "olive")]
    grid = grid_of(adapter, *pictures)
    assert set(grid.image.tolist()) == {0, 1}
    assert (grid.image.diff() >= 0).all()
    before = features(adapter, *pictures)
    pictures[changed] = plain(pictures[changed].size, "red")
    moved = (features(adapter, *pictures) - before).norm(dim=1)
    moved = moved > 1e-3 * moved.max()
    assert not moved[grid.image != changed].any()
    somewhere = (grid.image == changed) & (grid.view >= 0) if name in GRIDDED else grid.image == changed
    assert somewhere.any()
    assert moved[somewhere].all()


@pytest.mark.parametrize("name", [name for name in GRIDDED if name != "llava_onevision"])
def test_a_picture_has_the_same_grid_beside_another_as_alone(adapter):
    pictures = plain((96, 64)), plain((40, 72))
    together = grid_of(adapter, *pictures)
    for index, picture in enumerate(pictures):
        alone, own = grid_of(adapter, picture), together.image == index
        for part in ("view", "row", "column"):
            assert torch.equal(getattr(together, part)[own], getattr(alone, part))
        torch.testing.assert_close(together.edges[own], alone.edges, atol=0.02, rtol=0, equal_nan=True)
        assert together.finest(index) == alone.finest(0)


@pytest.mark.parametrize("name", ["llava_onevision"])
def test_onevision_does_not_tile_several_pictures(adapter):
    grid = grid_of(adapter, plain((96, 64)), plain((40, 72)))
    assert [grid.finest(index) for index in (0, 1)] == [(3, 3), (3, 3)]


def test_without_a_picture_there_are_no_places(adapter):
    grid = grid_of(adapter)
    assert len(grid.image) == len(grid.view) == 0
    assert grid.finest(0) == (0, 0)
