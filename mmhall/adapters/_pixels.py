"""Which rows of pixels belong to which prompt, in inputs that some other processor made."""

from __future__ import annotations

from torch import Tensor


def pixel_rows(count: int, placeholders: Tensor) -> list[int]:
    """Tell how many rows of pixels belong to each prompt of a batch, in proportion to its image tokens.

    Args:
        count: Rows of pixels.
        placeholders: Image tokens of the prompts, (batch, position) bool.

    Returns:
        As many for each prompt, or all in one where they cannot be told apart; they sum to `count`.
    """
    tokens = placeholders.sum(dim=1)
    if count == len(tokens):
        return [1] * count
    shares, total = count * tokens, tokens.sum()
    rows: list[int] = (shares // total).tolist()
    return rows if not (shares % total).any() else [count]
