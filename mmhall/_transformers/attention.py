"""SDPA as transformers calls it, and the attention function of a decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward as sdpa
from transformers.masking_utils import sdpa_mask

__all__ = ["attention_name", "register_attention", "sdpa", "set_attention"]


def register_attention(name: str, attention: Callable[..., Any]) -> None:
    """Register an attention function, with the mask function of SDPA.

    Without a mask function transformers would build no mask: padding and causality would be lost without an error.
    """
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, sdpa_mask)


def attention_name(decoder: PreTrainedModel) -> str:
    """Return the name of a decoder's attention function."""
    name: str = decoder.config._attn_implementation
    return name


def set_attention(decoder: PreTrainedModel, name: str) -> bool:
    """Set a decoder's attention function; return whether the decoder uses it. Other parts stay the same."""
    try:
        decoder.set_attn_implementation(name)
    except ValueError:  # the decoder has no replaceable attention
        return False
    return attention_name(decoder) == name
