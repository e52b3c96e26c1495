"""Steering of hidden states: read the states of layers, and turn what their MLPs add towards a direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmhall.attention import EVERY, Op, Place, Visit
from mmhall.options import option

MLP_UPDATE = "the update of the MLP"  # the claim of strategies that edit what the MLPs add
FIRST_ROW = {"all": 0, "answer": -1}  # `Op.first_row` by the option `rows`


def rows_option() -> Any:
    """Declare the option `rows`, the positions whose states are edited: "all", or "answer".

    "answer" is the last position of the prompt, which predicts the first token, and every later one.
    """
    return option("all", choices=("all", "answer"))


def edit_rows(place: Place, states: Tensor, rows: str, edit: Callable[[Tensor], Tensor]) -> Tensor:
    """Edit the rows of states or head outputs that the option `rows` names; the others stay the same bit for bit.

    Args:
        place: The site, or the attention call.
        states: (B, Q, D), or head outputs, (B, Q, H, D).
        rows: "all" or "answer".
        edit: Takes float32 states, (B, R, ...); returns edited ones. It must treat rows separately.
    """
    if rows == "all":
        return edit(states.float()).to(states.dtype)
    newest = place.newest
    return states.index_copy(1, newest, edit(states[:, newest].float()).to(states.dtype))


def turn(states: Tensor, direction: Tensor, strength: float, *, gated: bool = False) -> Tensor:
    """Turn states towards a direction and keep their length: |x| N(N(x) + strength g N(v)), N(x) = x / |x|.

    (3, 4) is turned towards (-2, 0) with strength 0.08 to (2.7249, 4.1922), of length 5. A direction of length 0
    changes nothing.

    Args:
        states: x, (..., D) float32.
        direction: v, (..., D) float32.
        strength: Share of the direction.
        gated: Whether g is 1 + max(0, cos(x, -v)), more where the states point away; otherwise g is 1.
    """
    return _turn(states, normalize(direction, dim=-1), strength, gated)


def _turn(states: Tensor, unit: Tensor, strength: float, gated: bool) -> Tensor:
    """Turn states towards directions of length 1, or of length 0, which change nothing; few operations, for each layer.

    N(N(x) + s v) is N(x + s |x| v), and |x| (1 + max(0, cos(x, -v))) is |x| + max(0, -<x, v>).
    """
    length = states.norm(dim=-1, keepdim=True)
    added = length - (states * unit).sum(dim=-1, keepdim=True).clamp_max(0) if gated else length
    moved = torch.addcmul(states, added, unit, value=strength)
    turned: Tensor = moved * (length / moved.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(moved.dtype).tiny))
    return turned


class TurnUpdates(Op):
    """Turns what the MLPs add towards a direction of each layer, and keeps its length.

    Attributes:
        directions: By layer.
    """

    sites, kinds = frozenset({"mlp"}), EVERY

    def __init__(
        self, directions: Mapping[int, Tensor], strength: float, *, rows: str = "all", gated: bool = False
    ) -> None:
        """Set the directions.

        Args:
            directions: By layer, float32: (D,), or one for each prompt, (prompts, D).
            strength: As in `turn`.
            rows: As in `edit_rows`.
            gated: As in `turn`.
        """
        self.layers = frozenset(directions)
        self.directions = dict(directions)
        self._units = {layer: normalize(direction, dim=-1) for layer, direction in directions.items()}
        self._strength, self._rows, self._gated = strength, rows, gated
        self.first_row = FIRST_ROW[rows]

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        """Turn the rows of a layer, each prompt's towards its own direction."""
        unit = self._units[visit.layer].to(states.device)
        towards = unit if unit.ndim == 1 else visit.each(unit)[:, None]
        return edit_rows(visit, states, self._rows, lambda rows: _turn(rows, towards, self._strength, self._gated))

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return the length of the direction of each layer."""
        lengths = torch.full((depth, 1), torch.nan)
        for layer, direction in self.directions.items():
            lengths[layer] = direction.norm(dim=-1).max().cpu()
        return {"lengths of directions": lengths}


class ReadOutputs(Op):
    """Reads the outputs of all layers at the last rows of a prompt."""

    sites, kinds, projection = frozenset({"out"}), EVERY, True  # it reads after edits, and writes nothing

    def __init__(self, rows: int | None = 1) -> None:
        """Set how many of the last rows are averaged; None: all, for a single prompt."""
        self._rows, self._states = rows, dict[int, Tensor]()
        self._entering: Tensor  # the input of the first layer that is passed

    def see_states(self, visit: Visit) -> None:
        """Store the input of the first layer."""
        if not self._states:
            self._entering = self._mean(visit.states)

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        """Store the output of a layer; change nothing."""
        self._states[visit.layer] = self._mean(states)
        return states

    def _mean(self, states: Tensor) -> Tensor:
        return states[:, 0 if self._rows is None else -self._rows :].float().mean(dim=1)

    def states(self, depth: int) -> Tensor:
        """Return the means, (depth, prompts, D) float32.

        Prompts without a picture do not pass layers that attend to pictures only: the output of such a layer is its
        input.
        """
        found = [self._entering]
        for layer in range(depth):
            found.append(self._states.get(layer, found[-1]).to(found[0].device))
        return torch.stack(found[1:])
