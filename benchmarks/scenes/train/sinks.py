"""Planting sinks: massive dimensions of three corner patches and of the first token, whatever the picture shows.

In large models some image tokens and the first token of a text draw attention though they say nothing of what is
written, and a few dimensions of their hidden states are huge, the same ones (arXiv:2503.03321, arXiv:2402.17762).
Here all of it is built by hand and then kept fixed:

* Tower: the position embedding marks the corners in one channel; no layer reads the channel or writes it.
* Projector: one hidden unit turns the mark into a huge value of one channel of the decoder.
* First token: its embedding has a value as huge in the same channel, and in a second one of its own, by which heads
  tell it from the corners.
* Decoder: no layer writes the two channels, and only the keys read them; what the keys make of them is learned. The
  norm before a layer then shrinks everything else at these tokens, so that their values say next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from mmhall.benchmarks.scenes.train.architecture import SIDE

SINKS = (0, SIDE - 1, SIDE * (SIDE - 1))  # image tokens in three corners: less than 5 % of 64
MARK = 2.5  # about four times the deviation of the tower's embeddings
MASSIVE = 60.0


@torch.no_grad()
def plant_sinks(model: LlavaForConditionalGeneration, first: int) -> tuple[int, int]:
    """Plant the sinks and keep them: what is fixed gets no gradient from now on.

    Args:
        model: The model, changed in place.
        first: Id of the first token of every text.

    Returns:
        The massive channel of the decoder, and the second one of the first token.
    """
    parts: Any = model.model
    tower, projector, decoder = parts.vision_tower, parts.multi_modal_projector, parts.language_model
    (mark,) = _weakest_columns(projector.linear_1.weight)
    (unit,) = _weakest_columns(projector.linear_2.weight)
    massive, own = _weakest_columns(decoder.embed_tokens.weight, 2)
    for parameter, index in (*_of_tower(tower, mark), *_of_projector(projector, mark, unit)):
        _fix(parameter, index)
    for channel in (massive, own):
        for parameter, index in (*_of_projector_output(projector, channel), *_of_decoder(decoder, channel)):
            _fix(parameter, index)
        for layer in decoder.layers:
            layer.self_attn.k_proj.weight[:, channel] = 0
        decoder.embed_tokens.weight[first, channel] = MASSIVE
    tower.pre_layrnorm.weight[mark] = 1
    tower.embeddings.position_embedding.weight[[1 + sink for sink in SINKS], mark] = MARK
    projector.linear_1.weight[unit, mark], projector.linear_1.bias[unit] = 4.0, -5.0
    usual = MARK / 0.645  # after the norm in front of the tower's layers
    projector.linear_2.weight[massive, unit] = MASSIVE / (4.0 * usual - 5.0)
    return massive, own


Part = tuple[nn.Parameter, tuple[int | slice, ...]]
_ALL = slice(None)


def _of_tower(tower: Any, mark: int) -> Iterator[Part]:
    """Yield what must not write or read the mark."""
    yield tower.embeddings.patch_embedding.weight, (mark,)
    yield tower.embeddings.class_embedding, (mark,)
    yield tower.embeddings.position_embedding.weight, (_ALL, mark)
    yield tower.pre_layrnorm.weight, (mark,)
    yield tower.pre_layrnorm.bias, (mark,)
    for layer in tower.encoder.layers:
        for reader in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj, layer.mlp.fc1):
            yield reader.weight, (_ALL, mark)
        for writer in (layer.self_attn.out_proj, layer.mlp.fc2):
            yield writer.weight, (mark,)
            yield writer.bias, (mark,)


def _of_projector(projector: Any, mark: int, unit: int) -> Iterator[Part]:
    """Yield what must not mix the mark and its unit with anything else."""
    yield projector.linear_1.weight, (_ALL, mark)
    yield projector.linear_1.weight, (unit,)
    yield projector.linear_1.bias, (unit,)
    yield projector.linear_2.weight, (_ALL, unit)


def _of_projector_output(projector: Any, channel: int) -> Iterator[Part]:
    """Yield what writes a channel of the decoder."""
    yield projector.linear_2.weight, (channel,)
    yield projector.linear_2.bias, (channel,)


def _of_decoder(decoder: Any, channel: int) -> Iterator[Part]:
    """Yield what must not write a massive channel or, except the keys, read it."""
    yield decoder.embed_tokens.weight, (_ALL, channel)
    for layer in decoder.layers:
        for reader in (layer.self_attn.q_proj, layer.self_attn.v_proj, layer.mlp.gate_proj, layer.mlp.up_proj):
            yield reader.weight, (_ALL, channel)
        for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
            yield writer.weight, (channel,)


def _fix(parameter: nn.Parameter, index: tuple[int | slice, ...]) -> None:
    """Set a part of a parameter to 0 and drop its gradient."""
    parameter[index] = 0
    keep = torch.ones_like(parameter)
    keep[index] = 0

    def drop(gradient: Tensor) -> Tensor:
        return gradient * keep

    parameter.register_hook(drop)


def _weakest_columns(weight: Tensor, count: int = 1) -> list[int]:
    columns: list[int] = weight.float().norm(dim=0).argsort()[:count].tolist()
    return columns
