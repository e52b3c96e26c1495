"""Multiple choice without the bias towards places: every question is asked with all rotations of its options.

Sources   All rotations of the options: MMBench's CircularEval, arXiv:2307.06281, which counts an answer as right if it
          is right in each. Taking out the prior of option letters: PriDe, arXiv:2309.03882, which estimates it on some
          questions; ours uses all rotations of every question.
Formula   P[r, l]: probability of letter l in rotation r, where place l holds option (l + r) mod N
          option o: softmax over o of the mean over r of log P[r, (o - r) mod N]
          place l: softmax over l of the mean over r of log P[r, l]
          bias: half of the sum over l of |place l - 1 / N|, from 0 to 1 - 1 / N
          If P is a value of the option times a value of the place, normalised, both are found exactly.
Cost      As many prefills as there are options, each with the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmhall.adapters import check_text
from mmhall.answers import Usage
from mmhall.closed._calibration import Chooser
from mmhall.errors import OptionError
from mmhall.generation import Images

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
SUFFIX = "Answer with the option's letter from the given choices directly."  # as LLaVA-1.5's evaluations ask
PLACE = "{options}"


@dataclass(frozen=True, slots=True)
class RotatedChoice:
    """The choice among options that were written in every rotation.

    Attributes:
        choice: The most probable option without the bias towards places.
        options: All options, in the given order.
        probabilities: Probability of each option, written in the given order only; they sum to 1.
        debiased: Probability of each option over all rotations, without the bias; they sum to 1.
        places: Probability of each place over all rotations, whatever option stands there: 1 / N without a bias.
        bias: Total variation distance of `places` from 1 / N, in [0, 1 - 1 / N].
        rotations: The option chosen in each rotation.
        method: How the letters were scored; ways that differ between rotations are joined by " / ".
        calibration: How the rotations were calibrated, joined likewise; None: none of them.
        usage: Cost of all rotations.
    """

    choice: str
    options: tuple[str, ...]
    probabilities: tuple[float, ...]
    debiased: tuple[float, ...]
    places: tuple[float, ...]
    bias: float
    rotations: tuple[str, ...]
    method: str
    calibration: str | None
    usage: Usage

    @property
    def consistent(self) -> bool:
        """Whether all rotations choose the same option, as CircularEval demands."""
        return len(set(self.rotations)) == 1


@dataclass(frozen=True, slots=True)
class PositionBias:
    """The bias towards places over many questions with the same number of options.

    Attributes:
        places: Probability of each place over all questions and rotations; 1 / N without a bias.
        bias: Total variation distance of `places` from 1 / N, in [0, 1 - 1 / N].
        consistent: Share of the questions in which all rotations choose the same option.
        changed: Share of the questions whose choice differs from that in the given order.
        count: Number of questions.
    """

    places: tuple[float, ...]
    bias: float
    consistent: float
    changed: float
    count: int

    @classmethod
    def of(cls, choices: Sequence[RotatedChoice]) -> PositionBias:
        """Measure the bias of choices, as `choose_option` makes them.

        Raises:
            OptionError: There is none, or their numbers of options differ.
        """
        if len({len(choice.options) for choice in choices}) != 1:
            raise OptionError("position bias", "choices", len(choices), "some, with the same number of options each")
        logs = torch.tensor([choice.places for choice in choices], dtype=torch.float64).log()
        places = logs.mean(dim=0).softmax(dim=-1)
        plain = [
            choice.options[max(range(len(choice.options)), key=choice.probabilities.__getitem__)] for choice in choices
        ]
        changed = sum(choice.choice != other for choice, other in zip(choices, plain, strict=True))
        consistent = sum(choice.consistent for choice in choices)
        return cls(
            tuple(places.tolist()), bias_of(places), consistent / len(choices), changed / len(choices), len(choices)
        )


def take_out_places(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Separate the options from their places.

    >>> p = torch.tensor([[0.6, 0.4], [0.9, 0.1]])  # option 0 stands at place 0, then at place 1
    >>> option, place = take_out_places(p)  # odds of option 0: sqrt(0.6 / 0.4 * 0.1 / 0.9), of place 0: sqrt(1.5 * 9)
    >>> option[0] / option[1], place[0] / place[1]
    (tensor(0.4082), tensor(3.6742))

    Args:
        probabilities: Probability of each place in each rotation, (rotations, places); rotation r has option
            (l + r) mod N at place l. All above 0.

    Returns:
        Probability of each option, and of each place, (N,) each.
    """
    logs, number = probabilities.log(), len(probabilities)
    at = torch.arange(number)
    by_option = torch.stack([logs[rotation, (at - rotation) % number] for rotation in range(number)])
    return by_option.mean(dim=0).softmax(dim=-1), logs.mean(dim=0).softmax(dim=-1)


def bias_of(places: Tensor) -> float:
    """Return the total variation distance of probabilities, (N,), from equal ones."""
    return float((places - 1 / len(places)).abs().sum() / 2)


def choose_option(
    lvlm: Chooser,
    image: Images,
    question: str,
    options: Sequence[str],
    *,
    letters: Sequence[str] = LETTERS,
    suffix: str = SUFFIX,
    calibrate: Any = None,
    **scoring: Any,
) -> RotatedChoice:
    """Choose among options that are written behind letters, in every rotation.

    Args:
        lvlm: The model, an `mmhall.LVLM`.
        image: As in `LVLM.choose`.
        question: The question; the options stand in place of "{options}", else behind it, one a line: "A. a cup".
        options: At least two distinct texts.
        letters: What stands before the options and is chosen; the first N are used.
        suffix: What stands behind the options, on a line of its own; "": nothing.
        calibrate: As in `LVLM.choose`, for the letters of each rotation.
        **scoring: As in `LVLM.choose`; not "compat", the mode "identity", or a strategy, which may give no probability
            of all letters.

    Raises:
        OptionError: The options are unusable, or there are more than letters; or the scoring.
        MmhallError: As in `LVLM.choose_batch`.
    """
    check_rotation(question, options, scoring, letters)
    number, labels = len(options), tuple(letters[: len(options)])
    requests = [(image, write_options(question, _rotated(options, r), labels, suffix)) for r in range(number)]
    found = lvlm.choose_batch(requests, labels, calibrate=calibrate, **scoring)
    weights = torch.tensor([choice.calibrated for choice in found], dtype=torch.float64)
    weights = weights.clamp_min(torch.finfo(torch.float64).tiny)
    debiased, places = take_out_places(weights)
    chosen = tuple(_rotated(options, r)[int(row.argmax())] for r, row in enumerate(weights))
    ways = dict.fromkeys(choice.calibration or "none" for choice in found)
    return RotatedChoice(
        choice=options[int(debiased.argmax())],
        options=tuple(options),
        probabilities=tuple(weights[0].tolist()),
        debiased=tuple(debiased.tolist()),
        places=tuple(places.tolist()),
        bias=bias_of(places),
        rotations=chosen,
        method=" / ".join(dict.fromkeys(choice.method for choice in found)),
        calibration=" / ".join(ways) if any(choice.calibration for choice in found) else None,
        usage=Usage(
            sum(choice.usage.seconds for choice in found),
            sum(choice.usage.prompt_tokens for choice in found),
            0,
            max((choice.usage.peak_bytes for choice in found if choice.usage.peak_bytes is not None), default=None),
        ),
    )


def check_rotation(
    question: object, options: object, scoring: Mapping[str, Any], letters: Sequence[str] = LETTERS
) -> None:
    """Check the arguments of `choose_option`.

    Raises:
        OptionError: The options are unusable, or there are more than letters; or the scoring gives no probabilities.
        PromptError: The question is no text.
    """
    check_text("the question of a rotation", question)
    texts = isinstance(options, list | tuple) and all(isinstance(one, str) and one.strip() for one in options)
    if not texts or len({one.strip() for one in options}) < max(2, len(options)):  # type: ignore[arg-type,attr-defined]
        raise OptionError("choose", "options", options, "at least two texts, none empty, none twice")
    if len(options) > len(letters):  # type: ignore[arg-type]
        raise OptionError("choose", "options", len(options), f"at most as many as letters, {len(letters)}")  # type: ignore[arg-type]
    if scoring.get("scoring") == "compat":
        raise OptionError("choose", "scoring", "compat", '"auto", "labels" or "strings" with rotations')
    if scoring.get("mode") == "identity":
        raise OptionError("choose", "mode", "identity", '"diagonal" with rotations, which need probabilities')
    if scoring.get("strategy") is not None:
        raise OptionError(
            "choose", "strategy", str(scoring["strategy"]), "None with rotations: it may rule letters out"
        )


def write_options(question: str, options: Sequence[str], letters: Sequence[str], suffix: str = SUFFIX) -> str:
    """Write a multiple-choice question.

    >>> print(write_options("What is it?", ["a cup", "a dog"], ["A", "B"], ""))
    What is it?
    A. a cup
    B. a dog
    """
    lines = "\n".join(f"{letter}. {one.strip()}" for letter, one in zip(letters, options, strict=True))
    asked = question.replace(PLACE, lines) if PLACE in question else f"{question.rstrip()}\n{lines}"
    return f"{asked}\n{suffix}" if suffix else asked


def _rotated(options: Sequence[str], rotation: int) -> list[str]:
    """Return the options of each place in a rotation."""
    return [options[(place + rotation) % len(options)] for place in range(len(options))]
