"""What a combination chose at each step, stored for the findings of a trace."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmhall.attention import Exit
from mmhall.strategies._step import Step


class StepRecord:
    """Values of each step of a single request."""

    def __init__(self) -> None:
        self._values: dict[int, Tensor] = {}

    def add(self, step: Step, values: Tensor) -> None:
        """Store the values of the first row, (rows, ...); a step that is decoded again replaces them."""
        self._values[step.t] = values[0]

    def by_token(self) -> Tensor:
        """Return the values of all steps, (S, ...) float32 on the CPU; (0,) where no step was stored."""
        steps = [self._values[t].float() for t in sorted(self._values)]
        return torch.stack(steps).cpu() if steps else torch.empty(0)


def layers_by_token(chosen: Tensor, exits: Sequence[Exit], depth: int) -> Tensor:
    """Return which layers' inputs were chosen for each token, (S, depth, 1): 1 chosen, 0 not, NaN no candidate.

    Args:
        chosen: Index of the chosen exit at each step, (S,).
        exits: The candidates. The state that leaves layer 19, which is the input of layer 20, is in row 20.
        depth: Number of decoder layers.
    """
    entered = torch.tensor([each.layer + 1 for each in exits])
    values = torch.full((len(chosen), depth, 1), torch.nan)
    values[:, entered] = 0.0
    values[torch.arange(len(chosen)), entered[chosen.long()]] = 1.0
    return values
