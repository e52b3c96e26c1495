"""What is known about prompt positions, as columns of an attention call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmhall.attention.plan import Call


class Columns:
    """One value for each position of a prompt, laid out as each call's key columns; 0 for tokens written since.

    A sliding layer has dropped columns, joined rows have padding before them, and every step adds one. All
    layers of a kind share a step's layout, so it is kept until the next.
    """

    def __init__(self, values: Tensor) -> None:
        """Hold values of prompt positions, (B, T)."""
        self._values = values
        self._owners: Tensor | None = None
        self._held: dict[tuple[int, int], Tensor] = {}

    def __call__(self, call: Call) -> Tensor:
        """Return them as columns, (B, 1, 1, K); every row has its prompt's."""
        width = call.key.shape[2]
        layout = (call.offset, width)
        if layout not in self._held or self._owners is not call.owners:
            if len(self._held) > 1 or self._owners is not call.owners:  # full and sliding layers take turns
                self._held.clear()
            self._owners = call.owners
            length = self._values.shape[1]
            before = -min(call.offset, length)
            laid = call.each(nn.functional.pad(self._values, (before, width - length - before)))
            self._held[layout] = laid[:, None, None].to(call.key.device)
        return self._held[layout]


class Groups:
    """Several weights for each position of a prompt: to sum attention by them, and to scale it by their mixture.

    Both need one product of matrices, whatever the number of groups G.
    """

    def __init__(self, *values: Tensor) -> None:
        """Hold weights of prompt positions, (B, T) each."""
        self._values = torch.stack([part.float() for part in values], dim=1)
        self._held: tuple[int, Tensor | None, Tensor] | None = None

    def masses(self, call: Call, probs: Tensor) -> Tensor:
        """Sum attention weights, (B, H, R, K), by each group, (B, H, R, G)."""
        seen, weights = self._seen(call, probs)
        batch, heads, rows, width = seen.shape
        return torch.bmm(seen.reshape(batch, heads * rows, width), weights.transpose(1, 2)).view(batch, heads, rows, -1)

    def scale(self, call: Call, probs: Tensor, factors: Tensor) -> Tensor:
        """Multiply attention weights, in place, by 1 + the sum over groups of factor times weight.

        Args:
            call: The call.
            probs: (B, H, R, K).
            factors: (B, H, R, G).

        Returns:
            `probs`.
        """
        seen, weights = self._seen(call, probs)
        change = torch.bmm(factors.flatten(1, 2), weights).view_as(seen)
        seen.addcmul_(seen, change)
        return probs

    def _seen(self, call: Call, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns that hold prompt positions, and the weights of these positions, (B, G, columns)."""
        length = self._values.shape[2]
        first = min(max(0, call.offset), length)
        if self._held is None or self._held[0] != first or self._held[1] is not call.owners:
            self._held = first, call.owners, call.each(self._values[:, :, first:]).to(probs.device)
        return probs[..., first - call.offset : length - call.offset], self._held[2]
