"""Mllama (Llama 3.2 Vision): the picture is not in the sequence; some layers attend to it across."""

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
    """Mllama: image columns are the keys of its cross layers; a class token leads each tile's patches."""

    image_kinds: ClassVar[frozenset[str]] = frozenset({"cross"})
    causal: ClassVar[bool] = True
    grid: ClassVar[str] = "patches of the tiles, in the keys of the cross layers"
    limits: ClassVar[str] = (
        "an image-free branch steps by itself, not stacked; in a batch of prompts with different numbers of pictures, "
        "logits differ from those alone (by 5e-4 in float32 on a small model), as in transformers"
    )

    def image_mask(self, input_ids: Tensor) -> BoolTensor:
        """Mark nothing: a placeholder is one token of text."""
        mask: BoolTensor = torch.zeros_like(input_ids, dtype=torch.bool)  # type: ignore[assignment]
        return mask

    def check_placeholders(self, inputs: Inputs) -> None:
        """Refuse also a placeholder too many, or too few: the model itself would not notice.

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
        """Count pictures, filled up to the most of any prompt; the features have a row a prompt."""
        if "pixel_values" not in inputs:
            return None
        batch, pictures = inputs["pixel_values"].shape[:2]
        return PictureRows((pictures,) * batch, (1,) * batch)

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Cut the tiles into patches and put a placeless class token before each tile's."""
        told = self.told(request)
        patch = self.model.config.vision_config.patch_size
        cut = raster(told, patch)
        tiles = len(told.x)

        def led(values: Tensor, lead: Tensor) -> Tensor:
            parts = values.view(tiles, -1, *values.shape[1:])
            return torch.cat([lead.expand_as(parts[:, :1]), parts], dim=1).flatten(0, 1)

        nowhere = torch.tensor(torch.nan)
        images = cut.image.view(tiles, -1).nanmean(dim=1, keepdim=True)
        edges = led(cut.edges, nowhere)
        image = led(cut.image, images)
        return Boxes(edges, image, led(cut.view.float(), nowhere).nan_to_num(0).long())
