"""PaliGemma: no chat format, pictures first, bidirectional attention over the prompt."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters._messages import Request, only_text
from mmhall.adapters.tiled import MergedAdapter


class PaliGemmaAdapter(MergedAdapter):
    """PaliGemma and PaliGemma 2."""

    grid: ClassVar[str] = "patches of the squeezed picture"
    causal: ClassVar[bool] = False

    @property
    def chat(self) -> None:
        """None, as the family has no chat format."""

    def render(self, request: Request) -> str:
        """Return the prompt with one placeholder for each picture; the processor adds the rest of the format."""
        return "<image>" * len(request.images) + only_text(request, self.model.config.model_type)

    def read(self, request: Request, text: str) -> dict[str, Tensor]:
        """Run the processor; tokenise prompts without pictures, which it refuses, as start mark, prompt, line break."""
        if request.images:
            return super().read(request, text)
        read = self.tokenizer(f"{self.tokenizer.bos_token}{text}\n", return_tensors="pt", add_special_tokens=False)
        return {**read, "token_type_ids": torch.zeros_like(read["input_ids"])}

    def answer_values(self, key: str, prompt: Tensor, answer: Tensor) -> Tensor:
        """Mark the positions of an answer as causal."""
        return torch.ones_like(answer) if key == "token_type_ids" else super().answer_values(key, prompt, answer)
