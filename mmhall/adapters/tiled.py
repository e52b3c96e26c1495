"""Families whose image tokens are neighbouring patches merged into one, tile by tile and row by row."""

from __future__ import annotations

from typing import ClassVar

import torch

from mmhall.adapters.base import Adapter, Inputs, Request
from mmhall.adapters.grid import Boxes, block_side, raster


class MergedAdapter(Adapter):
    """Gemma 3, InternVL, Idefics3, SmolVLM, Aya Vision, Cohere2 Vision, Llama 4, Mistral 3."""

    grid: ClassVar[str] = "merged patches; where cut, tiles and a view of the whole picture"

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Cut what the processor made of the picture into as many square blocks as there are tokens."""
        told = self.told(request)
        side = block_side(told, count)
        return raster(told, side) if side is not None else None


class PackedAdapter(Adapter):
    """LLaVA-NeXT: a whole view and unpadded tiles, packed by the model's own function with a token after each row."""

    grid: ClassVar[str] = "the whole picture, then its tiles as one raster, a line break a row"

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Send boxes instead of features through the model's packing and read where they land."""
        told = self.told(request)
        patch = self.model.config.vision_config.patch_size
        patches = raster(told, patch)
        tiles, side = len(told.x), told.x.shape[1] // patch
        features = torch.cat([patches.edges, patches.image[:, None]], dim=1).view(tiles, side * side, 5)
        first = inputs["pixel_values"].shape[1]
        numbers = (torch.arange(tiles) % first > 0).float()  # a picture's first tile shows it as a whole
        features = torch.cat([features, numbers[:, None, None].expand(-1, side * side, 1)], dim=2)
        held = ~told.x.isnan().flatten(1).all(dim=1)
        pictures = [part[keep] for part, keep in zip(features.split(first), held.split(first), strict=True)]
        packed = torch.cat(self.pack(pictures, inputs))
        return Boxes(packed[:, :4], packed[:, 4], packed[:, 5].nan_to_num(0).round().long())

    def pack(self, features: list[torch.Tensor], inputs: Inputs) -> list[torch.Tensor]:
        """Pack features of each picture, (tiles, patches, values) to (tokens, values); line breaks are NaN."""
        packed, _ = self.model.pack_image_features(
            features,
            inputs["image_sizes"],
            vision_feature_select_strategy=self.model.config.vision_feature_select_strategy,
            image_newline=torch.full((features[0].shape[-1],), torch.nan),
        )
        return list(packed)


class OneVisionAdapter(PackedAdapter):
    """LLaVA-OneVision: as LLaVA-NeXT, its tiles shrunk when there are many; several pictures are not tiled."""

    def pack(self, features: list[torch.Tensor], inputs: Inputs) -> list[torch.Tensor]:
        """Pack features of each picture, (tiles, patches, values) to (tokens, values); line breaks are NaN."""
        packed, _ = self.model.model.pack_image_features(
            features,
            inputs["image_sizes"],
            image_newline=torch.full((features[0].shape[-1],), torch.nan),
            vision_aspect_ratio=self.model.config.vision_aspect_ratio,
        )
        return list(packed)
