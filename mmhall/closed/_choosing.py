"""Choose among given answers: score them with the picture, and take out the prior without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, check_text, has_picture
from mmhall.answers import Choice, Usage
from mmhall.closed._calibration import MODES, SMOOTHING, Calibration, calibrate, smooth
from mmhall.closed._domain import DomainContext, read_domain_context
from mmhall.closed._likelihood import COMPAT_TEMPERATURE, SCORINGS, TOP, Labels, Scorer, make_scorer
from mmhall.errors import OptionError, UnknownNameError
from mmhall.generation import Images, Prompt, make_requests, measure
from mmhall.options import Configured, by_model, option
from mmhall.strategies import (
    DRAWS,
    PICTURE_FREE_EXPECTED,
    Strategy,
    picture_free_inputs,
    picture_free_kinds,
    strategy as make_strategy,
)

OPTIONS = ("mode", "smoothing", "scoring", "temperature", "seed", "draw", "strategy")


def choose_answers(
    adapter: Adapter,
    requests: Sequence[tuple[Images, Prompt]],
    choices: Sequence[str],
    calibrate: str | Calibration | DomainContext | None,
    options: Mapping[str, Any],
) -> list[Choice]:
    """Choose an answer for each request in one batch; arguments and errors as in `LVLM.choose_batch`."""
    choosing = make_choosing(choices, calibrate, options)
    for choice in choosing.choices:
        check_text("a choice", choice)
    prepared = make_requests(requests)
    if not prepared:
        return []
    with measure(adapter.device) as measured:
        inputs = adapter.inputs(prepared)
        scores = choosing.score(adapter, inputs)
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    seconds = measured.seconds / len(lengths)
    return [scores.choice(row, Usage(seconds, length, 0, measured.peak_bytes)) for row, length in enumerate(lengths)]


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """The scores of all choices in a batch.

    Attributes:
        choices: The answers to choose from.
        scores: Log-probability of each choice in nats over the temperature, (batch, choices) float64.
        free: The prior, (batch, choices), rows sum to 1; None: there is no calibration.
        calibrated: The probabilities without the prior, (batch, choices); the softmax of `scores` where none is taken
            out.
        methods: How the choices of each row were scored.
        calibrations: How each row was calibrated; None: not at all.
        temperature: What divides scores.
    """

    choices: tuple[str, ...]
    scores: Tensor
    free: Tensor | None
    calibrated: Tensor
    methods: tuple[str, ...]
    calibrations: tuple[str | None, ...]
    temperature: float

    def choice(self, row: int, usage: Usage) -> Choice:
        """Return the choice of one row, 0-based."""

        def of_row(values: Tensor) -> tuple[float, ...]:
            return tuple(values[row].tolist())

        return Choice(
            choice=self.choices[int(self.calibrated[row].argmax())],
            choices=self.choices,
            probabilities=of_row(self.scores.softmax(dim=-1)),
            calibrated=of_row(self.calibrated),
            free=of_row(self.free) if self.free is not None else None,
            scores=of_row(self.scores),
            method=self.methods[row],
            calibration=self.calibrations[row],
            usage=usage,
            temperature=self.temperature,
        )


def _one_of(values: Sequence[str]) -> Any:
    """Declare an option that has one of some values, by default the first."""
    return option(values[0], choices=tuple(values), expected=" or ".join(map(repr, values)))


@dataclass(frozen=True, slots=True)
class Choosing(Configured):
    """The options of a choice; see `LVLM.choose`."""

    name: ClassVar[str] = "choose"

    choices: tuple[str, ...]
    calibrate: str | Calibration | DomainContext | None = None
    mode: str = _one_of(MODES)
    smoothing: float = option(SMOOTHING, low=0, expected="a number >= 0")
    scoring: str = _one_of(SCORINGS)
    temperature: float | None = by_model(1.0, holds=lambda value: value > 0, expected="a number > 0")
    seed: int = option(0, low=0, high=2**63 - 1, expected="an integer from 0 to 2**63 - 1")
    draw: str = _one_of(DRAWS)
    strategy: Strategy | None = None

    def __post_init__(self) -> None:
        """Check each option, and options that exclude each other."""
        normalised = [choice.strip()[:1].lower() + choice.strip()[1:] for choice in self.choices]
        distinct = len(set(normalised)) == len(normalised) >= 2
        expected = "at least two texts, none empty, none twice, whatever the case of their first letters"
        self.check("choices", distinct and all(normalised), expected)
        Configured.__post_init__(self)
        if isinstance(self.calibrate, str):
            object.__setattr__(self, "calibrate", read_domain_context(self.calibrate) or self.calibrate)
        if isinstance(self.calibrate, Calibration):
            self._check_calibration(self.calibrate)
        elif self.calibrate is not None and not isinstance(self.calibrate, DomainContext):
            usable = isinstance(self.calibrate, str) and bool(picture_free_kinds(self.calibrate))
            self.check("calibrate", usable, f'{PICTURE_FREE_EXPECTED}; "words"; a Calibration; or None')
        if self.strategy is not None:
            self.check("calibrate", self.calibrate is None, "None with a strategy: the prior is the plain model's")

    def _check_calibration(self, fitted: Calibration) -> None:
        if fitted.choices != self.choices:
            raise OptionError("choose", "calibrate", fitted.choices, f"fitted on the choices {self.choices}")
        same = fitted.temperature == self.divisor
        self.check("temperature", same, f"that of the calibration, {fitted.temperature}")

    @property
    def divisor(self) -> float:
        """The temperature in force; by default that of the authors for "compat", else 1."""
        default = COMPAT_TEMPERATURE if self.scoring == "compat" else 1.0
        return default if self.temperature is None else self.temperature

    def scorer(self, adapter: Adapter) -> Scorer:
        """Return how the choices are scored.

        Raises:
            OptionError: `scoring`, the strategy or the fitted calibration needs another way of scoring.
            PromptError: The tokenizer cannot write a choice.
        """
        scorer = make_scorer(adapter, self.choices, self.scoring, self.divisor)
        if self.strategy is not None:
            if not isinstance(scorer, Labels):
                expected = f"None for choices that are no single tokens, such as {self.choices[0]!r}"
                raise OptionError("choose", "strategy", str(self.strategy), expected)
            scorer = replace(scorer, strategy=self.strategy)
        if isinstance(self.calibrate, Calibration) and self.calibrate.method != scorer.method:
            raise OptionError("choose", "scoring", self.scoring, f"that of the calibration, {self.calibrate.method!r}")
        return scorer

    def score(self, adapter: Adapter, inputs: Inputs) -> ChoiceScores:
        """Score the choices for a batch, and calibrate them where there are pictures."""
        scorer = self.scorer(adapter)
        scores, lost = _with_fallback(scorer, adapter, inputs)
        plain, top = scores.softmax(dim=-1), _top(scorer)
        reason = "left by the strategy" if self.strategy is not None else f"among the {top} likeliest tokens"
        methods = tuple(f"labels: none {reason}" if row else scorer.method for row in lost)
        if self.calibrate is None or not has_picture(inputs):
            return ChoiceScores(self.choices, scores, None, plain, methods, (None,) * len(plain), self.divisor)
        prior = self._prior(adapter, inputs, scorer).expand_as(plain)
        kept = lost | (prior == 0).any(dim=-1) if top == TOP else lost  # as the authors' multiple-choice script does
        divisors = torch.where(kept[:, None], 1.0, prior)
        calibrated = torch.where(kept[:, None], plain, calibrate(plain, divisors, self.mode, self.smoothing))
        names = tuple(None if row else f"{self.mode} {self.calibrate}" for row in kept)
        return ChoiceScores(self.choices, scores, prior, calibrated, methods, names, self.divisor)

    def _prior(self, adapter: Adapter, inputs: Inputs, scorer: Scorer) -> Tensor:
        """Return the choices' probabilities without the picture, (batch or 1, choices), rows sum to 1."""
        if isinstance(self.calibrate, Calibration):
            return torch.tensor([self.calibrate.free], dtype=torch.float64)
        if isinstance(self.calibrate, DomainContext):
            return smooth(self.calibrate.prior(adapter, inputs, scorer), 0)
        assert self.calibrate is not None
        kinds = picture_free_kinds(self.calibrate)
        scores = [scorer(adapter, picture_free_inputs(adapter, inputs, kind, self.seed, self.draw)) for kind in kinds]
        total = torch.stack(scores).logsumexp(dim=0)
        top = total.amax(dim=-1, keepdim=True)
        return smooth((total - top).exp().nan_to_num(0), 0)  # long texts: far below what a float can hold


def _top(scorer: Scorer) -> int | None:
    return scorer.top if isinstance(scorer, Labels) else None


def _with_fallback(scorer: Scorer, adapter: Adapter, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return scores, (batch, choices), and the rows with no choice among the likeliest tokens, (batch,) bool."""
    scores = scorer(adapter, inputs)
    lost = (scores == -torch.inf).all(dim=-1)
    if lost.any() and isinstance(scorer, Labels):
        scores = torch.where(lost[:, None], replace(scorer, top=None, strategy=None)(adapter, inputs), scores)
    return scores, lost


def make_choosing(
    choices: Sequence[str], calibrate: str | Calibration | DomainContext | None, options: Mapping[str, Any]
) -> Choosing:
    """Build and check the options of a choice.

    Raises:
        UnknownNameError: There is no such option.
        OptionError: The choices or an option are unusable.
    """
    for name in options:
        if name not in OPTIONS:
            raise UnknownNameError("option of choose", name, OPTIONS)
    if isinstance(choices, str) or not isinstance(choices, Sequence) or not all(isinstance(c, str) for c in choices):
        raise OptionError("choose", "choices", choices, 'a sequence of texts, such as ("yes", "no")')
    spec = options.get("strategy")
    method = None if spec is None else make_strategy(spec)
    return Choosing(tuple(choices), calibrate, **{**options, "strategy": method})
