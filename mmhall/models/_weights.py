"""Digest of a model's weights, which also covers quantised models and weights offloaded to disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

UNREAD = "not read"


def digest(model: nn.Module) -> dict[str, str | None]:
    """Return a digest of shape, sum and norm of every weight.

    A quantised tensor is represented by its component tensors, an offloaded weight by its values on disk. A weight
    that cannot be read is represented by name and shape; "weights_unread" states their number.

    Returns:
        "weights": 16 hexadecimal digits; "weights_unread", only if there are any.
    """
    figures = [(name, tuple(tensor.shape), *_figures(tensor)) for name, tensor in _weights(model)]
    result: dict[str, str | None] = {"weights": hashlib.sha256(repr(figures).encode()).hexdigest()[:16]}
    unread = sum(UNREAD in values for _, _, *values in figures)
    if unread:
        result["weights_unread"] = f"{unread} of {len(figures)}; these count by name and shape alone"
    return result


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield names and values of all parameters, and of saved buffers and packed weights if quantised."""
    remaining = {id(tensor): name for name, tensor in model.named_parameters()}
    quantised = getattr(model, "hf_quantizer", None) is not None
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    for path, module in model.named_modules():
        stored = _on_disk(module)
        saved = module._buffers.keys() - module._non_persistent_buffers_set if quantised or _holds_codes(module) else ()
        for name, tensor in (*module._parameters.items(), *((name, module._buffers[name]) for name in sorted(saved))):
            if tensor is None or (name in module._parameters and id(tensor) not in remaining):
                continue
            remaining.pop(id(tensor), None)  # a shared tensor counts once
            full = f"{path}.{name}" if path else name
            if not (tensor.is_meta and full in tied):  # offloading turns a tied tensor into two
                yield from _parts(full, _loaded(tensor, stored, name))
        packed = getattr(module, "weight", None)
        if callable(packed):  # quantised layers of torch
            yield f"{path}.weight", packed().dequantize()


def _holds_codes(module: nn.Module) -> bool:
    """Whether a layer stores its weights as integer codes, as GPTQ and AWQ do."""
    return any(b is not None and b.dim() > 1 and not b.is_floating_point() for b in module._buffers.values())


def _parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the plain tensors of a tensor: itself, or its codes and scales."""
    if is_traceable_wrapper_subclass(tensor):
        for part in tensor.__tensor_flatten__()[0]:
            yield from _parts(f"{name}.{part}", getattr(tensor, part))
        return
    yield name, tensor
    scales = getattr(getattr(tensor, "quant_state", None), "absmax", None)  # of bitsandbytes
    if scales is not None:
        yield f"{name}.absmax", scales


def _on_disk(module: nn.Module) -> Any:
    """Return accelerate's map of a module's offloaded weights, by name, or None where there is none."""
    hook = getattr(module, "_hf_hook", None)
    maps = (getattr(part, "weights_map", None) for part in getattr(hook, "hooks", (hook,)))
    return next((weights for weights in maps if weights is not None), None)


def _loaded(tensor: Tensor, stored: Any, name: str) -> Tensor:
    """Return a weight; if it is offloaded, read it from disk."""
    if not tensor.is_meta or stored is None:
        return tensor
    try:
        loaded: Tensor = stored[name]
    except KeyError:
        return tensor
    return loaded


def _figures(tensor: Tensor) -> tuple[str, ...]:
    if tensor.is_meta:
        return (UNREAD,)
    try:
        values = tensor.detach().double()
        return f"{values.sum():.6e}", f"{values.norm():.6e}"
    except (NotImplementedError, RuntimeError, TypeError, ValueError):  # an unknown kind of tensor
        return (UNREAD,)
