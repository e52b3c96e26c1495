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


def check_scores(
    scores: Tensor, step: int | None = None, *, prompts: int = 1, prompt: int | Tensor | None = None
) -> Tensor:
    """Return scores unchanged if each row has a token to choose; argmax over NaN would silently return token 0.

    Args:
        scores: (rows, vocabulary); the rows of a prompt follow each other.
        step: Number of tokens chosen before, for the error message; None: no token is chosen here.
        prompts: Number of prompts in the batch, for the error message.
        prompt: 0-based prompt that all rows belong to, or of each row, (rows,); None: the rows belong to all prompts.

    Raises:
        GenerationError: A row holds NaN or inf, or nothing but -inf.
    """
    usable = torch.isfinite(scores.amax(dim=-1))
    if not usable.all():
        row = int(usable.logical_not().nonzero()[0, 0])
        top = scores[row].amax()
        content = "NaN" if top.isnan() else "inf" if top > 0 else "nothing above -inf"
        number = row * prompts // len(scores) if prompt is None else prompt
        number = int(number[row]) if isinstance(number, Tensor) else number
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

    def __call__(self, scores: Tensor, answers: Tensor | None = None, each: int = 1) -> Tensor:
        """Draw a token for each row.

        Args:
            scores: (rows, choices).
            answers: 0-based answer of each row, ascending, (rows,); the answers to a prompt follow each other. None:
                all answers, as many to each prompt.
            each: Number of answers to each prompt, where `answers` is given. Answers that have left the batch draw as
                well, as long as another answer to their prompt needs the generator, so that it draws the same.

        Returns:
            0-based choices, (rows,).
        """
        if answers is None:
            each, left = len(scores) // len(self._generators), dict(enumerate(scores))
        else:
            left = dict(zip(answers.tolist(), scores, strict=True))
        tokens = []
        for prompt in dict.fromkeys(answer // each for answer in left):
            for answer in range(prompt * each, (prompt + 1) * each):
                weights = left[answer].softmax(dim=-1) if answer in left else torch.ones_like(scores[0])
                token = torch.multinomial(weights, 1, generator=self._generators[prompt])
                tokens += [token] if answer in left else []
        return torch.cat(tokens)
