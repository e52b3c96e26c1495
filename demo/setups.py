"""A set-up of the page: what is asked of whom, as data that can be copied, sent and loaded; the picture stays apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mmhall.demo import limits
from mmhall.demo.words import canonical_name
from mmhall.errors import OptionError
from mmhall.strategies import Strategy

TEMPERATURE = 2.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What a comparison is made of.

    Attributes:
        prompt: The user's text.
        strategies: As `mmhall.strategy` writes them, one a column.
        max_new_tokens: Most tokens of an answer.
        temperature: 0: always the likeliest token; else tokens are drawn.
        seed: Of the draws.
        present: Objects in the picture; None: not known.
        absent: Objects that are not in it; None: all others.
    """

    prompt: str
    strategies: tuple[str, ...]
    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    present: tuple[str, ...] | None = None
    absent: tuple[str, ...] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Generation settings, as `LVLM.generate` takes them."""
        drawn = {"do_sample": True, "temperature": self.temperature, "seed": self.seed} if self.temperature else {}
        return {"max_new_tokens": self.max_new_tokens, **drawn}

    def data(self) -> dict[str, Any]:
        """Return it as JSON writes it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def setup(told: Mapping[str, Any], owner_specs: Collection[str] = ()) -> tuple[Setup, tuple[Strategy, ...]]:
    """Check what a client sends, field by field.

    Args:
        told: Fields of `Setup`, `prompt` and `strategies` at least.
        owned: Specs that the owner of the page offers.

    Returns:
        The set-up, and its strategies.

    Raises:
        MmhallError: A field is missing, unknown or out of bounds.
    """
    if not isinstance(told, Mapping):
        raise OptionError("demo", "the set-up", told, 'an object such as {"prompt": "...", "strategies": ["vcd"]}')
    known = Setup.__dataclass_fields__
    for field in told:
        if field not in known:
            raise OptionError("demo", "the set-up", field, f"made of {', '.join(known)}")
    made = limits.strategies(told.get("strategies"), owner_specs)
    temperature, seed = told.get("temperature", 0.0), told.get("seed", 0)
    number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not number or not 0 <= temperature <= TEMPERATURE:
        raise OptionError("demo", "temperature", temperature, f"a number in [0, {TEMPERATURE}]")
    whole = isinstance(seed, int | float) and not isinstance(seed, bool) and seed == seed // 1
    if not whole or not 0 <= seed < 2**31:
        raise OptionError("demo", "seed", seed, "an integer from 0 to 2**31 - 1")
    checked = Setup(
        prompt=limits.prompt(told.get("prompt")),
        strategies=tuple(map(str, made)),
        max_new_tokens=limits.tokens(told.get("max_new_tokens", 128)),
        temperature=float(temperature),
        seed=int(seed),
        present=_names(told.get("present")),
        absent=_names(told.get("absent")),
    )
    return checked, made


def ground_truth(present: Any, offered: Any) -> dict[str, Any]:
    """Return what is known of a picture: what was ticked is there, what was offered and not ticked is not."""
    if not present:
        return {"present": None, "absent": None}
    return {"present": list(present), "absent": None if offered is None else [o for o in offered if o not in present]}


def _names(names: Any) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, list | tuple) and not names:
        return ()
    return tuple(dict.fromkeys(map(canonical_name, limits.objects(names))))
