"""Assignment of pixel rows to prompts, for inputs from another processor."""

from __future__ import annotations

from torch import Tensor


def pixel_rows(count: int, placeholders: Tensor) -> list[int]:
    """Return the number of pixel rows of each prompt of a batch, in proportion to its image tokens.

    Args:
        count: Number of pixel rows.
        placeholders: Image tokens of the prompts, (batch, position) bool.

    Returns:
        One number for each prompt, or a single number where rows cannot be assigned; they sum to `count`.
    """
    tokens = placeholders.sum(dim=1)
    if count == len(tokens):
        return [1] * count
    shares, total = count * tokens, tokens.sum()
    rows: list[int] = (shares // total).tolist()
    return rows if not (shares % total).any() else [count]
