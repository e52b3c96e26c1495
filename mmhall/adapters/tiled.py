"""Families whose image tokens are neighbouring patches merged into one, tile by tile and row by row."""

from __future__ import annotations

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
    """InternVL, Idefics3, SmolVLM, Aya Vision, Cohere2 Vision; with more of their own Gemma 3, Llama 4, Mistral 3."""

    causal: ClassVar[bool] = True
    grid: ClassVar[str] = "merged patches; where cut, tiles and a view of the whole picture"

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Cut what the processor made of the picture into as many square blocks as there are tokens."""
        told = self.told(request)
        side = block_side(told, count)
        return raster(told, side) if side is not None else None


class Gemma3Adapter(MergedAdapter):
    """Gemma 3."""

    @property
    def placeholder(self) -> str | None:
        """The mark that a picture begins; the processor adds the rest."""
        return getattr(self.processor, "boi_token", None)


class Llama4Adapter(MergedAdapter):
    """Llama 4."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin | None = None) -> None:
        """Also let it run on transformers 5.24.0; see `add_missing_outputs`."""
        super().__init__(model, processor)
        self._completed = add_missing_outputs(model)

    def close(self) -> None:
        """Also take that away."""
        super().close()
        self._completed.remove()


class Mistral3Adapter(MergedAdapter):
    """Mistral 3: pictures at their own resolution, padded to that of the largest."""

    limits: ClassVar[str] = "a picture of a single token (under 28 pixels, for released models) cannot be read"

    def check_readable(self, inputs: Inputs) -> None:
        """Refuse what transformers would stumble over."""
        if (self._sizes(inputs).prod(dim=1) == 1).any():
            raise ImageError("mistral3 cannot read a picture so small that it is a single token; enlarge it")

    def tower_rows(self, single: Inputs) -> tuple[int, int]:
        """Count patches: the tower reads those of all pictures as one list, without the padding."""
        patches = int((single["image_sizes"] // self.model.config.vision_config.patch_size).prod(dim=1).sum())
        return patches, patches

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Cut the pictures into blocks and leave out those in the padding."""
        told, side = self.told(request), self._side()
        cut = raster(told, side)
        _, height, width = told.x.shape
        rows, columns = self._sizes(inputs).cpu()[:, :, None].unbind(dim=1)
        down, across = torch.arange(height // side) < rows, torch.arange(width // side) < columns
        held = (down[:, :, None] & across[:, None, :]).flatten()
        return Boxes(cut.edges[held], cut.image[held], cut.view[held])

    def _side(self) -> int:
        return int(self.model.config.vision_config.patch_size * self.model.config.spatial_merge_size)

    def _sizes(self, inputs: Inputs) -> Tensor:
        """Return rows and columns of image tokens of each picture."""
        return inputs["image_sizes"] // self._side()


class PackedAdapter(Adapter):
    """LLaVA-NeXT: a whole view and unpadded tiles, packed by the model's own function with a token after each row."""

    causal: ClassVar[bool] = True
    grid: ClassVar[str] = "the whole picture, then its tiles as one raster, a line break a row"

    def tower_rows(self, single: Inputs) -> tuple[int, int]:
        """Count tiles, without those that only fill up."""
        tiles = sum(self.tiles(single))
        return tiles, tiles

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
        pictures = [part[:count] for part, count in zip(features.split(first), self.tiles(inputs), strict=True)]
        laid = torch.cat(self.pack(pictures, inputs))
        return Boxes(laid[:, :4], laid[:, 4], laid[:, 5].nan_to_num(0).round().long())

    def tiles(self, inputs: Inputs) -> list[int]:
        """Count each picture's tiles, its whole view included."""
        return [count_tiles(size, self.model.config) for size in inputs["image_sizes"].tolist()]

    def pack(self, features: list[torch.Tensor], inputs: Inputs) -> list[torch.Tensor]:
        """Pack features of each picture, (tiles, patches, values) to (tokens, values); line breaks are NaN."""
        chosen = self.model.config.vision_feature_select_strategy
        return list(pack_tiles(self.model, features, inputs["image_sizes"], vision_feature_select_strategy=chosen))


class OneVisionAdapter(PackedAdapter):
    """LLaVA-OneVision: as LLaVA-NeXT, its tiles shrunk when there are many; several pictures are not tiled."""

    def tiles(self, inputs: Inputs) -> list[int]:
        """Count each picture's tiles; pictures that share a prompt have one each."""
        alone = [pictures == 1 for pictures in inputs["batch_num_images"].tolist() for _ in range(pictures)]
        return [count if one else 1 for count, one in zip(super().tiles(inputs), alone, strict=True)]

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Widen the boxes of a shrunk view until they touch: a token stands for more than the patch in its middle."""
        found = super().boxes(request, inputs, count)
        assert found is not None
        for picture, view in {(int(i), int(v)) for i, v in zip(found.image.nan_to_num(-1), found.view, strict=True)}:
            own = (found.image == picture) & (found.view == view)
            for low, high in ((0, 2), (1, 3)):
                middle = (found.edges[own, low] + found.edges[own, high]) / 2
                usual = (found.edges[own, high] - found.edges[own, low]).nanmedian()
                gaps = middle[~middle.isnan()].sort().values.diff()
                gaps = gaps[gaps > 0.4 * usual]
                if len(gaps) and gaps.median() > usual:
                    found.edges[own, low], found.edges[own, high] = (
                        middle - gaps.median() / 2,
                        middle + gaps.median() / 2,
                    )
        return found

    def pack(self, features: list[torch.Tensor], inputs: Inputs) -> list[torch.Tensor]:
        """Pack features of each picture, (tiles, patches, values) to (tokens, values); line breaks are NaN."""
        ratio = self.model.config.vision_aspect_ratio
        return list(pack_tiles(self.model.model, features, inputs["image_sizes"], vision_aspect_ratio=ratio))
