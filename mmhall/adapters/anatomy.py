"""Find a model's parts by what transformers says of every model, not of this family."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from mmhall.errors import ModelError

_KINDS = {"full_attention": "full", "sliding_attention": "sliding", "chunked_attention": "chunked"}


def find_decoder(model: PreTrainedModel) -> tuple[PreTrainedModel, list[nn.Module]]:
    """Find the stack of decoder layers under what the model calls its decoder."""
    for part in model.get_decoder().modules():
        layers = getattr(part, "layers", None)
        if isinstance(part, PreTrainedModel) and isinstance(layers, nn.ModuleList) and len(layers):
            return part, list(layers)
    raise ModelError(f"{model.config.model_type}: no stack of decoder layers was found under get_decoder()")


def kinds_of(config: Any, count: int) -> tuple[str, ...]:
    """Return what each decoder layer attends to: "full", "sliding", "chunked", "cross", or "linear" (nothing)."""
    types = getattr(config, "layer_types", None)
    if types is None:
        sliding = getattr(config, "sliding_window", None) is not None
        types = ["sliding_attention" if sliding else "full_attention"] * count
    cross = set(getattr(config, "cross_attention_layers", None) or ())
    return tuple("cross" if i in cross else _KINDS.get(kind, "linear") for i, kind in enumerate(types[:count]))


def find_image_token(model: PreTrainedModel) -> int:
    """Return the id that marks image positions."""
    token = getattr(model.config, "image_token_id", None)
    if token is None:
        token = getattr(model.config, "image_token_index", None)
    if not isinstance(token, int):
        raise ModelError(
            f"{model.config.model_type}: its config names no image_token_id, so image positions are unknown"
        )
    return token
