"""Faster linear layers for a few rows on a CPU.

A decoding step of stacked branches multiplies a few rows with every weight matrix. For x W^T with 2 to 4 rows, MKL
reads W once for each row on some processors (AMD), so that two rows take as long as two passes where W is in no cache;
for the same product written as W x^T it reads W once. With more rows, which depends on the shape of W, and on other
processors (Intel), x W^T is faster. So both orders are measured on the weights of the model, when one of its kind is
first opened: one weight after the other, as in a pass, because a weight that was read just before comes from a cache,
where x W^T is faster. Outside `few_rows`, as in the decoding of transformers itself, a linear layer computes what torch
computes, to the last bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from math import inf
from statistics import mean
from time import perf_counter

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
"""The shape of a weight: (outputs, inputs)."""

_COUNTS = 2, 3, 5, 8  # numbers of rows that are measured; from about twelve on, x W^T is faster
_TURNS = 3  # the fastest of them counts
_GAIN = 0.8  # of the time of x W^T: noise must not decide, or processes that share a run differ in the last digits
_LEAST_BYTES = 2**26  # of all weights: fewer are in a cache, where the orders differ little
_MOST_BYTES = 2**27  # of the weights of one shape that are measured: no cache holds so many
_few: ContextVar[bool] = ContextVar("mmhall_few_rows", default=False)
_chosen: dict[tuple[tuple[Shape, int], ...], dict[Shape, int]] = {}


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
    layers = [
        module
        for module in modules
        if type(module) is nn.Linear and "forward" not in vars(module) and _is_plain(module.weight)
    ]
    chosen = choose_orders([layer.weight for layer in layers])
    for layer in layers:
        most = chosen[_shape(layer.weight)]
        if most > 1:
            layer.forward = partial(_linear, layer, most)  # type: ignore[method-assign]


def choose_orders(weights: Sequence[Tensor]) -> dict[Shape, int]:
    """Return the largest number of rows for which W x^T is clearly faster than x W^T, by shape of the weight; 1: none.

    Weights of the same shapes are measured once a process, so that a model that is opened twice computes the same.

    Args:
        weights: All weights that a pass reads, (outputs, inputs) each.
    """
    shapes = Counter(map(_shape, weights))
    key = tuple(sorted(shapes.items()))
    if key not in _chosen:
        most, left = dict.fromkeys(shapes, 1), list(weights)
        for rows in _COUNTS if sum(weight.nbytes for weight in weights) > _LEAST_BYTES else ():
            faster = {shape for shape, (usual, swapped) in time_orders(left, rows).items() if swapped < _GAIN * usual}
            most |= dict.fromkeys(faster, rows)
            left = [weight for weight in left if _shape(weight) in faster]
        _chosen[key] = most
    return _chosen[key]


@torch.inference_mode()
def time_orders(weights: Sequence[Tensor], rows: int) -> dict[Shape, tuple[float, float]]:
    """Measure the products of a few rows with weights, in both orders.

    Each order takes its turn with all weights, as a pass reads them; of one shape 128 MB at most, or one weight.

    Args:
        weights: The weights, (outputs, inputs) each.
        rows: Number of rows.

    Returns:
        Mean seconds of x W^T and of W x^T, by shape of the weight; the fastest of three turns counts for each weight.
    """
    read = _sample(weights)
    inputs = {
        weight.shape[1]: torch.ones(rows, weight.shape[1], dtype=weight.dtype, device=weight.device) for weight in read
    }
    orders: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (nn.functional.linear, _swapped)
    seconds = [[inf, inf] for _ in read]
    for _ in range(_TURNS):
        for order, product in enumerate(orders):
            for weight, best in zip(read, seconds, strict=True):
                began = perf_counter()
                product(inputs[weight.shape[1]], weight)
                best[order] = min(best[order], perf_counter() - began)
    by_shape: dict[Shape, list[list[float]]] = {}
    for weight, best in zip(read, seconds, strict=True):
        by_shape.setdefault(_shape(weight), []).append(best)
    return {shape: (mean(u for u, _ in times), mean(s for _, s in times)) for shape, times in by_shape.items()}


def _sample(weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the first weights of each shape, in order, up to a number of bytes."""
    room, sample = dict.fromkeys(map(_shape, weights), _MOST_BYTES), []
    for weight in weights:
        if room[_shape(weight)] > 0:
            room[_shape(weight)] -= weight.nbytes
            sample.append(weight)
    return sample


def _shape(weight: Tensor) -> Shape:
    return tuple(weight.shape)


def _is_plain(weight: Tensor) -> bool:
    """Whether a weight is a plain float32 parameter on the CPU; quantised tensors may not support W x^T."""
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.dtype == torch.float32


def restore_linears(modules: Iterable[nn.Module]) -> None:
    """Restore the original forward of linear layers."""
    for module in modules:
        forward = vars(module).get("forward")
        if isinstance(forward, partial) and forward.func is _linear:
            del module.forward


def _linear(module: nn.Linear, most: int, x: Tensor) -> Tensor:
    rows = x.numel() // x.shape[-1]
    if not (_few.get() and 1 < rows <= most and x.device.type == "cpu" and x.dtype == torch.float32):
        return nn.functional.linear(x, module.weight, module.bias)
    product = _swapped(x.reshape(rows, -1), module.weight).view(*x.shape[:-1], -1)
    return product if module.bias is None else product + module.bias


def _swapped(x: Tensor, weight: Tensor) -> Tensor:
    """Compute x W^T, (rows, outputs), as the transpose of W x^T."""
    return torch.mm(weight, x.t()).t().contiguous()
