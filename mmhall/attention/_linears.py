"""Linear layers of a few rows on a CPU.

A decoding step of stacked branches multiplies a handful of rows with every weight matrix. Asked for x W^T
with two or more rows but few, MKL reads W once for each row on some processors (AMD's), so that two rows take
as long as two passes; asked for the same product as W x^T it reads W once. On others (Intel's) that order takes
three times as long. So the first model that is opened measures both, for the whole process. transformers' own steps
are left alone: where nobody enters `few_rows`, a linear layer is torch's, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from timeit import repeat

import torch
from torch import Tensor, nn

_MOST_ROWS = 8  # from about twelve on, x W^T is the faster way
_few: ContextVar[bool] = ContextVar("mmhall_few_rows", default=False)


@contextmanager
def few_rows(stacked: bool) -> Iterator[None]:
    """Multiply few rows in the other order inside this context, if they are a stack of branches."""
    token = _few.set(stacked)
    try:
        yield
    finally:
        _few.reset(token)


def open_linears(modules: Iterable[nn.Module]) -> None:
    """Let linear layers choose the order by the number of rows, where the other one can be faster.

    That is on a CPU that takes it faster, of plain float32 weights; a layer with a forward of someone else's keeps it.
    """
    for module in modules:
        if type(module) is nn.Linear and "forward" not in vars(module) and _is_plain(module.weight) and pays_off():
            module.forward = partial(_linear, module)  # type: ignore[method-assign]


@cache
def pays_off() -> bool:
    """Measure whether this CPU multiplies two rows faster in the other order; some milliseconds, once a process."""
    weight, rows = torch.ones(1024, 1024), torch.ones(2, 1024)
    own, other = (
        min(repeat(product, number=5, repeat=7))
        for product in (lambda: nn.functional.linear(rows, weight), lambda: torch.mm(weight, rows.t()))
    )
    return other < own


def _is_plain(weight: Tensor) -> bool:
    """Whether a weight is no quantised or otherwise special tensor, which may not know the other product."""
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.dtype == torch.float32


def close_linears(modules: Iterable[nn.Module]) -> None:
    """Give linear layers their own forward back."""
    for module in modules:
        own = vars(module).get("forward")
        if isinstance(own, partial) and own.func is _linear:
            del module.forward


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    rows = x.numel() // x.shape[-1]
    if not (_few.get() and 1 < rows <= _MOST_ROWS and x.device.type == "cpu" and x.dtype == torch.float32):
        return nn.functional.linear(x, module.weight, module.bias)
    product = torch.mm(module.weight, x.reshape(rows, -1).t()).t().contiguous().view(*x.shape[:-1], -1)
    return product if module.bias is None else product + module.bias
