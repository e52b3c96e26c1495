"""Read hidden states out: next-token logits from states of any layer, also inside a pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from mmhall.attention._passes import suspended
from mmhall.errors import ModelError

Finish = Callable[[Tensor], Tensor]

_TOLERANCE = 32  # of a rounding error of the largest logit


class ReadOut:
    """Final norm and output head of a model, and what the model does to the logits after its head.

    A strategy calls it as `adapter.read_out(states)`, an early exit uses its parts.
    """

    def __init__(
        self,
        find_norm: Callable[[], nn.Module],
        head: nn.Module,
        compare: Callable[[], tuple[Tensor, Tensor]],
        cap: float | None,
    ) -> None:
        """Store the parts of a model; norm and finish are found when they are first needed.

        Args:
            find_norm: Returns the module between the last decoder layer and the head.
            head: Output head, which computes logits from normed states.
            compare: Runs the model once; returns the output of its head and its logits, same shape.
            cap: Soft cap of the logits in the model's config; None: there is none.
        """
        self._find_norm, self.head, self._compare, self._cap = find_norm, head, compare, cap

    @cached_property
    def norm(self) -> nn.Module:
        """Module between the last decoder layer and the head."""
        return self._find_norm()

    @cached_property
    def finish(self) -> Finish:
        """What the model does to the output of its head: nothing, a scale, or a soft cap.

        Raises:
            ModelError: The model does something else.
        """
        with torch.inference_mode(), suspended():
            return find_finish(*self._compare(), self._cap)

    def __call__(self, states: Tensor, *, norm: bool = True) -> Tensor:
        """Compute next-token logits as the model does from the output of its last layer.

        No op and no exit sees this; an op may call it inside a pass.

        Args:
            states: Hidden states, (..., hidden size).
            norm: Whether the states pass the final norm first.

        Returns:
            Logits, (..., vocabulary) float32.
        """
        finish = self.finish
        with suspended():
            logits: Tensor = self.head(self.norm(states) if norm else states)
        return finish(logits).to(states.device, torch.float32)


def find_finish(headed: Tensor, logits: Tensor, cap: float | None) -> Finish:
    """Find what a model does to the output of its head.

    Args:
        headed: Output of the head.
        logits: Logits of the model, same shape.
        cap: Soft cap in its config, or None.

    Raises:
        ModelError: The logits are neither this output, nor a multiple of it, nor its soft cap.
    """
    factor = float((headed.double() * logits.double()).sum() / headed.double().square().sum().clamp_min(1e-30))
    ways: list[Finish] = [lambda given: given, lambda given: given * factor]
    if cap is not None:
        ways.append(lambda given: torch.tanh(given / cap) * cap)
    errors = [float((way(headed).double() - logits.double()).abs().max()) for way in ways]
    if min(errors) <= _TOLERANCE * torch.finfo(headed.dtype).eps * float(logits.abs().max()):
        return ways[errors.index(min(errors))]
    raise ModelError(
        "the model changes the output of its head in a way that is neither a scale nor a soft cap, so states of inner "
        "layers cannot be read out; use another strategy or model"
    )
