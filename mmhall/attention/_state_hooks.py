"""Hooks at the sites of layers, for the time that a plan names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmhall.attention._ops import Op, Visit
from mmhall.attention._passes import Frame, current, suspended
from mmhall.attention._rows import uncast
from mmhall.errors import CompositionError


@contextmanager
def standing(frame: Frame, modules: Mapping[tuple[int, str], nn.Module]) -> Iterator[None]:
    """Let ops visit sites, in passes that this frame announces, as long as this context lasts."""

    def live() -> bool:
        passes = current()
        return passes is not None and passes.frame is frame

    hooks = []
    try:
        for (layer, site), module in modules.items():
            hooks.append(hooked(module, site, live, partial(_edited, layer, site)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def hooked(
    module: nn.Module, site: str, live: Callable[[], bool], edit: Callable[[Tensor, Tensor], Tensor]
) -> RemovableHandle:
    """Hook a function to a site of a layer.

    Args:
        module: What holds the site.
        site: "in" for what enters the module, else for what leaves it.
        live: Whether the pass that calls the module is concerned.
        edit: Takes the states and what enters the module; returns edited states, or the same tensor.
    """

    def visit(module: nn.Module, args: tuple[Any, ...], *rest: Any) -> Any:
        if not live():  # where another thread takes its hooks away just now, torch calls without keyword arguments
            return None
        source = entering(args, rest[0])
        if site == "in":
            moved = getattr(getattr(module, "_hf_hook", None), "execution_device", None)  # by accelerate, after this
            source = source if moved is None else source.to(moved)
            edit(source, source)
            return None
        output = rest[1]
        states = output[0] if isinstance(output, tuple) else output
        edited = edit(states, source.to(states.device))
        if edited is states:
            return None
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    if site == "in":
        return module.register_forward_pre_hook(visit, with_kwargs=True)
    # before the hooks by which transformers collects hidden states: LLaVA projects those of an inner layer
    return module.register_forward_hook(visit, with_kwargs=True, prepend=True)


def entering(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the states that a module was given."""
    named = (kwargs[name] for name in ("hidden_states", "hidden_state") if name in kwargs)
    states: Tensor = args[0] if args else next(named)
    return states


def visited(visit: Visit, ops: Sequence[Op]) -> Tensor:
    """Show a site to ops; return its states as they leave them, the same tensor where none changed them."""
    states = visit.states
    with suspended(), uncast(states):
        for op in ops:
            if visit.site == "in":
                op.see_states(visit)
            else:
                states = _checked(op.edit_states(visit, states), states)
    return states


def _edited(layer: int, site: str, states: Tensor, source: Tensor) -> Tensor:
    """Return states as the ops of each block leave them; the same tensor where none changed them."""
    passes = current()
    assert passes is not None
    queries, size = passes.blocks[0].queries, states.shape[-1]
    flat = states.ndim == 2  # OPT's MLP reads all tokens of a batch as one list
    whole, given = (part.view(-1, queries, part.shape[-1]) if flat else part for part in (states, source))
    parts, changed = list(whole.chunk(len(passes.blocks))), False
    entered = given.chunk(len(passes.blocks))
    for index, where in enumerate(passes.blocks):
        plan, own = where.block.plan, parts[index]
        if plan is not None and plan.acts_at_site(layer, site):
            visit = Visit(layer, plan.kinds[layer], where, site, own, entered[index])
            parts[index] = visited(visit, plan.acts_at_site(layer, site))
        changed |= parts[index] is not own
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
