"""Generation settings: how tokens are chosen and when an answer ends, apart from any strategy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

from transformers import PreTrainedModel

from mmhall._transformers.settings import ResolvedSettings, checkpoint_settings
from mmhall.errors import OptionError, UnknownNameError
from mmhall.options import Configured, by_model, option, rules

_SAMPLING = ("temperature", "top_p", "top_k")
_GREEDY = "(do_sample=False decodes greedily)"


def _is_positive(value: float) -> bool:
    return value > 0


@dataclass(frozen=True, slots=True)
class Settings(Configured):
    """Generation settings; None leaves a value to the model's own generation config.

    Attributes:
        max_new_tokens: Most tokens of an answer, >= 1.
        do_sample: Draw tokens instead of taking the best.
        num_beams: Beams of the search, >= 1; 1: no search; None: the strategy's own, mostly 1.
        temperature: Divides logits before drawing, > 0.
        top_p: Keep the smallest set of tokens with this probability, in (0, 1].
        top_k: Keep this many tokens, >= 0; 0: all.
        repetition_penalty: Divides scores of tokens already there, > 0.
        length_penalty: Exponent of the length that divides a beam's score; > 0 favours long answers.
        num_return_sequences: Answers to return, >= 1; more than one need sampling or beams.
        stop_strings: End an answer as soon as it holds one of them, and cut it off there. Empty: the model's own, which
            few have.
        seed: Seed of the draws, so that a sampled answer can be repeated.
    """

    name: ClassVar[str] = "generation"

    max_new_tokens: int = option(128, low=1)
    do_sample: bool = option(False)
    num_beams: int | None = by_model(1, low=1)
    temperature: float | None = by_model(1.0, holds=_is_positive, expected=f"a number > 0 {_GREEDY}")
    top_p: float | None = by_model(1.0, holds=lambda p: 0 < p <= 1, expected="a number in (0, 1]")
    top_k: int | None = by_model(0, low=0)
    repetition_penalty: float | None = by_model(1.0, holds=_is_positive, expected="a number > 0")
    length_penalty: float | None = by_model(1.0, expected="a number")
    num_return_sequences: int = option(1, low=1)
    stop_strings: tuple[str, ...] = option(
        (), holds=lambda stops: all(isinstance(s, str) and s for s in stops), expected="a tuple of non-empty strings"
    )
    seed: int = option(0, low=0, high=2**63 - 1, expected="an integer from 0 to 2**63 - 1")

    def __post_init__(self) -> None:
        """Check each value, and values that exclude each other."""
        Configured.__post_init__(self)
        for name in _SAMPLING:
            if getattr(self, name) is not None and not self.do_sample:
                raise OptionError("generation", name, getattr(self, name), "left out unless do_sample=True")
        if self.do_sample and (self.num_beams or 1) > 1:
            raise OptionError("generation", "do_sample", True, f"False with a search of {self.num_beams} beams")
        if self.num_beams is not None:
            self._check_sequences(self.num_beams)

    def resolved(self, model: PreTrainedModel, beams: int = 1) -> ResolvedSettings:
        """Complete the settings with those of the model.

        A value that neither sets is neutral (no top-k, unlike transformers' default of 50). Sampling values are dropped
        in greedy decoding. Where the model's config turns the cache off or asks for a static one, a dynamic cache is
        used: answers are the same.

        Args:
            model: The model that decodes: `Adapter.generator`.
            beams: The strategy's own number of beams.

        Raises:
            OptionError: There are more sequences than beams, sampling is combined with a search, or the model's config
                has a setting that mmhall does not support, such as a quantised cache.
        """
        num_beams = self.num_beams if self.num_beams is not None else beams
        if self.do_sample and num_beams > 1:
            raise OptionError("generation", "do_sample", True, f"False with a search of {num_beams} beams")
        self._check_sequences(num_beams)
        own = checkpoint_settings(model)
        neutral = {name: rule.general for name, rule in rules(Settings).items() if rule.by_model}
        explicit = {name: value for name, value in self.options().items() if value is not None and name != "seed"}
        merged: dict[str, Any] = {**neutral, **own, "max_length": None, **explicit, "num_beams": num_beams}
        merged["stop_strings"] = list(self.stop_strings) or own["stop_strings"] or None
        return ResolvedSettings(**merged)

    def _check_sequences(self, num_beams: int) -> None:
        if not self.do_sample and self.num_return_sequences > num_beams:
            expected = f"at most num_beams ({num_beams}) unless do_sample=True"
            raise OptionError("generation", "num_return_sequences", self.num_return_sequences, expected)

    def record(self, config: ResolvedSettings) -> dict[str, Any]:
        """Return the values in force by name, for an answer's record."""
        own = {"seed": self.seed, "stop_strings": list(config.stop_strings or ())}  # the rest may be the model's
        return {f.name: own[f.name] if f.name in own else getattr(config, f.name) for f in dataclasses.fields(self)}


def make_settings(values: dict[str, Any]) -> Settings:
    """Build settings from keyword arguments.

    Raises:
        UnknownNameError: There is no such setting.
        OptionError: A value is out of range.
    """
    names = {field.name for field in dataclasses.fields(Settings)}
    for name in values:
        if name not in names:
            raise UnknownNameError("generation setting", name, names)
    return Settings(**values)


def check_seeds(seeds: Iterable[Any], count: int) -> list[int]:
    """Return a seed for each of `count` requests.

    Raises:
        OptionError: There are more or fewer, or one is not a seed.
    """
    rule = rules(Settings)["seed"]
    values = list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, str) else [seeds]
    for seed in values:
        if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= int(seed) < 2**63:
            raise OptionError("generate_batch", "seeds", seed, f"each {rule.expected}")
    if len(values) != count:
        raise OptionError("generate_batch", "seeds", values, f"one for each of the {count} requests")
    return [int(seed) for seed in values]
