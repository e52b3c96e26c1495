"""Show what enters a decoder layer to the active plan, through a hook that does nothing where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from mmhall.attention.plan import current

_TAP = "_mmhall_tap"  # a copy of an open decoder carries hook and mark alike


def open_taps(layers: Sequence[nn.Module]) -> None:
    """Put a tap before each layer."""
    for index, layer in enumerate(layers):
        if not hasattr(layer, _TAP):
            setattr(layer, _TAP, layer.register_forward_pre_hook(partial(_show, index), with_kwargs=True))


def close_taps(decoder: nn.Module) -> None:
    """Take them away."""
    for module in decoder.modules():
        if hasattr(module, _TAP):
            getattr(module, _TAP).remove()
            delattr(module, _TAP)


def _show(layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    plan, copies = current()
    if plan is not None and plan.watched(layer):
        states = args[0] if args else kwargs["hidden_states"]
        plan.see_states(layer, states[: len(states) // copies])
