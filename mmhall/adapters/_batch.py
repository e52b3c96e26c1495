"""Inputs of a model for one or several requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import BoolTensor, Tensor

from mmhall.adapters._messages import Request

Inputs = Mapping[str, Tensor]

PER_POSITION = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask")


def has_picture(inputs: Inputs) -> bool:
    """Whether a batch has pictures, in every family as "pixel_values"; either all of its prompts have some, or none."""
    return "pixel_values" in inputs


def first_tokens(inputs: Inputs) -> BoolTensor:
    """Mark the first token of each prompt, after any padding, (batch, T)."""
    attended = inputs["attention_mask"].bool()
    return attended & (attended.cumsum(dim=1) == 1)  # type: ignore[return-value]


class Batch(dict[str, Tensor]):
    """Inputs of several requests as one batch, and of each request separately.

    Attributes:
        singles: Inputs of each request, without padding.
        requests: The requests.
        found: What a strategy has found about the requests before they are decoded, by name: tensors with one row for
            each, or sequences with one entry for each.
        model: The model that they were made for, as `Reader.title` names it; "": unknown.
    """

    def __init__(
        self, stacked: Inputs, singles: Sequence[Inputs], requests: Sequence[Request], model: str = ""
    ) -> None:
        """Store single inputs, the result of `Adapter.stack` for them, and for which model they are."""
        super().__init__(stacked)
        self.singles, self.requests = list(singles), list(requests)
        self.found: dict[str, Any] = {}
        self.model = model
