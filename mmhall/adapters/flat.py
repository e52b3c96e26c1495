"""Families that read a picture at its native resolution, as one flat list of patches and a grid size."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mmhall._transformers.pictures import window_order
from mmhall.adapters._base import Adapter, Inputs
from mmhall.adapters._grid import Boxes
from mmhall.adapters._messages import Request


def full_raster(picture: int, rows: int, columns: int) -> Boxes:
    """Return the boxes of a grid that covers a whole picture, row by row."""
    top, left = torch.meshgrid(torch.arange(rows) / rows, torch.arange(columns) / columns, indexing="ij")
    edges = torch.stack([left, top, left + 1 / columns, top + 1 / rows], dim=-1).view(-1, 4)
    return Boxes(edges, torch.full((len(edges),), float(picture)), torch.zeros(len(edges), dtype=torch.long))


def join_boxes(parts: list[Boxes]) -> Boxes:
    """Concatenate the boxes of several pictures."""
    return Boxes(*(torch.cat([getattr(part, name) for part in parts]) for name in ("edges", "image", "view")))


class QwenAdapter(Adapter):
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5, and as base class GLM-4V: patches of (channel, time, row, column)."""

    request_notes: ClassVar[tuple[str, ...]] = ("rope_deltas",)  # M-RoPE offset of positions after the picture

    causal: ClassVar[bool] = True
    grid: ClassVar[str] = "merged patches of the whole picture"

    @property
    def placeholder(self) -> str | None:
        """Placeholder between its start and end marks, which M-RoPE needs."""
        config, inner = self.model.config, super().placeholder
        marks = [
            getattr(config, f"vision_{end}_token_id", None) or getattr(config, f"image_{end}_token_id", None)
            for end in ("start", "end")
        ]
        if inner is None or None in marks:
            return None
        first, last = self.tokenizer.convert_ids_to_tokens(marks)
        return f"{first}{inner}{last}"

    def tower_rows(self, single: Inputs) -> tuple[int, int]:
        """Count patches: the tower reads the patches of all pictures as one list."""
        patches = len(single["pixel_values"])
        return patches, patches

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Return the grid in `image_grid_thw`, after merging."""
        merge = self.model.config.vision_config.spatial_merge_size
        sizes = inputs["image_grid_thw"].tolist()
        return join_boxes(
            [full_raster(i, rows // merge, columns // merge) for i, (_, rows, columns) in enumerate(sizes)]
        )

    @property
    def merges_patches(self) -> bool:
        """True: the patches of an image token follow each other."""
        return True

    def merge_patches(self, values: Tensor, inputs: Inputs) -> Tensor:
        """Average over the patches of each token, and undo the order of Qwen2.5-VL's windows."""
        means = values.view(-1, self.model.config.vision_config.spatial_merge_size**2).mean(dim=1)
        order = window_order(self.anatomy.vision.module, inputs["image_grid_thw"])
        return means if order is None else means[order.argsort().to(means.device)]

    def fill_pixels(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """Fill patches, in which channels are the first axis."""
        return colour.repeat_interleave(pixels.shape[-1] // 3).expand_as(pixels).contiguous()

    def patch_index(self, pixels: Tensor) -> Tensor:
        """Number the rows: each is a patch."""
        return torch.arange(len(pixels))[:, None]

    def mean_colour(self, pixels: Tensor) -> Tensor:
        """Average each channel, the first axis in a patch."""
        return pixels.float().view(len(pixels), 3, -1).mean(dim=(0, 2))

    def padding_mask(self, pixels: Tensor) -> Tensor:
        """Mark nothing: a request's own patches are not padded."""
        return torch.zeros_like(pixels[:, :1], dtype=torch.bool)

    def image_noise(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw noise once for a picture: a patch contains one copy of it for each point in time."""
        patches = pixels.view(len(pixels), 3, self.model.config.vision_config.temporal_patch_size, -1)
        once = torch.randn(patches[:, :, :1].shape, generator=generator)
        return once.expand_as(patches).reshape(pixels.shape)


class Glm4vAdapter(QwenAdapter):
    """GLM-4V: the tower itself merges patches, before the projector."""

    def tower_rows(self, single: Inputs) -> tuple[int, int]:
        """Count patches before and after merging."""
        patches, _ = super().tower_rows(single)
        return patches, patches // self.model.config.vision_config.spatial_merge_size**2


class Gemma4Adapter(Adapter):
    """Gemma 4: patches of (row, column, channel), padded to the same number, pooled to soft tokens."""

    causal: ClassVar[bool] = True
    grid: ClassVar[str] = "pooled patches of the whole picture"

    @property
    def newest_only(self) -> frozenset[int]:
        """Last layers, which share the keys of earlier layers."""
        shared = self.decoder.config.num_kv_shared_layers
        return frozenset(range(len(self.layers) - shared, len(self.layers)))

    def tower_rows(self, single: Inputs) -> tuple[int, int]:
        """Count pictures, padded to the same number of patches; for features image tokens, without padding."""
        return len(single["pixel_values"]), self.image_tokens(single)

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Return the grid from the (column, row) positions of the patches, after pooling."""
        pool = self.model.config.vision_config.pooling_kernel_size
        sizes = ((inputs["image_position_ids"].amax(dim=1) + 1) // pool).tolist()
        return join_boxes([full_raster(i, rows, columns) for i, (columns, rows) in enumerate(sizes)])

    def fill_pixels(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """Fill patches, in which channels are the last axis."""
        return colour.repeat(pixels.shape[-1] // 3).expand_as(pixels).contiguous()

    def patch_index(self, pixels: Tensor) -> Tensor:
        """Number the rows of all pictures: each is a patch."""
        return torch.arange(pixels.shape[:-1].numel()).view(*pixels.shape[:-1], 1)

    def mean_colour(self, pixels: Tensor) -> Tensor:
        """Average each channel, the last axis in a patch, without padding."""
        shown = pixels[~self.padding_mask(pixels)[..., 0]]
        return shown.float().view(-1, 3).mean(dim=0)

    def padding_mask(self, pixels: Tensor) -> Tensor:
        """Mark rows of zeros."""
        return (pixels == 0).all(dim=-1, keepdim=True)
