"""The memory of tensors: how many bytes those take that are made in a block of code."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of tensors on a device that operations inside this context make, until nothing refers to them.

    It works on every device, also where no allocator counts, and costs some microseconds an operation. What kernels
    take for themselves, and what an allocator loses between tensors, is not counted.

    Attributes:
        now: Bytes of the tensors that exist.
        peak: Most bytes so far.
    """

    def __init__(self, device: torch.device) -> None:
        """Count tensors on the kind of a device."""
        super().__init__()
        self.now = self.peak = 0
        self._kind, self._known = device.type, dict[int, int]()
        self._token: Token[TensorMemory | None] | None = None

    def __enter__(self) -> TensorMemory:
        """Begin to count."""
        self._token = _current.set(self)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop to count tensors that are made; those that are freed are still counted."""
        super().__exit__(*error)
        assert self._token is not None
        _current.reset(self._token)

    def restart(self) -> None:
        """Let the peak begin at what exists now."""
        self.peak = self.now

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = MappingProxyType({}),
    ) -> Any:
        """Run an operation, and count the memory of its results that is not that of its arguments."""
        result = func(*args, **(kwargs or {}))
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor) and each.device.type == self._kind]
        if made:
            given = {_key(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
            for each in made:
                if _key(each) not in self._known and _key(each) not in given:
                    self._add(each)
        return result

    def _add(self, made: Tensor) -> None:
        storage = made.untyped_storage()
        key, size = _key(made), storage.nbytes()
        self._known[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key).atexit = False

    def _drop(self, key: int) -> None:
        self.now -= self._known.pop(key)


class _InThread(TorchDispatchMode):
    """Counts in another thread for a `TensorMemory`: torch's modes are those of one thread."""

    def __init__(self, memory: TensorMemory) -> None:
        super().__init__()
        self._memory = memory

    def __torch_dispatch__(self, *call: Any, **more: Any) -> Any:
        return self._memory.__torch_dispatch__(*call, **more)


_current: ContextVar[TensorMemory | None] = ContextVar("mmhall_tensor_memory", default=None)


def counted_in_thread() -> AbstractContextManager[Any]:
    """Count in this thread what the thread counts whose context variables this one has; not both at the same time."""
    memory = _current.get()
    return nullcontext() if memory is None else _InThread(memory)


def _key(tensor: Tensor) -> int:
    """Return what identifies the memory of a tensor while it exists."""
    return int(tensor.untyped_storage()._cdata)
