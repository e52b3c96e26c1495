"""Set-up of a comparison, without its picture, as data that can be copied, sent and loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mmhall.demo import limits
from mmhall.display.marks import canonical_name
from mmhall.display.records import Truth
from mmhall.errors import OptionError
from mmhall.strategies import Strategy

TEMPERATURE = 2.0


@dataclass(frozen=True, slots=True)
class Setup:
    """Prompt, strategies, settings and known objects of a comparison.

    Attributes:
        prompt: The user's text.
        strategies: Specifications of the strategies, one for each column.
        max_new_tokens: Maximum number of tokens in an answer.
        temperature: Sampling temperature; 0: greedy.
        seed: Seed of the sampling.
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
        sampling = {"do_sample": True, "temperature": self.temperature, "seed": self.seed} if self.temperature else {}
        return {"max_new_tokens": self.max_new_tokens, **sampling}

    def data(self) -> dict[str, Any]:
        """Return the set-up as data for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def read_setup(data: Mapping[str, Any], owner_specs: Collection[str] = ()) -> tuple[Setup, tuple[Strategy, ...]]:
    """Check the fields that a client sends.

    Args:
        data: Fields of `Setup`; `prompt` and `strategies` are required.
        owner_specs: Specifications that the page's owner offers.

    Returns:
        The set-up, and its strategies.

    Raises:
        MmhallError: A field is missing, unknown or out of bounds.
    """
    if not isinstance(data, Mapping):
        raise OptionError("demo", "the set-up", data, 'an object such as {"prompt": "...", "strategies": ["vcd"]}')
    fields = Setup.__dataclass_fields__
    for field in data:
        if field not in fields:
            raise OptionError("demo", "the set-up", field, f"made of {', '.join(fields)}")
    methods = limits.strategies(data.get("strategies"), owner_specs)
    temperature, seed = data.get("temperature", 0.0), data.get("seed", 0)
    number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not number or not 0 <= temperature <= TEMPERATURE:
        raise OptionError("demo", "temperature", temperature, f"a number in [0, {TEMPERATURE}]")
    whole = isinstance(seed, int | float) and not isinstance(seed, bool) and seed == seed // 1
    if not whole or not 0 <= seed < 2**31:
        raise OptionError("demo", "seed", seed, "an integer from 0 to 2**31 - 1")
    checked = Setup(
        prompt=limits.prompt(data.get("prompt")),
        strategies=tuple(map(str, methods)),
        max_new_tokens=limits.tokens(data.get("max_new_tokens", 128)),
        temperature=float(temperature),
        seed=int(seed),
        present=_check_names(data.get("present")),
        absent=_check_names(data.get("absent")),
    )
    return checked, methods


def read_truth(present: Any, absent: Any) -> Truth:
    """Check what a client says of the objects in a picture.

    Raises:
        OptionError: These are no lists of names.
    """
    return Truth(_check_names(present), _check_names(absent))


def _check_names(names: Any) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, list | tuple) and not names:
        return ()
    return tuple(dict.fromkeys(map(canonical_name, limits.objects(names))))
