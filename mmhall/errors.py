"""Exceptions of mmhall; each message says what is wrong, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_NO_MEMORY = "out of memory", "can't allocate memory", "status_alloc_failed"  # CUDA's, the CPU's, cuBLAS's


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that memory is exhausted, of a GPU or of this machine."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY)


class MmhallError(Exception):
    """Base class; the command line prints the message on one line and exits with 2."""


class MmhallWarning(UserWarning):
    """Warning about unexpected behaviour; the command line prints the message on one line."""


class OptionError(MmhallError):
    """An option of a strategy or command has an invalid value."""

    def __init__(self, owner: str, option: str, value: object, expected: str) -> None:
        """Build the message from the option, its value, and a description of valid values ("a number >= 0")."""
        super().__init__(f"{owner}: {option} must be {expected}, got {value!r}")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle only the message."""
        return MmhallError, (str(self),)


class UnknownNameError(MmhallError):
    """A name is not registered; the message suggests the nearest name."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Build the message from the kind of name ("strategy"), the name, and the known names."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        listing = f"Known: {', '.join(names)}" if names else "There is none."
        super().__init__(f"unknown {kind} {name!r}{hint} {listing}")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle only the message."""
        return MmhallError, (str(self),)


class PluginError(MmhallError):
    """The object of a registered name cannot be imported."""


class CompositionError(MmhallError):
    """Strategies cannot be combined, or a model does not support a strategy."""


class ImageError(MmhallError):
    """A picture cannot be opened or used."""


class PromptError(MmhallError):
    """A prompt cannot be used: empty, too long, or with the wrong number of pictures."""


class VersionError(MmhallError):
    """The installed version of a package was not tested with mmhall."""


class ModelError(MmhallError):
    """A model cannot be loaded, or mmhall does not support it."""


class GenerationError(MmhallError):
    """No token can be chosen, for example because logits are NaN."""


class DataError(MmhallError):
    """Benchmark data is missing, malformed, or unsuitable for the benchmark."""


class FitError(MmhallError):
    """A strategy cannot be fitted to the data."""


class ConfigError(MmhallError):
    """A configuration file is missing or malformed, or has a word or value that is not allowed."""


class RunError(MmhallError):
    """A run folder is missing, damaged, or belongs to another set-up."""


class EndpointError(MmhallError):
    """The endpoint of a judge model gives no usable reply.

    Attributes:
        final: Whether all other requests would fail, too, because the key or the model is refused.
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        """Store the message and whether the error is final."""
        super().__init__(message)
        self.final = final
