"""Tiles of LLaVA-NeXT and LLaVA-OneVision, counted and packed with the functions of these models."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

__all__ = ["add_missing_outputs", "count_tiles", "pack_tiles", "window_order"]


def count_tiles(size: Sequence[int], config: Any) -> int:
    """Count the tiles of a picture of size (height, width), the view of the whole picture included."""
    count: int = image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)
    return count


def pack_tiles(owner: Any, features: list[Tensor], sizes: Tensor, **how: Any) -> Any:
    """Pack features of each picture, (tiles, patches, values); line breaks are NaN.

    Args:
        owner: Module with `pack_image_features`.
        features: Features of each picture.
        sizes: (height, width) of each picture.
        **how: Other arguments of the family's `pack_image_features`.
    """
    line_break = torch.full((features[0].shape[-1],), torch.nan)
    return owner.pack_image_features(features, sizes, image_newline=line_break, **how)[0]


def window_order(tower: Any, grid: Tensor) -> Tensor | None:
    """Return the image token that each group of merged patches of a Qwen2.5-VL tower belongs to, (tokens,).

    The tower sorts patches by windows; None: it does not, as in other models.

    Args:
        tower: The vision tower.
        grid: (time, rows, columns) of each picture in patches.
    """
    if hasattr(tower, "get_window_index"):  # a method in older versions of transformers
        return torch.as_tensor(tower.get_window_index(grid)[0])
    find = getattr(sys.modules[type(tower).__module__], "get_vision_window_index", None)
    if find is None or not hasattr(tower, "window_size"):
        return None
    return torch.as_tensor(find(grid, tower.spatial_merge_size, tower.window_size, tower.patch_size)[0])


def add_missing_outputs(model: PreTrainedModel) -> RemovableHandle:
    """Add an empty `image_outputs` to the outputs of a model's inner language model, where it is missing.

    In transformers 5.24.0 Llama 4 reads that field, but its inner model does not return it.
    """
    handle: RemovableHandle = model.language_model.register_forward_hook(_complete)
    return handle


def _complete(module: nn.Module, args: Any, output: Any) -> None:
    if not hasattr(output, "image_outputs"):
        output.image_outputs = None
