"""Run code in another thread under the caller's context."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import ParamSpec, TypeVar

import torch

from mmhall.generation._tensor_memory import counted_in_thread

P = ParamSpec("P")
R = TypeVar("R")


class CallerContext:
    """The context of the thread that creates it: variables, autocast, CUDA stream, what `TensorMemory` counts."""

    def __init__(self, device: torch.device) -> None:
        """Store the context of the current thread.

        Args:
            device: The device of the computation.
        """
        kind = device.type
        self._variables = contextvars.copy_context()
        self._autocast = partial(
            torch.autocast,
            kind,
            dtype=torch.get_autocast_dtype(kind),
            enabled=torch.is_autocast_enabled(kind),
            cache_enabled=torch.is_autocast_cache_enabled(),
        )
        self._stream = torch.cuda.current_stream(device) if kind == "cuda" else None

    def wrap(self, work: Callable[P, R]) -> Callable[P, R]:
        """Wrap a function to run under this context in any thread; one call at a time."""

        def computed(*args: P.args, **kwargs: P.kwargs) -> R:
            with ExitStack() as stack:
                if self._stream is not None:
                    stack.enter_context(torch.cuda.stream(self._stream))
                stack.enter_context(self._autocast())
                stack.enter_context(counted_in_thread())
                return work(*args, **kwargs)

        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            return self._variables.run(computed, *args, **kwargs)

        return run
