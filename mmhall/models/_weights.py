"""A digest of a model's weights that tells models apart, also quantised ones and those that lie partly on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

UNREAD = "not read"


def digest(model: nn.Module) -> dict[str, str | None]:
    """Return a digest of every weight's shape, sum and norm.

    A quantised tensor counts by the tensors it is made of, a weight that lies on disk by what is there. One that
    cannot be read counts by name and shape, and "weights_unread" says how many these are.

    Returns:
        "weights": 16 hexadecimal digits; "weights_unread", only if there are any.
    """
    told = [(name, tuple(tensor.shape), *_figures(tensor)) for name, tensor in _weights(model)]
    found: dict[str, str | None] = {"weights": hashlib.sha256(repr(told).encode()).hexdigest()[:16]}
    unread = sum(UNREAD in figures for _, _, *figures in told)
    if unread:
        found["weights_unread"] = f"{unread} of {len(told)}; these count by name and shape alone"
    return found


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield all parameters; of quantised models and layers also the buffers they are saved with, and packed weights."""
    held = {id(tensor): name for name, tensor in model.named_parameters()}
    quantised = getattr(model, "hf_quantizer", None) is not None
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    for path, module in model.named_modules():
        stored = _on_disk(module)
        saved = module._buffers.keys() - module._non_persistent_buffers_set if quantised or _holds_codes(module) else ()
        for name, tensor in (*module._parameters.items(), *((name, module._buffers[name]) for name in sorted(saved))):
            if tensor is None or (name in module._parameters and id(tensor) not in held):
                continue
            held.pop(id(tensor), None)  # one that is used twice counts once
            full = f"{path}.{name}" if path else name
            if not (tensor.is_meta and full in tied):  # nor there, where it has become two
                yield from _parts(full, _loaded(tensor, stored, name))
        packed = getattr(module, "weight", None)
        if callable(packed):  # torch's own quantised layers
            yield f"{path}.weight", packed().dequantize()


def _holds_codes(module: nn.Module) -> bool:
    """Whether a layer has codes for weights, as GPTQ and AWQ do, whoever made it."""
    return any(b is not None and b.dim() > 1 and not b.is_floating_point() for b in module._buffers.values())


def _parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the plain tensors that a tensor is made of: itself, or codes and scales."""
    if is_traceable_wrapper_subclass(tensor):
        for part in tensor.__tensor_flatten__()[0]:
            yield from _parts(f"{name}.{part}", getattr(tensor, part))
        return
    yield name, tensor
    scales = getattr(getattr(tensor, "quant_state", None), "absmax", None)  # of bitsandbytes
    if scales is not None:
        yield f"{name}.absmax", scales


def _on_disk(module: nn.Module) -> Any:
    """Return where accelerate keeps the weights of a module that lie on no device, by name; None: nowhere."""
    hook = getattr(module, "_hf_hook", None)
    maps = (getattr(one, "weights_map", None) for one in getattr(hook, "hooks", (hook,)))
    return next((found for found in maps if found is not None), None)


def _loaded(tensor: Tensor, stored: Any, name: str) -> Tensor:
    """Return a weight as it lies on disk, if it lies on no device."""
    if not tensor.is_meta or stored is None:
        return tensor
    try:
        found: Tensor = stored[name]
    except KeyError:
        return tensor
    return found


def _figures(tensor: Tensor) -> tuple[str, ...]:
    if tensor.is_meta:
        return (UNREAD,)
    try:
        values = tensor.detach().double()
        return f"{values.sum():.6e}", f"{values.norm():.6e}"
    except (NotImplementedError, RuntimeError, TypeError, ValueError):  # a kind of tensor nobody told us of
        return (UNREAD,)
