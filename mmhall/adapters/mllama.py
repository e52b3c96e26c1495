"""Mllama (Llama 3.2 Vision): cross-attention layers attend to the picture, which is not in the sequence."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import BoolTensor, Tensor

from mmhall.adapters._base import Adapter, Inputs
from mmhall.adapters._grid import Boxes, raster
from mmhall.adapters._messages import Request
from mmhall.attention import PictureRows
from mmhall.errors import PromptError


class MllamaAdapter(Adapter):
    """Mllama: image columns are the keys of its cross layers; each tile has a class token before its patches."""

    image_kinds: ClassVar[frozenset[str]] = frozenset({"cross"})
    causal: ClassVar[bool] = True
    grid: ClassVar[str] = "patches of the tiles, in the keys of the cross layers"
    limits: ClassVar[str] = (
        "a picture-free branch decodes separately, not stacked; in a batch of prompts with different numbers of "
        "pictures, logits differ from those of single prompts (by 5e-4 in float32 on a small model), as in transformers"
    )

    def image_mask(self, input_ids: Tensor) -> BoolTensor:
        """Return an empty mask: a placeholder is a single text token."""
        mask: BoolTensor = torch.zeros_like(input_ids, dtype=torch.bool)  # type: ignore[assignment]
        return mask

    def check_placeholders(self, inputs: Inputs) -> None:
        """Check also that the numbers of placeholders and pictures are equal, which the model does not check.

        Raises:
            PromptError: A prompt has more or fewer placeholders than pictures.
        """
        super().check_placeholders(inputs)
        if "aspect_ratio_ids" not in inputs:
            return
        marked = self.placeholders(inputs["input_ids"]).sum(dim=1)
        pictures = (inputs["aspect_ratio_ids"] > 0).sum(dim=1)
        if not torch.equal(marked, pictures):
            raise PromptError(
                f"pictures and their placeholders in the prompt do not match: {marked.tolist()} placeholders, "
                f"{pictures.tolist()} pictures"
            )

    def image_tokens(self, inputs: Inputs) -> int:
        """Count the keys of a cross layer."""
        if "pixel_values" not in inputs:
            return 0
        _, pictures, tiles, _, height, width = inputs["pixel_values"].shape
        patch = self.model.config.vision_config.patch_size
        return int(pictures * tiles * (height // patch * (width // patch) + 1))

    def pictures(self, inputs: Inputs) -> PictureRows | None:
        """Count pictures, padded to the largest number in the batch; the features have one row for each prompt."""
        if "pixel_values" not in inputs:
            return None
        batch, pictures = inputs["pixel_values"].shape[:2]
        return PictureRows((pictures,) * batch, (1,) * batch)

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Divide tiles into patches, with a class token without a place before those of each tile."""
        origins = self.pixel_origins(request)
        patch = self.model.config.vision_config.patch_size
        patches = raster(origins, patch)
        tiles = len(origins.x)

        def prepend(first: Tensor, values: Tensor) -> Tensor:
            parts = values.view(tiles, -1, *values.shape[1:])
            return torch.cat([first.expand_as(parts[:, :1]), parts], dim=1).flatten(0, 1)

        nan = torch.tensor(torch.nan)
        images = patches.image.view(tiles, -1).nanmean(dim=1, keepdim=True)
        edges = prepend(nan, patches.edges)
        image = prepend(images, patches.image)
        return Boxes(edges, image, prepend(nan, patches.view.float()).nan_to_num(0).long())
