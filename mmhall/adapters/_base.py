"""The adapter: interface between strategies and a model of any family."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mmhall.adapters._batch import PER_POSITION, Batch, Inputs, first_tokens, has_picture
from mmhall.adapters._grid import (
    Boxes,
    Grid,
    PixelOrigins,
    block_side,
    coordinate_pictures,
    decode_origins,
    raster,
    without_places,
)
from mmhall.adapters._messages import Request
from mmhall.adapters._variants import Variants
from mmhall.errors import ModelError

__all__ = ["PER_POSITION", "Adapter", "Batch", "Inputs", "Request", "first_tokens", "has_picture"]


class Adapter(Variants):
    """Interface of one loaded model: inputs, image positions, variants of inputs, and places in the pictures.

    This generic class uses the model's config and processor; the subclass of a family overrides what differs.

    Attributes:
        grid: Description of the places of image tokens, for documentation.
        limits: Description of limitations of the family, for documentation.
    """

    grid: ClassVar[str] = "none, unless each token is a patch of the vision tower"
    limits: ClassVar[str] = ""

    def places(self, request: Request, inputs: Inputs) -> Grid:
        """Return the place of each image token in the pictures of a request.

        Args:
            request: The request.
            inputs: Result of `inputs([request])`.
        """
        count, pictures = self.image_tokens(inputs), len(request.images)
        if count == 0:
            return without_places(0, 0)
        boxes = self.boxes(request, inputs, count)
        return without_places(count, pictures) if boxes is None else Grid.of(boxes, pictures)

    def pixel_origins(self, request: Request) -> PixelOrigins:
        """Return, for each pixel of the model's input, the point of the picture that it shows."""
        variants = [self.inputs([Request(request.prompt, images)]) for images in coordinate_pictures(request.images)]
        black, white, coordinates = (inputs["pixel_values"].flatten(0, -4) for inputs in variants)
        return decode_origins(black, white, coordinates, len(request.images))

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Return the boxes of `count` image tokens, or None where the tokens have no places."""
        origins = self.pixel_origins(request)
        side = block_side(origins, count)
        patch = getattr(getattr(self.model.config, "vision_config", None), "patch_size", None)
        return raster(origins, side) if side is not None and side == patch else None

    @property
    def patches(self) -> bool:
        """Whether a picture's image tokens are its patches in the vision tower, one for each, in the same order."""
        return False

    @property
    def merges_patches(self) -> bool:
        """Whether each image token is made of patches of its own, and `merge_patches` knows which."""
        return False

    def merge_patches(self, values: Tensor, inputs: Inputs) -> Tensor:
        """Average values of patches over those that each image token is made of.

        Args:
            values: A value for each patch, without a CLS token, in the order of the vision tower, (rows, patches).
            inputs: The batch whose pictures the tower has read.

        Returns:
            Values of the image tokens of all prompts, (tokens,); NaN: no patch, such as for a line break.

        Raises:
            ModelError: It is unknown of which patches image tokens are made.
        """
        raise ModelError(
            f"{self.model.config.model_type}: it is unknown of which patches of the vision tower an image token is made"
        )
