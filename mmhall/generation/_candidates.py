"""Combine, check and sample next-token scores: the parts that the sampling loop and searches share."""

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
    """Prefix errors of the block with the name of the strategy; by default of the model."""
    try:
        yield
    except (GenerationError, CompositionError) as error:
        raise type(error)(f"{name}: {error}") from error


def combine_scores(combine: Combine, step: Step) -> Tensor:
    """Combine the log-probabilities of the main rows and of each branch.

    Args:
        combine: The combination of a session.
        step: Its argument.

    Returns:
        Scores, (rows, vocabulary), on the level of logits, because a repetition penalty depends on it: on that of
        `combine.level`, which gets the step, or of the main logits where the combination has none.

    Raises:
        CompositionError: The combination returns another shape, which could be broadcast to wrong scores.
    """
    scores, shape = combine(step), step.main.shape
    if not isinstance(scores, Tensor) or scores.shape != shape:
        got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise CompositionError(f"`combine` must return scores of shape {tuple(shape)}, got {got}; correct it")
    level = getattr(combine, "level", None)
    return scores + (step.levels[0] if level is None else level(step))


def check_scores(scores: Tensor, step: int | None = None, *, prompts: int = 1, prompt: int | None = None) -> Tensor:
    """Return scores unchanged if each row has a token to choose; argmax over NaN would silently return token 0.

    Args:
        scores: (rows, vocabulary); the rows of a prompt follow each other.
        step: Number of tokens chosen before, for the error message; None: no token is chosen here.
        prompts: Number of prompts in the batch, for the error message.
        prompt: 0-based prompt that all rows belong to; None: the rows belong to all prompts.

    Raises:
        GenerationError: A row holds NaN or inf, or nothing but -inf.
    """
    usable = torch.isfinite(scores.amax(dim=-1))
    if not usable.all():
        row = int(usable.logical_not().nonzero()[0, 0])
        top = scores[row].amax()
        content = "NaN" if top.isnan() else "inf" if top > 0 else "nothing above -inf"
        number = row * prompts // len(scores) if prompt is None else prompt
        place = [f"prompt {number + 1} of {prompts}"] if prompts > 1 else []
        place += [] if step is None else [f"step {step}"]
        where = f"{', '.join(place)}: " if place else ""
        raise GenerationError(
            f"{where}the next-token scores hold {content}; try another dtype (float32, bfloat16) or weaker "
            "strategy options"
        )
    return scores


def keep_nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Rule out all but the smallest set of tokens with a probability, (rows, vocabulary); the best always stays."""
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    beyond = probabilities.cumsum(dim=-1) - probabilities >= top_p  # the tokens before it have this probability
    beyond[..., 0] = False
    return torch.full_like(scores, -torch.inf).scatter(-1, order, ordered.masked_fill(beyond, -torch.inf))


class TokenSampler:
    """Draws tokens with one random generator for each prompt, so that a prompt draws the same as alone."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        """Seed the generator of each prompt."""
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, scores: Tensor) -> Tensor:
        """Draw a token for each row, (rows, choices) to (rows,); the rows of a prompt follow each other."""
        rows = len(scores) // len(self._generators)
        tokens = [
            torch.multinomial(row.softmax(dim=-1), 1, generator=self._generators[index // rows])
            for index, row in enumerate(scores)
        ]
        return torch.cat(tokens)
