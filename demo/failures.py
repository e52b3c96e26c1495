"""Failures of a model that mmhall does not foresee, such as memory that runs out, told as its own errors are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmhall.errors import ModelError


@contextmanager
def as_model_errors() -> Iterator[None]:
    """Run a model so that whatever it raises has a reason that can be shown.

    Raises:
        ModelError: The model raised a RuntimeError, of which `torch.OutOfMemoryError` is one.
    """
    try:
        yield
    except RuntimeError as error:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(f"out of memory or another failure of the model: {first}") from error
