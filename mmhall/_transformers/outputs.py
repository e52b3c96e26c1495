"""Outputs of a model's parts: a tensor, a `ModelOutput`, or a list or tuple of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput


def tensors_of(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output, in order.

    Raises:
        TypeError: It holds something else.
    """
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, ModelOutput):
        for value in output.values():
            yield from tensors_of(value)
    elif type(output) in (list, tuple):
        for value in output:
            yield from tensors_of(value)
    elif output is not None:
        raise TypeError(f"an output holds a {type(output).__name__}")


def combine(function: Callable[..., Tensor], outputs: Sequence[Any]) -> Any:
    """Combine outputs of one structure, tensor by tensor, into a new output."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return function(outputs)
    if isinstance(first, ModelOutput):
        return type(first)(**{key: combine(function, [output[key] for output in outputs]) for key in first})
    if first is None:
        return None
    return type(first)(combine(function, parts) for parts in zip(*outputs, strict=True))
