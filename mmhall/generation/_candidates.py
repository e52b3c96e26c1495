"""What both searches share: combined scores, the check that a token can be chosen, draws that can be repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmhall.errors import CompositionError, GenerationError
from mmhall.strategies import Step

if TYPE_CHECKING:
    from mmhall.strategies import Combine


@contextmanager
def name_in_errors(name: str = "the model") -> Iterator[None]:
    """Name the strategy, or the model where none is at work, in what goes wrong while tokens are chosen."""
    try:
        yield
    except (GenerationError, CompositionError) as error:
        raise type(error)(f"{name}: {error}") from error


def combine_scores(combine: Combine, step: Step) -> Tensor:
    """Combine the log-probabilities of the main rows and of each branch.

    Args:
        combine: Of a session.
        step: What there is to combine.

    Returns:
        (rows, vocabulary), on the level of logits, since a repetition penalty is not invariant to a constant: on that
        of the combination's `level`, which gets the step, or of the main logits where it has none.

    Raises:
        CompositionError: The combination has another shape: broadcast, it would be scores of something else.
    """
    scores, shape = combine(step), step.main.shape
    if not isinstance(scores, Tensor) or scores.shape != shape:
        got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise CompositionError(f"`combine` must return scores of shape {tuple(shape)}, got {got}; correct it")
    level = getattr(combine, "level", None)
    return scores + (step.levels[0] if level is None else level(step))


def check_scores(scores: Tensor, step: int | None = None, *, prompts: int = 1, prompt: int | None = None) -> Tensor:
    """Return scores unchanged if a token can be chosen from every row; argmax over NaN would quietly return token 0.

    Args:
        scores: (rows, vocabulary); the rows of a prompt follow each other.
        step: How many tokens were chosen before, for a refusal; None: nothing is chosen here.
        prompts: Of the batch, for a refusal.
        prompt: The only one the rows are of, by its 0-based index; None: they are of all.

    Raises:
        GenerationError: A row holds NaN or inf, or nothing but -inf.
    """
    usable = torch.isfinite(scores.amax(dim=-1))
    if not usable.all():
        row = int(usable.logical_not().nonzero()[0, 0])
        top = scores[row].amax()
        what = "NaN" if top.isnan() else "inf" if top > 0 else "nothing above -inf"
        number = row * prompts // len(scores) if prompt is None else prompt
        at = [f"prompt {number + 1} of {prompts}"] if prompts > 1 else []
        at += [] if step is None else [f"step {step}"]
        where = f"{', '.join(at)}: " if at else ""
        raise GenerationError(
            f"{where}the next-token scores hold {what}; try another dtype (float32, bfloat16) or weaker "
            "strategy options"
        )
    return scores


class TokenSampler:
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
