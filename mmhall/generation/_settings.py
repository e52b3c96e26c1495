"""How tokens are chosen and when to stop, apart from any strategy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from transformers import PreTrainedModel

from mmhall._transformers.settings import Resolved, own_settings
from mmhall.errors import OptionError, UnknownNameError

_SAMPLING = {"temperature", "top_p", "top_k"}
_NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "length_penalty": 1.0}
_RULES: dict[str, tuple[Any, Callable[[Any], bool], str]] = {
    "max_new_tokens": (int, lambda v: v >= 1, "an integer >= 1"),
    "do_sample": (bool, lambda v: True, "True or False"),
    "num_beams": (int, lambda v: v >= 1, "an integer >= 1"),
    "temperature": (int | float, lambda v: 0 < v < float("inf"), "a number > 0 (do_sample=False decodes greedily)"),
    "top_p": (int | float, lambda v: 0 < v <= 1, "a number in (0, 1]"),
    "top_k": (int, lambda v: v >= 0, "an integer >= 0"),
    "repetition_penalty": (int | float, lambda v: 0 < v < float("inf"), "a number > 0"),
    "length_penalty": (int | float, lambda v: -float("inf") < v < float("inf"), "a number"),
    "num_return_sequences": (int, lambda v: v >= 1, "an integer >= 1"),
    "stop_strings": (tuple, lambda v: all(isinstance(s, str) and s for s in v), "a tuple of non-empty strings"),
    "seed": (int, lambda v: 0 <= v < 2**63, "an integer from 0 to 2**63 - 1"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Generation settings; None leaves a value to the model's own generation config.

    Attributes:
        max_new_tokens: Most tokens an answer may have, >= 1.
        do_sample: Draw tokens instead of taking the best.
        num_beams: Beams of the search, >= 1; 1: no search; None: the strategy's own, mostly 1.
        temperature: Divides logits before drawing, > 0.
        top_p: Keep the smallest set of tokens with this probability, in (0, 1].
        top_k: Keep this many tokens, >= 0; 0: all.
        repetition_penalty: Divides scores of tokens already there, > 0.
        length_penalty: Exponent of the length that divides a beam's score; > 0 favours long answers.
        num_return_sequences: Answers wanted, >= 1; more than one need draws or beams.
        stop_strings: End an answer as soon as it holds one of them; it is cut off there. Empty: the model's own, which
            few have.
        seed: Seeds the draws, so that a sampled answer can be repeated.
    """

    max_new_tokens: int = 128
    do_sample: bool = False
    num_beams: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    length_penalty: float | None = None
    num_return_sequences: int = 1
    stop_strings: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        for option, (kind, holds, expected) in _RULES.items():
            value = getattr(self, option)
            if value is None and option in _SAMPLING | {"num_beams", "repetition_penalty", "length_penalty"}:
                continue
            fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
            if not fits or not holds(value):
                raise OptionError("generation", option, value, expected)
        for option in _SAMPLING:
            if getattr(self, option) is not None and not self.do_sample:
                raise OptionError("generation", option, getattr(self, option), "left out unless do_sample=True")
        if self.do_sample and (self.num_beams or 1) > 1:
            raise OptionError("generation", "do_sample", True, f"False with a search of {self.num_beams} beams")
        if self.num_beams is not None:
            self._check_sequences(self.num_beams)

    def resolved(self, model: PreTrainedModel, beams: int = 1) -> Resolved:
        """Lay the explicit values over the model's own.

        What neither sets is neutral (no top-k, unlike transformers' own default of 50). Sampling values are
        dropped when nothing is drawn. A model's own wish for no cache, or for a static one, is answered with the
        dynamic cache: answers are the same.

        Args:
            model: What decodes: `Adapter.generator`.
            beams: The strategy's own.

        Raises:
            OptionError: More sequences are asked for than there are beams, tokens are to be drawn in a search, or the
                model's own settings ask for what mmhall does not do, such as a quantised cache.
        """
        num_beams = self.num_beams if self.num_beams is not None else beams
        if self.do_sample and num_beams > 1:
            raise OptionError("generation", "do_sample", True, f"False with a search of {num_beams} beams")
        self._check_sequences(num_beams)
        own = own_settings(model)
        given = {k: v for k, v in dataclasses.asdict(self).items() if v is not None and k != "seed"}
        merged: dict[str, Any] = {**_NEUTRAL, **own, "max_length": None, **given, "num_beams": num_beams}
        merged["stop_strings"] = list(self.stop_strings) or own["stop_strings"] or None
        return Resolved(**merged)

    def _check_sequences(self, num_beams: int) -> None:
        if not self.do_sample and self.num_return_sequences > num_beams:
            few = f"at most num_beams ({num_beams}) unless do_sample=True"
            raise OptionError("generation", "num_return_sequences", self.num_return_sequences, few)

    def record(self, config: Resolved) -> dict[str, Any]:
        """Return the values in force by name, for an answer's record."""
        own = {"seed": self.seed, "stop_strings": list(config.stop_strings or ())}  # the rest may be the model's
        return {f.name: own[f.name] if f.name in own else getattr(config, f.name) for f in dataclasses.fields(self)}


def make_settings(values: dict[str, Any]) -> Settings:
    """Build settings from keyword arguments.

    Raises:
        UnknownNameError: No such setting.
        OptionError: A value is out of range.
    """
    known = {field.name for field in dataclasses.fields(Settings)}
    for name in values:
        if name not in known:
            raise UnknownNameError("generation setting", name, known)
    stops = values.get("stop_strings")
    return Settings(**{**values, "stop_strings": tuple(stops)} if isinstance(stops, list) else values)


def check_seeds(seeds: Iterable[Any], count: int) -> list[int]:
    """Return a seed for each of `count` requests.

    Raises:
        OptionError: There are more or fewer, or one is not a seed.
    """
    _, holds, expected = _RULES["seed"]
    given = list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, str) else [seeds]
    for seed in given:
        if not isinstance(seed, Integral) or isinstance(seed, bool) or not holds(seed):
            raise OptionError("generate_batch", "seeds", seed, f"each {expected}")
    if len(given) != count:
        raise OptionError("generate_batch", "seeds", given, f"one for each of the {count} requests")
    return [int(seed) for seed in given]
