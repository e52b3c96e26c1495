"""Families whose image tokens are merged neighbouring patches, tile by tile and row by row."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from mmhall._transformers.pictures import add_missing_outputs, count_tiles, pack_tiles
from mmhall.adapters._base import Adapter, Inputs
from mmhall.adapters._grid import Boxes, block_side, raster
from mmhall.adapters._messages import Request
from mmhall.errors import ImageError


class MergedAdapter(Adapter):
    """InternVL, Idefics3, SmolVLM, Aya Vision, Cohere2 Vision, and as base class Gemma 3, Llama 4, Mistral 3."""

    causal: ClassVar[bool] = True
    grid: ClassVar[str] = "merged patches; of a tiled picture, tiles and a view of the whole picture"

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Divide the processor's output into one square block for each token."""
        origins = self.pixel_origins(request)
        side = block_side(origins, count)
        return raster(origins, side) if side is not None else None

    @property
    def merges_patches(self) -> bool:
        """True: image tokens are square blocks of a tile's patches."""
        return True

    def merge_patches(self, values: Tensor, inputs: Inputs) -> Tensor:
        """Average over the square blocks of each tile, row by row."""
        tokens = int(self.image_mask(inputs["input_ids"]).sum()) // len(values)
        side, across = math.isqrt(values.shape[1]), math.isqrt(tokens)
        if side**2 != values.shape[1] or across**2 != tokens or side % across:
            return super().merge_patches(values, inputs)
        blocks = values.view(len(values), across, side // across, across, side // across)
        return blocks.mean(dim=(2, 4)).flatten()


class Gemma3Adapter(MergedAdapter):
    """Gemma 3."""

    @property
    def placeholder(self) -> str | None:
        """Start mark of a picture; the processor adds the rest."""
        return getattr(self.processor, "boi_token", None)


class Llama4Adapter(MergedAdapter):
    """Llama 4."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin | None = None) -> None:
        """Bind the model, and add what transformers 5.24.0 needs; see `add_missing_outputs`."""
        super().__init__(model, processor)
        self._output_hook = add_missing_outputs(model)

    @property
    def merges_patches(self) -> bool:
        """False: its tower has the CLS token last."""
        return False

    def close(self) -> None:
        """Restore the model's own attention and outputs."""
        super().close()
        self._output_hook.remove()


class Mistral3Adapter(MergedAdapter):
    """Mistral 3: pictures at their native resolution, padded to that of the largest."""

    limits: ClassVar[str] = "a picture of a single token (under 28 pixels, for released models) cannot be read"

    def check_readable(self, inputs: Inputs) -> None:
        """Check that no picture is a single token, for which transformers fails.

        Raises:
            ImageError: A picture is a single token.
        """
        if (self._sizes(inputs).prod(dim=1) == 1).any():
            raise ImageError("mistral3 cannot read a picture so small that it is a single token; enlarge it")

    def tower_rows(self, single: Inputs) -> tuple[int, int]:
        """Count patches: the tower reads the patches of all pictures as one list, without padding."""
        patches = int((single["image_sizes"] // self.model.config.vision_config.patch_size).prod(dim=1).sum())
        return patches, patches

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Divide the pictures into blocks, without those in the padding."""
        origins, side = self.pixel_origins(request), self._side()
        blocks = raster(origins, side)
        _, height, width = origins.x.shape
        rows, columns = self._sizes(inputs).cpu()[:, :, None].unbind(dim=1)
        down, across = torch.arange(height // side) < rows, torch.arange(width // side) < columns
        inside = (down[:, :, None] & across[:, None, :]).flatten()
        return Boxes(blocks.edges[inside], blocks.image[inside], blocks.view[inside])

    @property
    def merges_patches(self) -> bool:
        """False: its pictures are padded to the largest."""
        return False

    def _side(self) -> int:
        return int(self.model.config.vision_config.patch_size * self.model.config.spatial_merge_size)

    def _sizes(self, inputs: Inputs) -> Tensor:
        """Return the numbers of rows and columns of image tokens of each picture."""
        return inputs["image_sizes"] // self._side()


class PackedAdapter(Adapter):
    """LLaVA-NeXT: a view of the whole picture and unpadded tiles, packed by the model with a token after each row."""

    causal: ClassVar[bool] = True
    grid: ClassVar[str] = "the whole picture, then its tiles as one grid with a line break after each row"

    def tower_rows(self, single: Inputs) -> tuple[int, int]:
        """Count tiles, without padding."""
        tiles = sum(self.tiles(single))
        return tiles, tiles

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Pack boxes instead of features with the model's own function, which gives the box of each token."""
        origins = self.pixel_origins(request)
        patch = self.model.config.vision_config.patch_size
        patches = raster(origins, patch)
        tiles, side = len(origins.x), origins.x.shape[1] // patch
        features = torch.cat([patches.edges, patches.image[:, None]], dim=1).view(tiles, side * side, 5)
        first = inputs["pixel_values"].shape[1]
        numbers = (torch.arange(tiles) % first > 0).float()  # a picture's first tile shows it as a whole
        features = torch.cat([features, numbers[:, None, None].expand(-1, side * side, 1)], dim=2)
        pictures = [part[:count] for part, count in zip(features.split(first), self.tiles(inputs), strict=True)]
        tokens = torch.cat(self.pack(pictures, inputs))
        return Boxes(tokens[:, :4], tokens[:, 4], tokens[:, 5].nan_to_num(0).round().long())

    @property
    def merges_patches(self) -> bool:
        """True: image tokens are patches, and line breaks."""
        return True

    def merge_patches(self, values: Tensor, inputs: Inputs) -> Tensor:
        """Pack values instead of features with the model's own function."""
        tiles = list(values[..., None].cpu().split(self.tiles(inputs)))
        return torch.cat(self.pack(tiles, inputs))[:, 0].to(values.device)

    def tiles(self, inputs: Inputs) -> list[int]:
        """Count the tiles of each picture, its whole view included."""
        return [count_tiles(size, self.model.config) for size in inputs["image_sizes"].tolist()]

    def pack(self, features: list[torch.Tensor], inputs: Inputs) -> list[torch.Tensor]:
        """Pack features of each picture, (tiles, patches, values) to (tokens, values); line breaks are NaN."""
        strategy = self.model.config.vision_feature_select_strategy
        return list(pack_tiles(self.model, features, inputs["image_sizes"], vision_feature_select_strategy=strategy))


class OneVisionAdapter(PackedAdapter):
    """LLaVA-OneVision: as LLaVA-NeXT, but many tiles are downscaled, and several pictures are not tiled."""

    def tiles(self, inputs: Inputs) -> list[int]:
        """Count the tiles of each picture; pictures that share a prompt have one each."""
        single = [pictures == 1 for pictures in inputs["batch_num_images"].tolist() for _ in range(pictures)]
        return [count if is_single else 1 for count, is_single in zip(super().tiles(inputs), single, strict=True)]

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Widen the boxes of a downscaled view until they touch: a token covers more than its central patch."""
        boxes = super().boxes(request, inputs, count)
        assert boxes is not None
        for picture, view in {(int(i), int(v)) for i, v in zip(boxes.image.nan_to_num(-1), boxes.view, strict=True)}:
            chosen = (boxes.image == picture) & (boxes.view == view)
            for low, high in ((0, 2), (1, 3)):
                middle = (boxes.edges[chosen, low] + boxes.edges[chosen, high]) / 2
                size = (boxes.edges[chosen, high] - boxes.edges[chosen, low]).nanmedian()
                gaps = middle[~middle.isnan()].sort().values.diff()
                gaps = gaps[gaps > 0.4 * size]
                if len(gaps) and gaps.median() > size:
                    boxes.edges[chosen, low], boxes.edges[chosen, high] = (
                        middle - gaps.median() / 2,
                        middle + gaps.median() / 2,
                    )
        return boxes

    def pack(self, features: list[torch.Tensor], inputs: Inputs) -> list[torch.Tensor]:
        """Pack features of each picture, (tiles, patches, values) to (tokens, values); line breaks are NaN."""
        ratio = self.model.config.vision_aspect_ratio
        return list(pack_tiles(self.model.model, features, inputs["image_sizes"], vision_aspect_ratio=ratio))
