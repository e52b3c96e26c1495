"""Failures of the model that mmhall does not foresee, such as exhausted memory, raised as errors of mmhall."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmhall.errors import ModelError


@contextmanager
def as_model_errors() -> Iterator[None]:
    """Turn a RuntimeError of the model into a ModelError whose message the page can show.

    Raises:
        ModelError: The model raised a RuntimeError, of which `torch.OutOfMemoryError` is one.
    """
    try:
        yield
    except RuntimeError as error:
        first_line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(f"out of memory or another failure of the model: {first_line}") from error
