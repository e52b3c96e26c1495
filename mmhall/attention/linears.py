"""Linear layers of a few rows on a CPU.

A decoding step of stacked branches multiplies a handful of rows with every weight matrix. Asked for x W^T
with two or more rows but few, MKL reads W once for each row, so that two rows take as long as two passes;
asked for the same product as W x^T it reads W once. transformers' own steps are left alone: where nobody
enters `few_rows`, a linear layer is torch's, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

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
    """Let linear layers choose the order by the number of rows; those with a forward of someone else's keep it."""
    for module in modules:
        if type(module) is nn.Linear and "forward" not in vars(module):
            module.forward = partial(_linear, module)  # type: ignore[method-assign]


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
