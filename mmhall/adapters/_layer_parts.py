"""Parts of a decoder layer, for strategies that run them on states of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmhall.adapters._anatomy import SITES, site
from mmhall.attention import Call, Op, Visit
from mmhall.errors import ModelError

_NORMS = ("input_layernorm", "post_attention_layernorm")  # the second one stands before the MLP
_TOLERANCE = 32  # of a rounding error of the largest value
_PROJECTIONS = ("o_proj", "out_proj", "dense")


@dataclass(frozen=True, slots=True)
class LayerParts:
    """Parts of a layer that computes g = h + projection(heads), then g + mlp(mlp_norm(g)).

    The modules have the hooks of the layer; run them inside an op or an exit, where hooks are suspended.

    Attributes:
        attention_norm: Norm before attention, which reads attention_norm(h).
        projection: Output projection of the heads, from (..., H * Dv) to (..., hidden size).
        mlp_norm: Norm before the MLP.
        mlp: The MLP.
    """

    attention_norm: nn.Module
    projection: nn.Module
    mlp_norm: nn.Module
    mlp: nn.Module

    @classmethod
    def of(cls, layer: nn.Module, index: int, family: str) -> LayerParts:
        """Find the parts of a layer by the names that transformers uses.

        Raises:
            ModelError: A part is missing.
        """
        attention = site(layer, "attn", family)
        projection = next((name for name in _PROJECTIONS if hasattr(attention, name)), None)
        norms = [getattr(layer, name, None) for name in _NORMS]
        if projection is None or None in norms:
            missing = "output projection" if projection is None else "norm before attention and norm before the MLP"
            raise ModelError(f"{family}: no {missing} was found in layer {index}, a {type(layer).__name__}")
        return cls(norms[0], getattr(attention, projection), norms[1], site(layer, "mlp", family))  # type: ignore[arg-type]

    def mlp_update(self, states: Tensor) -> Tensor:
        """Return what the MLP adds to the residual stream g, (B, rows, hidden size): mlp(mlp_norm(g))."""
        output = self.mlp(self.mlp_norm(states))
        update: Tensor = output[0] if isinstance(output, tuple) else output
        return update.view_as(states)  # some experts return all rows as one list


class PartsCheck(Op):
    """Compares the parts of a layer with what the layer computes in a pass.

    Attributes:
        differing: What the parts do not reproduce, in words; until the layer is through, its attention.
    """

    sites = frozenset(SITES)

    def __init__(self, layer: int, parts: LayerParts) -> None:
        """Store the parts of one layer."""
        self.layers, self._parts = frozenset({layer}), parts
        self._seen: dict[str, Tensor] = {}
        self.differing = ["its attention"]

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        """Note the head outputs."""
        self._seen["heads"] = output.flatten(2)
        return output

    def see_states(self, visit: Visit) -> None:
        """Note the input of the layer."""
        self._seen["in"] = visit.states

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        """Note the updates, and compare when the layer is through."""
        self._seen[visit.site], self._seen[f"before {visit.site}"] = states, visit.source
        if visit.site == "out":
            self._compare(self._seen)
        return states

    def _compare(self, seen: Mapping[str, Tensor]) -> None:
        parts, summed = self._parts, seen["in"] + seen["attn"]
        pairs = {
            "its norm before attention": (parts.attention_norm(seen["in"]), seen["before attn"]),
            "the output projection of the heads": (parts.projection(seen["heads"]), seen["attn"]),
            "its norm before the MLP": (parts.mlp_norm(summed), seen["before mlp"]),
            "its sums": (summed + parts.mlp_update(summed), seen["out"]),
        }
        self.differing = [name for name, pair in pairs.items() if not _close(*pair)]


def _close(got: Tensor, wanted: Tensor) -> bool:
    return got.shape == wanted.shape and bool(
        (got - wanted).abs().max() <= _TOLERANCE * torch.finfo(wanted.dtype).eps * wanted.abs().max()
    )
