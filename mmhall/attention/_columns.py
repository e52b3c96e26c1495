"""What is known about prompt positions, as columns of an attention call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmhall.attention._ops import Call


class Columns:
    """One value for each position of a prompt, laid out as each call's key columns; 0 for tokens written since.

    A sliding layer has dropped columns, joined rows have padding before them, and every step adds one. All
    layers of a kind share a step's layout, so it is kept until the next.
    """

    def __init__(self, values: Tensor) -> None:
        """Hold values of prompt positions, (B, T)."""
        self._values = values
        self._owners: Tensor | None = None
        self._held: dict[tuple[int, int, torch.device], Tensor] = {}

    def __call__(self, call: Call) -> Tensor:
        """Return them as columns, (B, 1, 1, K); every row has its prompt's."""
        width, device = call.key.shape[2], call.key.device
        layout = (call.offset, width, device)
        if layout not in self._held or self._owners is not call.owners:
            if len(self._held) > 1 or self._owners is not call.owners:  # full and sliding layers take turns
                self._held.clear()
            self._owners = call.owners
            length = self._values.shape[1]
            before = -min(call.offset, length)
            laid = call.each(nn.functional.pad(self._values, (before, width - length - before)))
            self._held[layout] = laid[:, None, None].to(device)
        return self._held[layout]


class Groups:
    """Several weights for each position of a prompt: to sum attention by them, and to scale it by their mixture.

    Elementwise, not as products of matrices: these are so thin that waking a CPU's threads for them takes longer.
    """

    def __init__(self, *values: Tensor) -> None:
        """Hold weights of prompt positions, (B, T) each."""
        self._values = [part.float()[:, None, None] for part in values]
        self._held: tuple[int, Tensor | None, torch.device, list[Tensor]] | None = None

    def masses(self, call: Call, probs: Tensor) -> tuple[Tensor, ...]:
        """Sum attention weights, (B, H, R, K), by each group, (B, H, R, 1) each."""
        columns, weights = self._seen(call)
        seen = probs[..., columns]
        return tuple((seen * part).sum(dim=-1, keepdim=True) for part in weights)

    def scale(self, call: Call, probs: Tensor, *factors: Tensor) -> Tensor:
        """Multiply attention weights, in place, by 1 + the sum over groups of factor times weight.

        Args:
            call: The call.
            probs: (B, H, R, K).
            *factors: Of the first groups, (B, H, R, 1) each; the others count 0.

        Returns:
            `probs`.
        """
        columns, weights = self._seen(call)
        seen, change = probs[..., columns], factors[0] * weights[0]
        for factor, part in zip(factors[1:], weights[1:], strict=False):
            change.addcmul_(factor, part)
        seen.addcmul_(seen, change)
        return probs

    def _seen(self, call: Call) -> tuple[slice, list[Tensor]]:
        """Return which columns hold prompt positions, and the weights of these positions, (B, 1, 1, columns) each."""
        length, device = self._values[0].shape[-1], call.key.device
        first = min(max(0, call.offset), length)
        held = self._held
        if held is None or held[0] != first or held[1] is not call.owners or held[2] != device:
            laid = [call.each(part[..., first:]).to(device) for part in self._values]
            self._held = held = first, call.owners, device, laid
        return slice(first - call.offset, length - call.offset), held[3]
