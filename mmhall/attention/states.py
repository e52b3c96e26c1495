"""Hooks at the sites of layers, for the time that a plan names them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmhall.attention.ops import Visit
from mmhall.attention.passes import Frame, Passes, current
from mmhall.attention.rows import uncast
from mmhall.errors import CompositionError


@contextmanager
def standing(frame: Frame, modules: Mapping[tuple[int, str], nn.Module]) -> Iterator[None]:
    """Let ops visit sites, in passes that this frame announces, as long as this context lasts."""
    hooks = []
    try:
        for (layer, site), module in modules.items():
            visit = partial(_visit, frame, layer, site)
            if site == "in":
                hooks.append(module.register_forward_pre_hook(visit, with_kwargs=True))
            else:
                hooks.append(module.register_forward_hook(visit, with_kwargs=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _visit(frame: Frame, layer: int, site: str, module: nn.Module, args: tuple[Any, ...], *rest: Any) -> Any:
    """Show a site's states to the ops that named it; return the module's output with what they wrote.

    Where another thread takes its hooks away at this moment, torch calls without the keyword arguments.
    """
    passes = current()
    if passes is None or passes.frame is not frame:
        return None
    if site == "in":
        _edited(passes, layer, site, *[_entering(args, rest[0])] * 2)
        return None
    kwargs, output = rest
    states = output[0] if isinstance(output, tuple) else output
    edited = _edited(passes, layer, site, states, _entering(args, kwargs))
    if edited is states:
        return None
    return (edited, *output[1:]) if isinstance(output, tuple) else edited


def _entering(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the states that a module was given."""
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states


def _edited(passes: Passes, layer: int, site: str, states: Tensor, source: Tensor) -> Tensor:
    """Return states as the ops of each block leave them; the same tensor where none changed them."""
    queries, size = passes.blocks[0].queries, states.shape[-1]
    flat = states.ndim == 2  # OPT's MLP reads all tokens of a batch as one list
    whole, entering = (part.view(-1, queries, part.shape[-1]) if flat else part for part in (states, source))
    parts, changed = list(whole.chunk(len(passes.blocks))), False
    entered = entering.chunk(len(passes.blocks))
    with uncast(states):
        for index, where in enumerate(passes.blocks):
            plan, own = where.block.plan, parts[index]
            if plan is None:
                continue
            for op in plan.at_site(layer, site):
                visit = Visit(layer, plan.kinds[layer], where, site, parts[index], entered[index])
                if site == "in":
                    op.see_states(visit)
                    continue
                own = _checked(op.edit_states(visit, own), own)
            changed |= own is not parts[index]
            parts[index] = own
    if not changed:
        return states
    edited = torch.cat(parts) if len(parts) > 1 else parts[0]
    return edited.reshape(-1, size) if flat else edited


def _checked(edited: Tensor, before: Tensor) -> Tensor:
    """Refuse states of another shape; return them in the dtype that they had.

    Raises:
        CompositionError: The shape differs: broadcast, it would be states of something else.
    """
    if not isinstance(edited, Tensor) or edited.shape != before.shape:
        got = f"shape {tuple(edited.shape)}" if isinstance(edited, Tensor) else type(edited).__name__
        raise CompositionError(f"`edit_states` must return states of shape {tuple(before.shape)}, got {got}")
    return edited.to(before.dtype)
