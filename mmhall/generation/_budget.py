"""The budget of what is decoded at a time: answers, positions of caches, bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmhall.errors import OptionError

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(?:i?B)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be decoded at a time; prompts wait until they fit.

    Attributes:
        answers: Most answers, >= 1.
        positions: Most positions in caches: those of prompt and longest answer, times the rows that a prompt takes
            (branches, beams, sequences), padding included. A prompt that alone takes more is decoded alone. None: any.
        memory: Most bytes of tensors beside the model. A prompt that alone takes more has no answer. None: any.
    """

    answers: int
    positions: int | None = None
    memory: int | None = None

    @classmethod
    def of(cls, owner: str, batch_size: object, max_tokens: object = None, memory: object = None) -> Budget:
        """Build a budget from what a user gives.

        Args:
            owner: Function or command that takes the options, for error messages.
            batch_size: Most answers.
            max_tokens: Most positions; None: any number.
            memory: Most bytes, also as text such as "500M" or "6G", in powers of 1024; None: any number.

        Raises:
            OptionError: One is no such number.
        """
        answers = _count(owner, "batch_size", batch_size)
        positions = None if max_tokens is None else _count(owner, "max_tokens", max_tokens)
        return cls(answers, positions, None if memory is None else _bytes(owner, memory))

    @property
    def limits_prompts(self) -> bool:
        """Whether it depends on prompts how many of them are decoded at a time."""
        return self.positions is not None or self.memory is not None


@dataclass(frozen=True, slots=True)
class Load:
    """Rows that are decoded together, and what they may still take.

    Attributes:
        rows: Number of rows, those of branches, beams and sequences included.
        columns: Positions of each row now, padding included.
        left: Most tokens that are still added to each.
        held: Bytes that they keep beside their cache.
        step: Bytes that a pass over them takes for a time.
    """

    rows: int
    columns: int
    left: int = 0
    held: int = 0
    step: int = 0


def stages(loads: Sequence[Load]) -> Iterator[Load]:
    """Yield all that is decoded each time that some loads reach their longest answers, and leave.

    In between there are as many rows at fewer positions, so that nothing takes more than at these times.
    """
    for left in sorted({load.left for load in loads}):
        open_ = [load for load in loads if load.left >= left]
        yield Load(
            rows=sum(load.rows for load in open_),
            columns=max(load.columns for load in open_) + left,
            held=sum(load.held for load in open_),
            step=sum(load.step for load in open_),
        )


def count_positions(loads: Sequence[Load]) -> int:
    """Return the most positions that loads may hold together."""
    return max((stage.rows * stage.columns for stage in stages(loads)), default=0)


def format_bytes(count: float) -> str:
    """Format a number of bytes, in powers of 1024.

    >>> format_bytes(900), format_bytes(1536), format_bytes(6 * 2**30)
    ('900 bytes', '1.5K', '6.0G')
    """
    unit = next((unit for unit in "TGMK" if count >= _UNITS[unit]), "")
    return f"{count / _UNITS[unit]:.1f}{unit}" if unit else f"{count:.0f} bytes"


def _count(owner: str, option: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionError(owner, option, value, "an integer >= 1")
    return value


def _bytes(owner: str, value: object) -> int:
    """Return a number of bytes that is given as such, or as text."""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is not None:
        value = int(float(match.group(1)) * _UNITS[match.group(2).upper()])
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionError(owner, "memory", value, 'a number of bytes >= 1, such as "500M" or "6G"')
    return value
