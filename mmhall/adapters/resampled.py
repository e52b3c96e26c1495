"""Families whose image tokens are resampled from the whole picture: none has a place of its own."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from transformers import PreTrainedModel

from mmhall.adapters._base import Adapter, Inputs
from mmhall.adapters._grid import Boxes
from mmhall.adapters._messages import Request, only_text


class ResampledAdapter(Adapter):
    """Idefics2: the latents of a perceiver resampler."""

    causal: ClassVar[bool] = True
    grid: ClassVar[str] = "none: each token looks at the whole picture"

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Return None."""
        return None


class BlipAdapter(ResampledAdapter):
    """BLIP-2 and InstructBLIP with a decoder-only language model: a Q-Former's query tokens before the text."""

    limits: ClassVar[str] = "one picture a prompt; not in custom_generate, which is handed embeddings"
    most_images: ClassVar[int | None] = 1

    @property
    def can_split_prompt(self) -> bool:
        """Not: its `generate` reads picture and prompt at once."""
        return False

    @property
    def generator(self) -> PreTrainedModel:
        """The inner language model: the outer one hands it what it makes of the picture, and no settings of its own."""
        language_model: PreTrainedModel = self.model.language_model
        return language_model

    def model_for(self, inputs: Inputs) -> PreTrainedModel:
        """Return the language model for inputs without a picture: the outer model refuses them."""
        return self.model if "pixel_values" in inputs else self.generator

    def read(self, request: Request, text: str) -> dict[str, Tensor]:
        """Tokenise a request; the Q-Former reads the prompt as it was typed."""
        read = super().read(request, text)
        if "qformer_input_ids" in read:
            assert self.processor is not None
            tokenizer = self.processor.qformer_tokenizer  # type: ignore[attr-defined]
            own = tokenizer(request.conversation.question, split_special_tokens=True, return_tensors="pt")
            read |= {f"qformer_{key}": own[key] for key in ("input_ids", "attention_mask")}
        return read

    @property
    def chat(self) -> None:
        """Return None: the family has no chat format."""

    def render(self, request: Request) -> str:
        """Return the prompt alone: these models have no chat format, and the processor puts the query tokens first."""
        return only_text(request, self.model.config.model_type)
