"""What both searches share: combined scores, the check that a token can be chosen, draws that can be repeated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmhall.errors import GenerationError
from mmhall.strategies import Session


def combined(session: Session, logits: Sequence[Tensor]) -> Tensor:
    """Combine the logits of the main rows and of each branch.

    Args:
        session: Says how.
        logits: (rows, vocabulary) each.

    Returns:
        (rows, vocabulary); the main rows' own where the session combines nothing. A combination stands on the
        level of the main logits, since a repetition penalty is not invariant to a constant.
    """
    main = logits[0]
    if session.combine is None:
        return main
    return session.combine(*(part.log_softmax(dim=-1) for part in logits)) + main.logsumexp(dim=-1, keepdim=True)


def choosable(scores: Tensor) -> Tensor:
    """Return scores unchanged if a token can be chosen from every row; argmax over NaN would quietly return token 0.

    Raises:
        GenerationError: A row holds NaN, or nothing but -inf.
    """
    top = scores.amax(dim=-1)
    if not torch.isfinite(top).all():
        what = "NaN" if torch.isnan(scores).any() else "nothing above -inf"
        raise GenerationError(
            f"the next-token scores hold {what}; try another dtype (float32, bfloat16) or weaker strategy options"
        )
    return scores


class Draws:
    """Random draws of a batch: every prompt has a generator of its own, so that it draws what it would draw alone."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        """Seed each prompt's generator."""
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, scores: Tensor) -> Tensor:
        """Draw a token for each row, (rows, choices) to (rows,); the rows of a prompt follow each other."""
        each = len(scores) // len(self._generators)
        drawn = [
            torch.multinomial(row.softmax(dim=-1), 1, generator=self._generators[index // each])
            for index, row in enumerate(scores)
        ]
        return torch.cat(drawn)
