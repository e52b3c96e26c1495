"""What is known about prompt positions, as columns of an attention call."""

from __future__ import annotations

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
        self._held: dict[tuple[int, int, int], Tensor] = {}

    def __call__(self, call: Call) -> Tensor:
        """Return them as columns, (B, 1, 1, K); a prompt's are repeated for all of its rows."""
        width = call.key.shape[2]
        layout = (call.offset, width, len(call.query))
        if layout not in self._held:
            if len(self._held) > 1:  # full and sliding layers take turns
                self._held.clear()
            length = self._values.shape[1]
            before = -min(call.offset, length)
            laid = call.each(nn.functional.pad(self._values, (before, width - length - before)))
            self._held[layout] = laid[:, None, None].to(call.key.device)
        return self._held[layout]
