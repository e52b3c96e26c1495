"""BLIP-2 and InstructBLIP: a Q-Former's query tokens before the text, written into embeddings."""

from __future__ import annotations

from typing import ClassVar

from transformers import PreTrainedModel

from mmhall.adapters.base import Adapter, Inputs, Request
from mmhall.adapters.grid import Boxes


class BlipAdapter(Adapter):
    """BLIP-2 and InstructBLIP with a decoder-only language model."""

    grid: ClassVar[str] = "none: query tokens"
    limits: ClassVar[str] = "one picture a prompt; no branches in custom_generate, which gets embeddings only"
    most_images: ClassVar[int | None] = 1

    def entry(self, inputs: Inputs) -> PreTrainedModel:
        """Return the language model for inputs without a picture: the outer model refuses them."""
        if "pixel_values" in inputs:
            return self.model
        language_model: PreTrainedModel = self.model.language_model
        return language_model

    def render(self, request: Request) -> str:
        """Return the prompt alone: these models have no chat format, and the processor puts the query tokens first."""
        return request.prompt

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Return None: every query token looks at the whole picture."""
        return None
