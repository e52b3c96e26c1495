"""How tokens are chosen and when to stop, apart from any strategy."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from mmhall.errors import OptionError, UnknownNameError


@dataclass(frozen=True, slots=True)
class Settings:
    """Generation settings; None leaves a value to the model's own generation config.

    Attributes:
        max_new_tokens: Most tokens an answer may have, >= 1.
        do_sample: Draw tokens instead of taking the best.
        num_beams: Beams of the search, >= 1; 1: no search.
        temperature: Divides logits before drawing, > 0.
        top_p: Keep the smallest set of tokens with this probability, in (0, 1].
        top_k: Keep this many tokens, >= 0; 0: all.
        repetition_penalty: Divides scores of tokens already there, > 0.
        seed: Seeds the draws, so that a sampled answer can be repeated.
    """

    max_new_tokens: int = 128
    do_sample: bool = False
    num_beams: int = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        rules = {
            "max_new_tokens": (lambda v: v >= 1, "an integer >= 1"),
            "num_beams": (lambda v: v >= 1, "an integer >= 1"),
            "temperature": (lambda v: 0 < v < float("inf"), "a number > 0 (do_sample=False decodes greedily)"),
            "top_p": (lambda v: 0 < v <= 1, "a number in (0, 1]"),
            "top_k": (lambda v: v >= 0, "an integer >= 0"),
            "repetition_penalty": (lambda v: 0 < v < float("inf"), "a number > 0"),
        }
        for option, (holds, expected) in rules.items():
            value = getattr(self, option)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float) or not holds(value)
            ):
                raise OptionError("generation", option, value, expected)

    def resolved(self, model: PreTrainedModel) -> GenerationConfig:
        """Lay the explicit values over the model's own.

        Sampling values are dropped when nothing is drawn.
        """
        own = model.generation_config.to_diff_dict() if model.generation_config is not None else {}
        given = {k: v for k, v in dataclasses.asdict(self).items() if v is not None and k != "seed"}
        merged: dict[str, Any] = {**own, "max_length": None, **given}
        if not self.do_sample:
            for name in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
                merged.pop(name, None)
        return GenerationConfig(**merged)

    def record(self, config: GenerationConfig) -> dict[str, Any]:
        """Return the values in force by name, for an answer's record."""
        return {
            field.name: self.seed if field.name == "seed" else getattr(config, field.name)
            for field in dataclasses.fields(self)
        }


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
    return Settings(**values)
