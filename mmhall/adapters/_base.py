"""What a strategy may ask of a model, whatever its family."""

from __future__ import annotations

from typing import ClassVar

from mmhall.adapters._batch import PER_POSITION, Batch, Inputs, has_picture
from mmhall.adapters._grid import Boxes, Grid, Told, block_side, nowhere, raster, read_places, tell_places
from mmhall.adapters._messages import Request
from mmhall.adapters._variants import Variants

__all__ = ["PER_POSITION", "Adapter", "Batch", "Inputs", "Request", "has_picture"]


class Adapter(Variants):
    """Drives one loaded model: prompts in, spans and variants of inputs out, and places in the pictures.

    The generic part works from the model's config and processor; a family's subclass overrides what
    truly differs.
    """

    grid: ClassVar[str] = "none, unless each token is a patch of the vision tower"
    limits: ClassVar[str] = ""

    def places(self, request: Request, inputs: Inputs) -> Grid:
        """Tell where each image token of a request looks.

        Args:
            request: What was asked.
            inputs: What `inputs([request])` returned.
        """
        count, pictures = self.image_tokens(inputs), len(request.images)
        if count == 0:
            return nowhere(0, 0)
        boxes = self.boxes(request, inputs, count)
        return nowhere(count, pictures) if boxes is None else Grid.of(boxes, pictures)

    def told(self, request: Request) -> Told:
        """Tell which point of which picture each pixel shows that the model gets."""
        read = [self.inputs([Request(request.prompt, images)]) for images in tell_places(request.images)]
        black, white, told = (inputs["pixel_values"].flatten(0, -4) for inputs in read)
        return read_places(black, white, told, len(request.images))

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Give each of `count` image tokens its box; None: the tokens have no places."""
        told = self.told(request)
        side = block_side(told, count)
        patch = getattr(getattr(self.model.config, "vision_config", None), "patch_size", None)
        return raster(told, side) if side is not None and side == patch else None
