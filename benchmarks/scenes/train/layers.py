"""Running the decoder layer by layer, and reading attention between: what losses on attention need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class States:
    """What the decoder computes for B rows of T positions.

    Attributes:
        inputs: Input of each layer, (B, T, width).
        last: Output of the final norm, (B, T, width).
        cos: Cosines of the rotary positions, (B, T, head width).
        sin: Their sines.
        mask: Additive attention mask, (B, 1, T, T).
    """

    inputs: tuple[Tensor, ...]
    last: Tensor
    cos: Tensor
    sin: Tensor
    mask: Tensor


@cache
def compiled(runs: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function or a module once."""
    faster: Callable[..., Any] = torch.compile(runs)
    return faster


def run_layers(language: nn.Module, embedded: Tensor, mask: Tensor, positions: Tensor) -> States:
    """Run a Llama decoder and keep the input of every layer.

    Args:
        language: The decoder.
        embedded: Embeddings, (B, T, width).
        mask: Additive attention mask, (B, 1, T, T).
        positions: Position ids, (B, T).
    """
    inputs, last, cos, sin = compiled(_run)(language, embedded, mask, positions)
    return States(tuple(inputs), last, cos, sin, mask)


def read_attention(layer: nn.Module, states: Tensor, rest: States, queries: Tensor) -> Tensor:
    """Compute the attention of some positions.

    Args:
        layer: A decoder layer.
        states: Its input, (B, T, width).
        rest: Positions and mask.
        queries: Positions that attend, (B, Q).

    Returns:
        Attention weights, (B, heads, Q, T) float32; rows sum to 1.
    """
    weights: Tensor = compiled(_attend)(layer, states, rest.cos, rest.sin, rest.mask, queries)
    return weights


def _attend(layer: Any, states: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, queries: Tensor) -> Tensor:
    attention = layer.self_attn
    normed = layer.input_layernorm(states)
    chosen = queries[..., None]
    asking = normed.gather(1, chosen.expand(-1, -1, normed.shape[-1]))
    query, key = (
        linear(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for linear, x in ((attention.q_proj, asking), (attention.k_proj, normed))
    )
    wide = chosen.expand(-1, -1, attention.head_dim)
    query, key = _rotate(query, cos.gather(1, wide), sin.gather(1, wide)), _rotate(key, cos, sin)
    scores = (query @ key.transpose(-1, -2)).float() * attention.scaling
    allowed = mask.gather(2, queries[:, None, :, None].expand(-1, -1, -1, mask.shape[-1]))
    return torch.softmax(scores + allowed.float(), dim=-1)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of components by the angle of their position (arXiv:2104.09864): (B, heads, T, head width)."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]


def _run(
    language: Any, embedded: Tensor, mask: Tensor, positions: Tensor
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    cos, sin = language.rotary_emb(embedded, position_ids=positions)
    hidden, inputs = embedded, []
    for layer in language.layers:
        inputs.append(hidden)
        hidden = layer(hidden, attention_mask=mask, position_embeddings=(cos, sin), position_ids=positions)
    return inputs, language.norm(hidden), cos, sin
