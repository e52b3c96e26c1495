"""Score answers with teacher forcing: the log-probability of each token, with and without the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.analysis._head_divergence import HeadDistances, HeadDivergence, HeadOutputs
from mmhall.analysis._modality_dominance import Masses, ModalityDominance
from mmhall.analysis._teacher_forcing import check_room, fit_answers, read_answer
from mmhall.answers import Uncertainty
from mmhall.attention import Op
from mmhall.generation import check_scores, forced_logprobs, name_in_errors
from mmhall.strategies import Strategy


@dataclass(frozen=True, slots=True)
class AnswerScores:
    """The plain model's scores of an answer.

    Attributes:
        uncertainty: Its certainty of each token.
        dominance: Attention to text and picture; None where `Uncertainty.image_shares` is.
        divergence: Dependence of each head's output on the picture; None without a picture, or if not asked for.
    """

    uncertainty: Uncertainty
    dominance: ModalityDominance | None
    divergence: HeadDivergence | None


def score(adapter: Adapter, inputs: Inputs, answers: Sequence[Sequence[int]]) -> list[Uncertainty]:
    """Score one answer for each prompt of a batch by the plain model.

    Args:
        adapter: The model.
        inputs: A batch from the adapter.
        answers: Token ids; may be empty.

    Raises:
        PromptError: Prompt and answer exceed the model's context.
        GenerationError: The model's scores are not finite.
    """
    if not any(answers):
        check_room(adapter, inputs, 0)
        pictured = () if has_picture(inputs) else None
        in_sequence = pictured if adapter.image_mask(inputs["input_ids"]).any() else None
        return [Uncertainty((), (), pictured, in_sequence, pictured) for _ in answers]
    return [scored.uncertainty for scored in score_answers(adapter, inputs, answers)]


def score_answers(
    adapter: Adapter,
    inputs: Inputs,
    answers: Sequence[Sequence[int]],
    *,
    heads: bool = False,
    watch: Sequence[Op] = (),
) -> list[AnswerScores]:
    """Score answers as `score` does, and return further measures of the same passes; not all may be empty.

    Args:
        adapter: The model.
        inputs: A batch from the adapter.
        answers: Token ids.
        heads: Also compare head outputs; those of every layer are held in memory between the two passes.
        watch: Further ops that read the pass with the picture.

    Raises:
        PromptError: As in `score`.
        GenerationError: As in `score`.
    """
    tokens = fit_answers(adapter, inputs, answers)
    width = tokens.shape[1]
    image = adapter.image_mask(inputs["input_ids"])
    masses = Masses(inputs["attention_mask"].bool(), image, width) if image.any() else None
    outputs = HeadOutputs(width) if heads and has_picture(inputs) else None
    distances = HeadDistances(outputs) if outputs is not None else None
    gain = divergence = None
    with torch.inference_mode():
        logprobs = _logprobs(adapter, adapter.append_answer(inputs, tokens), width, masses, outputs, *watch)
        of_tokens = _of_tokens(logprobs, tokens)
        entropy = -(logprobs.exp() * logprobs).nan_to_num(0).sum(dim=-1)
        if has_picture(inputs):
            bare = _logprobs(adapter, adapter.append_answer(adapter.without_image(inputs), tokens), width, distances)
            gain = of_tokens - _of_tokens(bare, tokens)
            divergence = torch.stack([jensen_shannon(*pair) for pair in zip(logprobs, bare, strict=True)])
    shares = masses.image.mean(dim=-1) if masses is not None else None

    def uncertainty(row: int) -> Uncertainty:
        parts = (of_tokens, entropy, gain, shares, divergence)
        values = [None if part is None else tuple(part[row, : len(answers[row])].tolist()) for part in parts]
        return Uncertainty(*values)  # type: ignore[arg-type]

    return [
        AnswerScores(
            uncertainty(row),
            masses.of(row, len(answer)) if masses is not None else None,
            distances.of(row, len(answer)) if distances is not None else None,
        )
        for row, answer in enumerate(answers)
    ]


def token_logprobs(adapter: Adapter, inputs: Inputs, answers: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
    """Return the plain model's log-probability of each token of answers, in nats: one pass over all.

    Args:
        adapter: The model.
        inputs: A batch from the adapter.
        answers: Token ids of one answer for each prompt; not all empty.

    Raises:
        PromptError: As in `score`.
        GenerationError: As in `score`.
    """
    tokens = fit_answers(adapter, inputs, answers)
    width = tokens.shape[1]
    with torch.inference_mode():
        logprobs = _of_tokens(_logprobs(adapter, adapter.append_answer(inputs, tokens), width), tokens).tolist()
    return [tuple(row[: len(answer)]) for row, answer in zip(logprobs, answers, strict=True)]


def score_with(
    adapter: Adapter, inputs: Inputs, answers: Sequence[Sequence[int]], method: Strategy
) -> list[tuple[float, ...]]:
    """Score one answer for each prompt of a batch by a strategy: the log-probability of each token, in nats.

    Args:
        adapter: The model.
        inputs: A batch from the adapter.
        answers: Token ids; none empty.
        method: The strategy, which chooses each token given those before it; -inf: it rules the token out.

    Raises:
        PromptError: Prompt and answer exceed the model's context.
        MmhallError: The model does not support the strategy.
    """
    tokens = fit_answers(adapter, inputs, answers)
    logprobs = forced_logprobs(adapter, inputs, method, tokens).tolist()
    return [tuple(row[: len(answer)]) for row, answer in zip(logprobs, answers, strict=True)]


def jensen_shannon(one: Tensor, other: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of two distributions, in nats: 0 where they are equal, at most ln 2.

    Args:
        one: Log-probabilities, (..., V).
        other: Log-probabilities, (..., V).
    """
    middle = torch.logaddexp(one, other) - math.log(2)
    parts = [(part.exp() * (part - middle)).nan_to_num(0).sum(dim=-1) for part in (one, other)]
    return (0.5 * (parts[0] + parts[1])).clamp_min(0)


def _of_tokens(logprobs: Tensor, tokens: Tensor) -> Tensor:
    return logprobs.gather(2, tokens[:, :, None])[:, :, 0]


def _logprobs(adapter: Adapter, inputs: Inputs, width: int, *watch: Op | None) -> Tensor:
    """Return the log-probabilities that predict each of the last `width` tokens, (batch, width, V)."""
    last = read_answer(adapter, inputs, width, [op for op in watch if op is not None])
    with name_in_errors():
        check_scores(last.flatten(0, 1), prompts=len(last))
    return last.log_softmax(dim=-1)
