"""SDPA as transformers calls it, and how a decoder is told which attention to use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward as sdpa
from transformers.masking_utils import sdpa_mask

__all__ = ["attention_name", "register_attention", "sdpa", "set_attention"]


def register_attention(name: str, attention: Callable[..., Any]) -> None:
    """Make an attention function known; its mask is SDPA's.

    A name without a mask function would get no mask at all: padding and causality would vanish without an error.
    """
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, sdpa_mask)


def attention_name(decoder: PreTrainedModel) -> str:
    """Return the name of the attention that a decoder uses."""
    name: str = decoder.config._attn_implementation
    return name


def set_attention(decoder: PreTrainedModel, name: str) -> bool:
    """Let a decoder use a registered attention; return whether it does. Parts outside the decoder keep theirs."""
    try:
        decoder.set_attn_implementation(name)
    except ValueError:  # it attends in a way of its own
        return False
    return attention_name(decoder) == name
