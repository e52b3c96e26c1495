"""Access to nltk, an optional package: some published word rules need its part-of-speech tagger."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmhall.errors import DataError

INSTALL = (
    "pip install nltk && python -m nltk.downloader punkt punkt_tab averaged_perceptron_tagger "
    "averaged_perceptron_tagger_eng wordnet"
)


@contextmanager
def using_nltk(who: str, instead: str) -> Iterator[Any]:
    """Yield the package nltk; missing packages or data become a DataError.

    Args:
        who: What needs nltk, for the error message.
        instead: The option to use without nltk, for the error message.

    Raises:
        DataError: nltk, or its data used within the context, is not installed.
    """
    try:
        yield importlib.import_module("nltk")
    except (ImportError, LookupError) as error:
        if isinstance(error, KeyError | IndexError):  # not what nltk raises for data
            raise
        message = f"{who} needs nltk with its data ({type(error).__name__}): {INSTALL}; or take {instead}"
        raise DataError(message) from error
