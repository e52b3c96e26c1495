"""Every error mmhall raises on purpose: what is wrong, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MmhallError(Exception):
    """Base class; the command line prints the message on one line and exits with 2."""


class MmhallWarning(UserWarning):
    """Something was done otherwise than one might expect; the command line prints the message on one line."""


class OptionError(MmhallError):
    """An option of a strategy or command has a value it cannot have."""

    def __init__(self, owner: str, option: str, value: object, expected: str) -> None:
        """Say whose option it is, its value, and what was expected ("a number >= 0")."""
        super().__init__(f"{owner}: {option} must be {expected}, got {value!r}")

    def __reduce__(self) -> tuple[object, ...]:
        """Travel between processes as the message alone."""
        return MmhallError, (str(self),)


class UnknownNameError(MmhallError):
    """A name is not registered; the message suggests the nearest one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Say what kind of name it is ("strategy"), and which names exist."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        told = f"Known: {', '.join(names)}" if names else "There is none."
        super().__init__(f"unknown {kind} {name!r}{hint} {told}")

    def __reduce__(self) -> tuple[object, ...]:
        """Travel between processes as the message alone."""
        return MmhallError, (str(self),)


class PluginError(MmhallError):
    """A registered name stands for something that cannot be imported."""


class CompositionError(MmhallError):
    """Strategies cannot be combined, or a model cannot carry a strategy."""


class ImageError(MmhallError):
    """A picture cannot be opened or is not acceptable."""


class PromptError(MmhallError):
    """A prompt cannot be used: empty, too long, or with the wrong number of pictures."""


class VersionError(MmhallError):
    """A package is there in a version that mmhall was not tested with."""


class ModelError(MmhallError):
    """A model cannot be loaded or is of a kind mmhall cannot drive."""


class GenerationError(MmhallError):
    """Decoding produced something no token can be chosen from, such as NaN logits."""


class DataError(MmhallError):
    """Benchmark data is missing, malformed, or unfit for the benchmark."""


class FitError(MmhallError):
    """A strategy cannot be fitted: the data shows nothing to learn."""


class RunError(MmhallError):
    """A run folder is missing, torn, or belongs to another set-up."""


class EndpointError(MmhallError):
    """A judge's endpoint gives no usable reply.

    Attributes:
        final: Whether asking anything else is in vain, too: the key or the model is refused.
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        """Say what happened."""
        super().__init__(message)
        self.final = final
