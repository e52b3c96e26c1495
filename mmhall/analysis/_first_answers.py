"""First tokens of answers to yes/no questions: how strategies change accuracy, margins and entropies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmhall.adapters import Adapter
from mmhall.generation import first_token_scores, make_request
from mmhall.strategies import Question, Strategy, yes_no_tokens

OBJECTIVES = ("accuracy", "margin", "entropy")
_AT_ONCE = 4  # questions in a batch


@dataclass(frozen=True)
class FirstAnswers:
    """What strategies predict for the first token of answers to questions, M strategies and N questions.

    Attributes:
        margins: Log-odds of the right answer against the other in nats, (M, N) float64.
        entropies: Entropy of the next-token distribution in nats, (M, N) float64.
    """

    margins: Tensor
    entropies: Tensor

    def objective(self, by: str) -> Tensor:
        """Return what is to be large, (M,): share of right answers, mean margin, or minus the mean entropy.

        Args:
            by: "accuracy", "margin" or "entropy".
        """
        values = {"accuracy": (self.margins > 0).double(), "margin": self.margins, "entropy": -self.entropies}
        return values[by].mean(dim=1)


def first_answers(
    adapter: Adapter, questions: Sequence[Question], methods: Sequence[Strategy], floor: float = -100.0
) -> FirstAnswers:
    """Ask questions with strategies, and compute margins and entropies at the first token.

    Args:
        adapter: The model.
        questions: The questions.
        methods: The strategies.
        floor: Log-probability, in nats, of a token that a strategy rules out.

    Raises:
        ModelError: The tokenizer does not tell yes and no apart.
    """
    tokens, margins, entropies = yes_no_tokens(adapter), list[Tensor](), list[Tensor]()
    for start in range(0, len(questions), _AT_ONCE):
        part = questions[start : start + _AT_ONCE]
        inputs = adapter.inputs([make_request(question.picture, question.text) for question in part])
        scores = [first_token_scores(adapter, inputs, method).double().log_softmax(dim=-1) for method in methods]
        sign = torch.tensor([1.0 if question.is_yes else -1.0 for question in part], dtype=torch.float64)
        margins.append(torch.stack([tokens.margin(one.clamp_min(floor)).cpu() * sign for one in scores]))
        entropies.append(torch.stack([_entropy(one).cpu() for one in scores]))
    return FirstAnswers(torch.cat(margins, dim=1), torch.cat(entropies, dim=1))


def gains_of_heads(
    adapter: Adapter,
    questions: Sequence[Question],
    alone: Callable[[str], Strategy],
    neutral: Callable[[str], Strategy],
    among: Tensor,
    by: str,
) -> Tensor:
    """Measure by how much a strategy raises an objective when it acts in one head, (layers, heads) float64.

    Args:
        adapter: The model.
        questions: The questions, each read once for each head and each layer.
        alone: Returns the strategy that acts in one head, from a text such as "16.29".
        neutral: Returns a strategy that computes what `alone` does and changes nothing; the gain is over it, because
            rounding alone changes objectives.
        among: Heads to measure, (layers, heads) bool; the others get 0.
        by: As in `FirstAnswers.objective`.
    """
    layers = among.any(dim=1).nonzero()[:, 0].tolist()
    methods = [alone(f"{layer}.{head}") for layer, head in among.nonzero().tolist()]
    plain = [neutral(f"{layer}.{int(among[layer].nonzero()[0])}") for layer in layers]
    values = first_answers(adapter, questions, [*plain, *methods]).objective(by)
    gains = torch.zeros(among.shape, dtype=torch.float64)
    gains[among] = values[len(plain) :] - values[: len(plain)].repeat_interleave(among[layers].sum(dim=1))
    return gains


def _entropy(scores: Tensor) -> Tensor:
    """Return the entropy of the distribution that scores give, (batch, vocabulary) to (batch,), in nats."""
    logs = scores.log_softmax(dim=-1)
    return -(logs.exp() * logs.clamp_min(torch.finfo(logs.dtype).min)).sum(dim=-1)
