"""What both searches share: combined scores, the check that a token can be chosen, draws that can be repeated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmhall.errors import CompositionError, GenerationError
from mmhall.strategies import Session


def combined(session: Session, logits: Sequence[Tensor]) -> Tensor:
    """Combine the logits of the main rows and of each branch.

    Args:
        session: Says how.
        logits: (rows, vocabulary) each.

    Returns:
        (rows, vocabulary); the main rows' own where the session combines nothing. A combination stands on the level
        of logits, since a repetition penalty is not invariant to a constant: that of its `level`, which gets the logits'
        log-sum-exps, (rows, 1) each, or that of the main logits where it has none.

    Raises:
        CompositionError: The combination has another shape: broadcast, it would be scores of something else.
    """
    main = logits[0]
    if session.combine is None:
        return main
    sums = [part.logsumexp(dim=-1, keepdim=True) for part in logits]
    scores = session.combine(*(part - total for part, total in zip(logits, sums, strict=True)))
    if not isinstance(scores, Tensor) or scores.shape != main.shape:
        got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise CompositionError(f"`combine` must return scores of shape {tuple(main.shape)}, got {got}; correct it")
    level = getattr(session.combine, "level", None)
    return scores + (sums[0] if level is None else level(*sums))


def choosable(scores: Tensor, step: int | None = None) -> Tensor:
    """Return scores unchanged if a token can be chosen from every row; argmax over NaN would quietly return token 0.

    Args:
        scores: (rows, vocabulary).
        step: How many tokens were chosen before, for a refusal; None: nothing is chosen here.

    Raises:
        GenerationError: A row holds NaN or inf, or nothing but -inf.
    """
    usable = torch.isfinite(scores.amax(dim=-1))
    if not usable.all():
        row = int(usable.logical_not().nonzero()[0, 0])
        top = scores[row].amax()
        what = "NaN" if top.isnan() else "inf" if top > 0 else "nothing above -inf"
        at = f"row {row} of {len(scores)}, " if len(scores) > 1 else ""
        where = "" if step is None else f"{at}step {step}: "
        raise GenerationError(
            f"{where}the next-token scores hold {what}; try another dtype (float32, bfloat16) or weaker "
            "strategy options"
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
