"""Constant added to yes, a control of yes/no benchmarks.

Paper     None of its own; arXiv:2504.10020 compares contrasts with a rule at the output, see `olm`.
Idea      The plain model with a shifted threshold, fitted on held-out questions. A method that this reaches ranks
          present and absent objects no better; it only says yes more, or less, often.
Formula   m = log sum exp z over the tokens of yes, minus the same for no
          at the first token of the answer s = z + shift for the tokens of yes, so that m + shift > 0 is yes
          fit: share "best": the shift with the highest accuracy; of several the smallest, then the positive one
               a share p: the shift between the k-th and the next largest m, k = p times the number of questions
Defaults  share "best"; to compare with a method, give its share of yes on held-out questions. A shift given by hand
          needs no fit.
Cost      None.
Differs   Tokens are all single ones that read yes or no, in any case and with any white space; the fit prints them.
          Greedy decoding takes the likeliest single token; `choose` adds up spellings, as the fit does. Where a share
          falls between equal margins, the smaller share is taken. Without a picture nothing is shifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.generation import first_token_scores, make_request
from mmhall.options import by_model
from mmhall.results.thresholds import Array, Flags, best_shift, shift_to_share
from mmhall.strategies import (
    CONTRAST,
    Fit,
    LearnedStrategy,
    Question,
    Session,
    Step,
    strategy as make_strategy,
    why_no_yes_no,
    yes_no_tokens,
)


@dataclass(frozen=True, kw_only=True)
class YesShift(LearnedStrategy):
    """Add a constant to yes at the first token.

    Attributes:
        shift: The constant in nats; negative values favour no, 0 changes nothing. Given by hand, nothing is fitted.
        share: What the fit aims at: "best", the highest accuracy, or a share of yes in [0, 1].
        artifact: The first 12 digits of the SHA-256 of the fitted artifact.
    """

    name: ClassVar[str] = "yes-shift"
    claims: ClassVar[frozenset[str]] = frozenset({CONTRAST})
    learns_from: ClassVar[str] = "questions"
    unless: ClassVar[str] = ", unless its shift is given"
    adjustable: ClassVar[frozenset[str]] = frozenset({"shift"})

    shift: float | None = by_model(0.0)
    share: str | float | None = by_model(
        "best",
        choices=("best",),
        also=(float, int),
        holds=lambda share: share == "best" or 0 <= share <= 1,
        expected='"best", or a share of yes in [0, 1]',
    )

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models whose tokenizer does not tell yes and no apart."""
        return why_no_yes_no(adapter)

    def for_fit(self) -> LearnedStrategy:
        """Return this strategy.

        Raises:
            OptionError: The constant is given.
        """
        self.check("shift", self.shift is None, "left out: a fit finds it")
        return self

    def fit(self, adapter: Adapter, questions: Sequence[Question], seed: int) -> Fit:
        """Fit the constant to the plain model's margins of yes over no; nothing is drawn."""
        tokens, plain = yes_no_tokens(adapter), make_strategy("greedy")
        inputs = (adapter.inputs([make_request(one.picture, one.text)]) for one in questions)
        scores = torch.cat([first_token_scores(adapter, one, plain) for one in inputs])
        margins: Array = tokens.margin(scores.double()).cpu().numpy()
        labels = np.array([question.is_yes for question in questions])
        assert self.share is not None
        shift = best_shift(margins, labels) if isinstance(self.share, str) else shift_to_share(margins, self.share)
        numbers: dict[str, Any] = {
            "shift": shift,
            "AUROC": auroc(margins, labels),
            "without shift": _outcome(margins, labels, 0.0),
            "with shift": _outcome(margins, labels, shift),
            **{f"tokens of {answer}": texts for answer, texts in tokens.texts(adapter).items()},
        }
        return Fit({"shift": torch.tensor(shift, dtype=torch.float64)}, numbers, {"shift": shift})

    def needs_artifact(self, adapter: Adapter) -> bool:
        """Whether the constant comes from a fit; not where it is given by hand."""
        return self.shift is None or self.artifact is not None

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Shift yes at the first token; without a picture return an empty session."""
        if not has_picture(inputs) or not self.shift:
            return Session()
        return Session(combine=_Shift(self.shift, yes_no_tokens(adapter).yes))


@dataclass(frozen=True, slots=True)
class _Shift:
    """Adds a constant to some tokens at the first step."""

    shift: float
    tokens: tuple[int, ...]

    def __call__(self, step: Step) -> Tensor:
        if step.t > 0:
            return step.main
        added = torch.zeros_like(step.main[0])
        added[list(self.tokens)] = self.shift
        return step.main + added


def auroc(margins: Array, labels: Flags) -> float:
    """Return the probability that a question with yes as right answer has the larger margin; equal ones count half."""
    ones, others = margins[labels][:, None], margins[~labels]
    return float(((ones > others) + 0.5 * (ones == others)).mean())


def _outcome(margins: Array, labels: Flags, shift: float) -> dict[str, float]:
    """Return the share of yes, and the accuracy, with a shift."""
    says_yes = margins + shift > 0
    return {"share of yes": float(says_yes.mean()), "accuracy": float((says_yes == labels).mean())}
