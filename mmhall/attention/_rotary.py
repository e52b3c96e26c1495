"""The rotary embedding of a decoder, measured on the decoder itself, to turn queries and keys to other positions.

Families differ in which dimensions of a head turn, in which pairs, and along which axis of a position. One pass over
copies of one embedding shows all that: their values are equal, so attention gives the same output whatever its weights
are, and queries and keys of all layers differ by nothing but their positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mmhall.attention._ops import Call, Op
from mmhall.errors import ModelError

_FAR, _NEAR = 1000, 3  # positions that are compared with position 0
_CHANGING = ("dynamic", "longrope")  # kinds of rotary embedding whose frequencies depend on the length


@dataclass(frozen=True, slots=True, eq=False)
class Rotary:
    """A rotary embedding: each pair of dimensions of a query or key turns with its position.

    Attributes:
        frequencies: Radians for each position, (axes, pairs) float32; 0 on the axes along which a pair does not turn.
        interleaved: Whether pairs are neighbours, (0, 1), (2, 3), ...; else of P pairs, (0, P), (1, P + 1), ...
            Dimensions of a head after the first 2 P do not turn.
    """

    frequencies: Tensor
    interleaved: bool = False

    def angles(self, position_ids: Tensor) -> Tensor:
        """Return the angles of positions, (axes, ...) to (..., pairs); axes before the embedding's own are left out."""
        axes = self.frequencies.to(position_ids.device)
        own = position_ids[-len(axes) :].expand(len(axes), *position_ids.shape[1:]).float()
        return (own[..., None] * axes.view(len(axes), *[1] * (own.ndim - 1), -1)).sum(dim=0)

    def shift(self, distances: Tensor) -> Tensor:
        """Return the angles of a shift by the same distance along all axes, (...) to (..., pairs)."""
        return distances[..., None].float() * self.frequencies.sum(dim=0).to(distances.device)

    def turn(self, vectors: Tensor, angles: Tensor) -> Tensor:
        """Turn queries or keys, (..., D) float32, by angles, (..., pairs); either may broadcast."""
        pairs = self.frequencies.shape[1]
        turning, rest = vectors[..., : 2 * pairs], vectors[..., 2 * pairs :]
        first, second = (turning[..., ::2], turning[..., 1::2]) if self.interleaved else turning.chunk(2, dim=-1)
        cos, sin = angles.cos(), angles.sin()
        turned = first * cos - second * sin, second * cos + first * sin
        joined = torch.stack(turned, dim=-1).flatten(-2) if self.interleaved else torch.cat(turned, dim=-1)
        return torch.cat([joined, rest.expand(*joined.shape[:-1], -1)], dim=-1) if rest.shape[-1] else joined


class RecordVectors(Op):
    """Records the queries and the keys of each layer in one pass, (heads, Q, D) float32 each."""

    def __init__(self) -> None:
        self.vectors: list[Tensor] = []

    def remask(self, call: Call) -> None:
        """Record queries and keys; the mask stays."""
        self.vectors += [call.query[0].float().cpu(), call.key[0].float().cpu()]


def measure_rotary(decoder: PreTrainedModel, read: Callable[[dict[str, Any]], list[Tensor]]) -> Rotary:
    """Measure a decoder's rotary embedding, and check that its positions act in no other way.

    Args:
        decoder: The language model.
        read: Runs the decoder with some inputs, and returns what `RecordVectors` records.

    Raises:
        ModelError: Its positions are not those of a rotary embedding, the layers differ, or its frequencies change.
    """
    config: Any = decoder.config
    family = config.model_type
    parameters = getattr(config, "rope_parameters", None) or {}
    kind = parameters.get("rope_type", "default")
    tables = [part.inv_freq for part in decoder.modules() if isinstance(getattr(part, "inv_freq", None), Tensor)]
    if not tables or kind in _CHANGING:
        why = (
            f"that of kind {kind!r} changes with the length" if tables else "it has none, or one for each kind of layer"
        )
        raise ModelError(f"{family}: its rotary embedding cannot be turned to other positions: {why}")
    frequencies = tables[0].detach().float().cpu()
    axes = 3 if "mrope_section" in parameters else 1
    position_ids = torch.zeros(axes, 1, axes + 2, dtype=torch.long)
    position_ids[range(axes), 0, range(1, axes + 1)] = _FAR  # one token far along each axis
    position_ids[:, 0, -1] = _NEAR
    weights = decoder.get_input_embeddings().weight
    drawn = torch.randn(weights.shape[1], generator=torch.Generator().manual_seed(0)) * weights.float().std().cpu()
    embeddings = drawn.to(weights.device, weights.dtype).expand(1, axes + 2, -1)
    given = position_ids if axes > 1 else position_ids[0]
    vectors = read({"inputs_embeds": embeddings, "position_ids": given.to(weights.device)})
    tolerance = 1e-3 if weights.dtype == torch.float32 else 4e-2
    for interleaved in (False, True):
        rotary = _fit_axes(frequencies, interleaved, axes, vectors)
        if all(_explains(rotary, position_ids, part, tolerance) for part in vectors):
            return rotary
    raise ModelError(
        f"{family}: its queries and keys do not turn with their positions as those of a rotary embedding do in all "
        "layers, so they cannot be turned to other positions"
    )


def _fit_axes(frequencies: Tensor, interleaved: bool, axes: int, vectors: list[Tensor]) -> Rotary:
    """Find along which axis each pair turns: the token far along that axis shows it."""
    pairs, turning = len(frequencies), torch.zeros(axes, len(frequencies))
    every = Rotary(frequencies[None], interleaved)
    for axis in range(axes):
        still, turned = torch.zeros(pairs), torch.zeros(pairs)
        for part in vectors:
            first, found = part[:, 0], part[:, axis + 1]
            still += _by_pair(found - first, every)
            turned += _by_pair(found - every.turn(first, every.shift(torch.tensor(_FAR))), every)
        turning[axis] = (turned < still) | (axes == 1)
    return Rotary(frequencies * turning, interleaved)


def _by_pair(errors: Tensor, rotary: Rotary) -> Tensor:
    """Sum the squares of errors, (heads, D), over heads and over the two dimensions of each pair."""
    squares = errors.square().sum(dim=0)[: 2 * rotary.frequencies.shape[1]]
    return squares.view(-1, 2).sum(dim=1) if rotary.interleaved else squares.view(2, -1).sum(dim=0)


def _explains(rotary: Rotary, position_ids: Tensor, vectors: Tensor, tolerance: float) -> bool:
    """Whether the vectors of all tokens, (heads, Q, D), are that of the first one, turned to their positions."""
    if vectors.shape[-1] < 2 * rotary.frequencies.shape[1]:
        return False
    predicted = rotary.turn(vectors[:, :1], rotary.angles(position_ids[:, 0]))
    return bool((predicted - vectors).norm() <= tolerance * vectors.norm())
