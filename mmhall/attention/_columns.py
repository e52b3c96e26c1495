"""Columns of an attention call: values of prompt positions laid out as columns, and the columns of the answer."""

from __future__ import annotations

import torch
from torch import LongTensor, Tensor, nn

from mmhall.attention._ops import Call
from mmhall.attention._rows import visible_columns


class Columns:
    """One value for each position of a prompt, laid out as the key columns of a call; 0 for tokens of the answer.

    A sliding layer has dropped columns, joined rows have padding before them, and every step adds one. All
    layers of a kind share the layout of a step, so it is cached until the next step.

    Make it in `prepare`, such as Columns(adapter.image_mask(inputs["input_ids"]).float()); in an op, columns(call) is
    (B, 1, 1, K), or (B, H, 1, K) where heads have values of their own.
    """

    def __init__(self, values: Tensor) -> None:
        """Store values of prompt positions, (B, T), or of heads and prompt positions, (B, H, T)."""
        self._values = values
        self._owners: Tensor | None = None
        self._cached: dict[tuple[int, int, torch.device], Tensor] = {}

    def __call__(self, call: Call) -> Tensor:
        """Return the values as columns, (B, 1|H, 1, K); every row has the values of its own prompt."""
        width, device = call.key.shape[2], call.key.device
        layout = (call.offset, width, device)
        if layout not in self._cached or self._owners is not call.owners:
            if len(self._cached) > 1 or self._owners is not call.owners:  # full and sliding layers take turns
                self._cached.clear()
            self._owners = call.owners
            length = self._values.shape[-1]
            before = -min(call.offset, length)
            columns = call.each(nn.functional.pad(self._values, (before, width - length - before)))
            self._cached[layout] = (columns if columns.ndim == 3 else columns[:, None])[:, :, None].to(device)
        return self._cached[layout]


class Groups:
    """Groups of prompt positions, each with a weight for every position, to sum and to scale attention.

    Computed elementwise, not as matrix products: the matrices are so thin that starting a CPU's threads takes longer.
    """

    def __init__(self, *values: Tensor) -> None:
        """Store the weights of each group, (B, T) each."""
        self._values = [part.float()[:, None, None] for part in values]
        self._cached: tuple[int, Tensor | None, torch.device, list[Tensor]] | None = None

    def masses(self, call: Call, probs: Tensor) -> tuple[Tensor, ...]:
        """Sum attention weights, (B, H, R, K), over each group, (B, H, R, 1) each."""
        columns, weights = self._columns(call)
        selected = probs[..., columns]
        return tuple((selected * part).sum(dim=-1, keepdim=True) for part in weights)

    def scale(self, call: Call, probs: Tensor, *factors: Tensor) -> Tensor:
        """Multiply attention weights, in place, by 1 + the sum over groups of factor times weight.

        Args:
            call: The attention call.
            probs: Attention weights, (B, H, R, K).
            *factors: Factors of the first groups, (B, H, R, 1) each; those of the other groups are 0.

        Returns:
            `probs`.
        """
        columns, weights = self._columns(call)
        selected, change = probs[..., columns], factors[0] * weights[0]
        for factor, part in zip(factors[1:], weights[1:], strict=False):
            change.addcmul_(factor, part)
        selected.addcmul_(selected, change)
        return probs

    def _columns(self, call: Call) -> tuple[slice, list[Tensor]]:
        """Return which columns hold prompt positions, and the weights of these positions, (B, 1, 1, columns) each."""
        length, device = self._values[0].shape[-1], call.key.device
        first = min(max(0, call.offset), length)
        cached = self._cached
        if cached is None or cached[0] != first or cached[1] is not call.owners or cached[2] != device:
            weights = [call.each(part[..., first:]).to(device) for part in self._values]
            self._cached = cached = first, call.owners, device, weights
        return slice(first - call.offset, length - call.offset), cached[3]


class AnswerColumns:
    """The key columns of a call that hold tokens of the answer: those after the prompt."""

    def __init__(self, length: int) -> None:
        """Store the length of the prompts, in positions, padding included."""
        self._length = length

    def first(self, call: Call) -> int:
        """Return the first of these columns; all later ones belong to the answer, too."""
        return min(max(0, self._length - call.offset), call.key.shape[2])

    def count(self, call: Call, rows: LongTensor) -> Tensor:
        """Count those that each row sees, (B|1, 1|H, R, 1) float32."""
        first = self.first(call)
        visible = visible_columns(call, rows)
        if visible is None:
            number = call.key.shape[2] - first
            return torch.full((1, 1, len(rows), 1), float(number), device=call.device)
        return visible[..., first:].sum(dim=-1, keepdim=True).float()
