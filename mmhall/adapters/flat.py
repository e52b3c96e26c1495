"""Families that read a picture at its own resolution, as one flat list of patches with their grid beside it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters._base import Adapter, Inputs
from mmhall.adapters._grid import Boxes
from mmhall.adapters._messages import Request


def whole(picture: int, rows: int, columns: int) -> Boxes:
    """Return the boxes of a raster that covers a whole picture, row by row."""
    top, left = torch.meshgrid(torch.arange(rows) / rows, torch.arange(columns) / columns, indexing="ij")
    edges = torch.stack([left, top, left + 1 / columns, top + 1 / rows], dim=-1).view(-1, 4)
    return Boxes(edges, torch.full((len(edges),), float(picture)), torch.zeros(len(edges), dtype=torch.long))


def joined(parts: list[Boxes]) -> Boxes:
    """Put the boxes of several pictures after each other."""
    return Boxes(*(torch.cat([getattr(part, name) for part in parts]) for name in ("edges", "image", "view")))


class QwenAdapter(Adapter):
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5; with more of its own GLM-4V: patches of (channel, time, row, column)."""

    request_notes: ClassVar[tuple[str, ...]] = ("rope_deltas",)  # where M-RoPE goes on after the picture

    causal: ClassVar[bool] = True
    grid: ClassVar[str] = "merged patches of the whole picture"

    @property
    def placeholder(self) -> str | None:
        """A picture between its start and end marks, which M-RoPE looks for."""
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
        """Count patches: the tower reads those of all pictures as one list."""
        patches = len(single["pixel_values"])
        return patches, patches

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Read the raster from `image_grid_thw`, after merging."""
        merge = self.model.config.vision_config.spatial_merge_size
        sizes = inputs["image_grid_thw"].tolist()
        return joined([whole(i, rows // merge, columns // merge) for i, (_, rows, columns) in enumerate(sizes)])

    def fill_pixels(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """Fill patches; a patch's channels follow each other."""
        return colour.repeat_interleave(pixels.shape[-1] // 3).expand_as(pixels).contiguous()

    def image_noise(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw noise once for a picture: a patch holds as many copies of it as there are points in time."""
        patches = pixels.view(len(pixels), 3, self.model.config.vision_config.temporal_patch_size, -1)
        once = torch.randn(patches[:, :, :1].shape, generator=generator)
        return once.expand_as(patches).reshape(pixels.shape)


class Glm4vAdapter(QwenAdapter):
    """GLM-4V: its tower merges patches itself, before the projector."""

    def tower_rows(self, single: Inputs) -> tuple[int, int]:
        """Count patches, and what they are merged to."""
        patches, _ = super().tower_rows(single)
        return patches, patches // self.model.config.vision_config.spatial_merge_size**2


class Gemma4Adapter(Adapter):
    """Gemma 4: patches of (row, column, channel), padded to one count, pooled to soft tokens."""

    causal: ClassVar[bool] = True
    grid: ClassVar[str] = "pooled patches of the whole picture"

    @property
    def newest_only(self) -> frozenset[int]:
        """Its last layers share keys."""
        shared = self.decoder.config.num_kv_shared_layers
        return frozenset(range(len(self.layers) - shared, len(self.layers)))

    def tower_rows(self, single: Inputs) -> tuple[int, int]:
        """Count pictures, padded to one count of patches; of the features image tokens, without the padding."""
        return len(single["pixel_values"]), self.image_tokens(single)

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Read the raster from the (column, row) positions of the patches, after pooling."""
        pool = self.model.config.vision_config.pooling_kernel_size
        sizes = ((inputs["image_position_ids"].amax(dim=1) + 1) // pool).tolist()
        return joined([whole(i, rows, columns) for i, (columns, rows) in enumerate(sizes)])

    def fill_pixels(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """Fill patches; a pixel's channels stand together."""
        return colour.repeat(pixels.shape[-1] // 3).expand_as(pixels).contiguous()
