"""Inputs of a model, and of several requests at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from mmhall.adapters._messages import Request

Inputs = Mapping[str, Tensor]

PER_POSITION = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask")


def has_picture(inputs: Inputs) -> bool:
    """Whether a batch has pictures; its prompts all have some or none has."""
    return "pixel_values" in inputs


class Batch(dict[str, Tensor]):
    """Inputs of several requests, and of each by itself.

    Attributes:
        singles: The inputs of each request, not padded to those of others.
        requests: What was asked.
    """

    def __init__(self, stacked: Inputs, singles: Sequence[Inputs], requests: Sequence[Request]) -> None:
        """Hold what `Adapter.stack` made of singles beside them."""
        super().__init__(stacked)
        self.singles, self.requests = list(singles), list(requests)
