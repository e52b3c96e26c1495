"""Hidden-state hooks at the sites of layers, present only while a plan names the sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmhall.attention._ops import Op, Visit
from mmhall.attention._passes import Frame, current_passes, suspended
from mmhall.attention._rows import uncast
from mmhall.errors import CompositionError


@contextmanager
def hook_sites(frames: tuple[Frame, ...], modules: Mapping[tuple[int, str], nn.Module]) -> Iterator[None]:
    """Hook sites inside this context, so that ops read and edit them in the passes of these frames."""

    def live() -> bool:
        passes = current_passes()
        return passes is not None and passes.frames is frames

    hooks = []
    try:
        for (layer, site), module in modules.items():
            hooks.append(hook_site(module, site, live, partial(_edit_blocks, layer, site)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def hook_site(
    module: nn.Module, site: str, live: Callable[[], bool], edit: Callable[[Tensor, Tensor], Tensor]
) -> RemovableHandle:
    """Hook a function to a site of a layer.

    Args:
        module: Module of the site.
        site: "in" for the input of the module, any other name for its output.
        live: Returns whether the function acts in the current pass.
        edit: Takes the states and the input of the module; returns edited states, or the same tensor. At "in" both are
            the input.
    """

    def visit(module: nn.Module, args: tuple[Any, ...], *rest: Any) -> Any:
        if not live():  # torch omits keyword arguments while another thread removes its hooks
            return None
        source = module_input(args, rest[0])
        if site == "in":
            moved = getattr(getattr(module, "_hf_hook", None), "execution_device", None)  # accelerate moves it later
            source = source if moved is None else source.to(moved)
            edited = edit(source, source)
            return None if edited is source else _with_input(args, rest[0], edited)
        output = rest[1]
        states = output[0] if isinstance(output, tuple) else output
        edited = edit(states, source.to(states.device))
        if edited is states:
            return None
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    if site == "in":
        return module.register_forward_pre_hook(visit, with_kwargs=True)
    # before the hooks with which transformers collects hidden states: LLaVA projects those of an inner layer
    return module.register_forward_hook(visit, with_kwargs=True, prepend=True)


def module_input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the states that were passed to a module."""
    states: Tensor = args[0] if args else kwargs[_name_of_input(kwargs)]
    return states


def _with_input(args: Sequence[Any], kwargs: Mapping[str, Any], states: Tensor) -> tuple[Any, Any]:
    """Return the arguments of a module with other states."""
    if args:
        return (states, *args[1:]), dict(kwargs)
    return tuple(args), {**kwargs, _name_of_input(kwargs): states}


def _name_of_input(kwargs: Mapping[str, Any]) -> str:
    return next(name for name in ("hidden_states", "hidden_state") if name in kwargs)


def run_ops(visit: Visit, ops: Sequence[Op]) -> Tensor:
    """Run ops at a site; return the edited states, the same tensor where no op changed them."""
    states = visit.states
    with suspended(), uncast(states):
        for op in ops:
            if visit.site in op.sites:
                states = _check_edited(op.edit_states(visit, states), states)
        if visit.site == "in":
            entered = visit if states is visit.states else replace(visit, states=states)
            for op in ops:
                op.see_states(entered)
    return states


def _edit_blocks(layer: int, site: str, states: Tensor, source: Tensor) -> Tensor:
    """Run the ops of each block at a site; return the edited states, the same tensor where no op changed them."""
    passes = current_passes()
    assert passes is not None
    queries, size = passes.blocks[0].queries, states.shape[-1]
    flat = states.ndim == 2  # the MLP of OPT reads all tokens of a batch as one list
    output, source = (part.view(-1, queries, part.shape[-1]) if flat else part for part in (states, source))
    parts, changed = [output[where.rows] for where in passes.blocks], False
    for index, where in enumerate(passes.blocks):
        plan, before = where.block.plan, parts[index]
        if plan is not None and plan.at_site(layer, site):
            visit = Visit(layer, plan.kinds[layer], where, site, before, source[where.rows])
            parts[index] = run_ops(visit, plan.at_site(layer, site))
        changed |= parts[index] is not before
    if not changed:
        return states
    edited = torch.cat(parts) if len(parts) > 1 else parts[0]
    return edited.reshape(-1, size) if flat else edited


def _check_edited(edited: Tensor, before: Tensor) -> Tensor:
    """Check that edited states have the original shape; return them in the original dtype.

    Raises:
        CompositionError: The shape differs; broadcasting would give wrong states.
    """
    if not isinstance(edited, Tensor) or edited.shape != before.shape:
        got = f"shape {tuple(edited.shape)}" if isinstance(edited, Tensor) else type(edited).__name__
        raise CompositionError(f"`edit_states` must return states of shape {tuple(before.shape)}, got {got}")
    return edited.to(before.dtype)
