"""Faster linear layers for a few rows on a CPU.

A decoding step of stacked branches multiplies a few rows with every weight matrix. For x W^T with 2 to 8 rows, MKL
reads W once for each row on some processors (AMD), so that two rows take as long as two passes; for the same product
written as W x^T, MKL reads W once. On other processors (Intel) that order takes three times as long. The first model
that is opened measures both orders, for the whole process. Outside `few_rows`, as in the decoding of transformers
itself, a linear layer computes what torch computes, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from timeit import repeat

import torch
from torch import Tensor, nn

_MOST_ROWS = 8  # from about twelve rows on, x W^T is faster
_few: ContextVar[bool] = ContextVar("mmhall_few_rows", default=False)


@contextmanager
def few_rows(stacked: bool) -> Iterator[None]:
    """Use the faster order for few rows inside this context: a stack of branches, or of early exits at the head."""
    token = _few.set(stacked)
    try:
        yield
    finally:
        _few.reset(token)


def patch_linears(modules: Iterable[nn.Module]) -> None:
    """Let linear layers choose the order of the product by the number of rows.

    Only plain float32 weights on a CPU where W x^T is faster; a layer whose forward was replaced keeps that forward.
    """
    for module in modules:
        if (
            type(module) is nn.Linear
            and "forward" not in vars(module)
            and _is_plain(module.weight)
            and is_swapped_faster()
        ):
            module.forward = partial(_linear, module)  # type: ignore[method-assign]


@cache
def is_swapped_faster() -> bool:
    """Measure whether W x^T is faster than x W^T for two rows on this CPU; some milliseconds, once a process."""
    weight, rows = torch.ones(1024, 1024), torch.ones(2, 1024)
    usual, swapped = (
        min(repeat(product, number=5, repeat=7))
        for product in (lambda: nn.functional.linear(rows, weight), lambda: torch.mm(weight, rows.t()))
    )
    return swapped < usual


def _is_plain(weight: Tensor) -> bool:
    """Whether a weight is a plain float32 parameter on the CPU; quantised tensors may not support W x^T."""
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.dtype == torch.float32


def restore_linears(modules: Iterable[nn.Module]) -> None:
    """Restore the original forward of linear layers."""
    for module in modules:
        forward = vars(module).get("forward")
        if isinstance(forward, partial) and forward.func is _linear:
            del module.forward


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    rows = x.numel() // x.shape[-1]
    if not (_few.get() and 1 < rows <= _MOST_ROWS and x.device.type == "cpu" and x.dtype == torch.float32):
        return nn.functional.linear(x, module.weight, module.bias)
    product = torch.mm(module.weight, x.reshape(rows, -1).t()).t().contiguous().view(*x.shape[:-1], -1)
    return product if module.bias is None else product + module.bias
