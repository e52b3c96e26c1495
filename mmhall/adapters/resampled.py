"""Families whose image tokens are resampled from the whole picture, so that tokens have no place."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from transformers import PreTrainedModel

from mmhall.adapters._base import Adapter, Inputs
from mmhall.adapters._grid import Boxes
from mmhall.adapters._messages import Request, only_text


class ResampledAdapter(Adapter):
    """Idefics2: image tokens are the latents of a perceiver resampler."""

    causal: ClassVar[bool] = True
    grid: ClassVar[str] = "none: each token looks at the whole picture"

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Return None, as the tokens have no places."""
        return None


class BlipAdapter(ResampledAdapter):
    """BLIP-2 and InstructBLIP with a decoder-only language model: query tokens of a Q-Former before the text."""

    limits: ClassVar[str] = "one picture a prompt; not with custom_generate, which receives embeddings"
    most_images: ClassVar[int | None] = 1

    @property
    def can_split_prompt(self) -> bool:
        """False, as `generate` reads picture and prompt in one pass."""
        return False

    @property
    def generator(self) -> PreTrainedModel:
        """Inner language model, to which the outer model passes embeddings but no generation settings."""
        language_model: PreTrainedModel = self.model.language_model
        return language_model

    def model_for(self, inputs: Inputs) -> PreTrainedModel:
        """Return the language model for inputs without a picture, which the outer model does not accept."""
        return self.model if "pixel_values" in inputs else self.generator

    def read(self, request: Request, text: str) -> dict[str, Tensor]:
        """Run the processor; the Q-Former reads the prompt as the user typed it."""
        read = super().read(request, text)
        if "qformer_input_ids" in read:
            assert self.processor is not None
            tokenizer = self.processor.qformer_tokenizer  # type: ignore[attr-defined]
            question = tokenizer(request.conversation.question, split_special_tokens=True, return_tensors="pt")
            read |= {f"qformer_{key}": question[key] for key in ("input_ids", "attention_mask")}
        return read

    @property
    def chat(self) -> None:
        """None, as the family has no chat format."""

    def render(self, request: Request) -> str:
        """Return the prompt alone: there is no chat format, and the processor puts the query tokens first."""
        return only_text(request, self.model.config.model_type)
