"""Choose among given answers: score them with the picture, and take out what the model would say without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.answers import Choice, Usage
from mmhall.closed._calibration import MODES, SMOOTHING, Calibration, calibrate, smooth
from mmhall.closed._likelihood import COMPAT_TEMPERATURE, SCORINGS, TOP, Labels, Scorer, make_scorer
from mmhall.errors import OptionError, UnknownNameError
from mmhall.strategies import (
    DRAWS,
    PICTURE_FREE_EXPECTED,
    Strategy,
    picture_free_inputs,
    picture_free_kinds,
    strategy as make_strategy,
)

OPTIONS = ("mode", "smoothing", "scoring", "temperature", "seed", "draw", "strategy")


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """What was found for a batch.

    Attributes:
        choices: What there was to choose from.
        scores: Log-probability of each choice in nats over the temperature, (batch, choices) float64.
        free: The prior, (batch, choices), rows sum to 1; None: there is no calibration.
        calibrated: (batch, choices); where nothing was taken out, the softmax of `scores`.
        methods: How choices were scored, for each row.
        calibrations: What was done about the prior, for each row; None: nothing.
        temperature: What divides scores.
    """

    choices: tuple[str, ...]
    scores: Tensor
    free: Tensor | None
    calibrated: Tensor
    methods: tuple[str, ...]
    calibrations: tuple[str | None, ...]
    temperature: float

    def of(self, row: int, usage: Usage) -> Choice:
        """Return one row's."""

        def told(values: Tensor) -> tuple[float, ...]:
            return tuple(values[row].tolist())

        return Choice(
            choice=self.choices[int(self.calibrated[row].argmax())],
            choices=self.choices,
            probabilities=told(self.scores.softmax(dim=-1)),
            calibrated=told(self.calibrated),
            free=told(self.free) if self.free is not None else None,
            scores=told(self.scores),
            method=self.methods[row],
            calibration=self.calibrations[row],
            usage=usage,
            temperature=self.temperature,
        )


@dataclass(frozen=True, slots=True)
class Choosing:
    """How to choose; see `LVLM.choose`."""

    choices: tuple[str, ...]
    calibrate: str | Calibration | None = None
    mode: str = MODES[0]
    smoothing: float = SMOOTHING
    scoring: str = SCORINGS[0]
    temperature: float | None = None
    seed: int = 0
    draw: str = DRAWS[0]
    strategy: Strategy | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        alike = [choice.strip()[:1].lower() + choice.strip()[1:] for choice in self.choices]
        if len(alike) < 2 or not all(alike) or len(set(alike)) < len(alike):
            expected = "at least two texts, none empty, none twice, whatever the case of their first letters"
            raise OptionError("choose", "choices", self.choices, expected)
        if self.calibrate is not None and not isinstance(self.calibrate, Calibration):
            if not isinstance(self.calibrate, str) or not picture_free_kinds(self.calibrate):
                raise OptionError(
                    "choose", "calibrate", self.calibrate, f"{PICTURE_FREE_EXPECTED}; a Calibration; or None"
                )
        elif self.calibrate is not None and self.calibrate.choices != self.choices:
            raise OptionError("choose", "calibrate", self.calibrate.choices, f"fitted on the choices {self.choices}")
        if self.mode not in MODES:
            raise OptionError("choose", "mode", self.mode, " or ".join(map(repr, MODES)))
        if self.scoring not in SCORINGS:
            raise OptionError("choose", "scoring", self.scoring, " or ".join(map(repr, SCORINGS)))
        if self.strategy is not None and self.calibrate is not None:
            raise OptionError(
                "choose", "calibrate", self.calibrate, "None with a strategy: the prior is the plain model's"
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise OptionError("choose", "seed", self.seed, "an integer from 0 to 2**63 - 1")
        if self.draw not in DRAWS:
            raise OptionError("choose", "draw", self.draw, " or ".join(map(repr, DRAWS)))
        self._check_numbers()

    def _check_numbers(self) -> None:
        if not _is_number(self.smoothing) or not 0 <= self.smoothing < float("inf"):
            raise OptionError("choose", "smoothing", self.smoothing, "a number >= 0")
        given = self.temperature
        if given is not None and not (_is_number(given) and 0 < given < float("inf")):
            raise OptionError("choose", "temperature", given, "a number > 0")
        if isinstance(self.calibrate, Calibration) and self.calibrate.temperature != self.divisor:
            raise OptionError("choose", "temperature", given, f"that of the calibration, {self.calibrate.temperature}")

    @property
    def divisor(self) -> float:
        """The temperature in force; where none is given, that of the authors for "compat", else 1."""
        usual = COMPAT_TEMPERATURE if self.scoring == "compat" else 1.0
        return usual if self.temperature is None else float(self.temperature)

    def scorer(self, adapter: Adapter) -> Scorer:
        """Decide how to score the choices.

        Raises:
            OptionError: Not the way that `scoring`, a strategy or a fitted calibration asks for.
            PromptError: The tokenizer cannot write a choice.
        """
        scorer = make_scorer(adapter, self.choices, self.scoring, self.divisor)
        if self.strategy is not None:
            if not isinstance(scorer, Labels):
                told = f"None for choices that are no single tokens, such as {self.choices[0]!r}"
                raise OptionError("choose", "strategy", str(self.strategy), told)
            scorer = replace(scorer, strategy=self.strategy)
        if isinstance(self.calibrate, Calibration) and self.calibrate.method != scorer.method:
            raise OptionError("choose", "scoring", self.scoring, f"that of the calibration, {self.calibrate.method!r}")
        return scorer

    def choose(self, adapter: Adapter, inputs: Inputs) -> ChoiceScores:
        """Score and calibrate a batch; without pictures there is nothing to calibrate."""
        scorer = self.scorer(adapter)
        scores, lost = _with_fallback(scorer, adapter, inputs)
        plain, top = scores.softmax(dim=-1), _top(scorer)
        none = "left by the strategy" if self.strategy is not None else f"among the {top} likeliest tokens"
        methods = tuple(f"labels: none {none}" if row else scorer.method for row in lost)
        if self.calibrate is None or not has_picture(inputs):
            return ChoiceScores(self.choices, scores, None, plain, methods, (None,) * len(plain), self.divisor)
        free = self._prior(adapter, inputs, scorer).expand_as(plain)
        left = lost | (free == 0).any(dim=-1) if top == TOP else lost  # as the authors' multiple-choice script does
        known = torch.where(left[:, None], 1.0, free)
        found = torch.where(left[:, None], plain, calibrate(plain, known, self.mode, self.smoothing))
        done = tuple(None if row else f"{self.mode} {self.calibrate}" for row in left)
        return ChoiceScores(self.choices, scores, free, found, methods, done, self.divisor)

    def _prior(self, adapter: Adapter, inputs: Inputs, scorer: Scorer) -> Tensor:
        """Return what picture-free inputs give to the choices, (batch or 1, choices), rows sum to 1."""
        if isinstance(self.calibrate, Calibration):
            return torch.tensor([self.calibrate.free], dtype=torch.float64)
        assert self.calibrate is not None
        kinds = picture_free_kinds(self.calibrate)
        told = [scorer(adapter, picture_free_inputs(adapter, inputs, kind, self.seed, self.draw)) for kind in kinds]
        summed = torch.stack(told).logsumexp(dim=0)
        top = summed.amax(dim=-1, keepdim=True)
        return smooth((summed - top).exp().nan_to_num(0), 0)  # long texts: far below what a float can hold


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _top(scorer: Scorer) -> int | None:
    return scorer.top if isinstance(scorer, Labels) else None


def _with_fallback(scorer: Scorer, adapter: Adapter, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return scores, (batch, choices), and the rows in which no choice is among the likeliest tokens, (batch,) bool."""
    scores = scorer(adapter, inputs)
    lost = (scores == -torch.inf).all(dim=-1)
    if lost.any() and isinstance(scorer, Labels):
        scores = torch.where(lost[:, None], replace(scorer, top=None, strategy=None)(adapter, inputs), scores)
    return scores, lost


def make_choosing(choices: Sequence[str], calibrate: str | Calibration | None, options: Mapping[str, Any]) -> Choosing:
    """Check how to choose.

    Raises:
        UnknownNameError: No such option.
        OptionError: The choices or an option are unusable.
    """
    for name in options:
        if name not in OPTIONS:
            raise UnknownNameError("option of choose", name, OPTIONS)
    if isinstance(choices, str) or not isinstance(choices, Sequence) or not all(isinstance(c, str) for c in choices):
        raise OptionError("choose", "choices", choices, 'a sequence of texts, such as ("yes", "no")')
    asked = options.get("strategy")
    method = None if asked is None else make_strategy(asked)
    return Choosing(tuple(choices), calibrate, **{**options, "strategy": method})
