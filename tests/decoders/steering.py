"""Naive references of strategies that steer hidden states: hooks on plain models, one prompt at a time, no cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs
from mmhall.adapters._anatomy import Anatomy
from tests.decoders.rows import Reader


@contextmanager
def edited(reader: Reader, site: str, layers: Sequence[int], edit: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Edit what comes out of a site of layers of the eager copy, (T, D), while it reads a prompt with an answer."""
    stack, hooks = Anatomy(reader.eager.model).decoder, []
    for layer in layers:

        def change(module, args, output, layer=layer):
            states = output[0] if isinstance(output, tuple) else output
            changed = edit(layer, states.view(-1, states.shape[-1])).view_as(states)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        hooks.append(stack.site(layer, site).register_forward_hook(change))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def outputs(adapter: Adapter, inputs: Inputs) -> list[Tensor]:
    """Return the output of every layer of the plain model for a single prompt, (T, D) each."""
    found, hooks = {}, []

    def note(module, args, kwargs, output, layer):
        states = output[0] if isinstance(output, tuple) else output
        before = args[0] if args else kwargs["hidden_states"]
        found.setdefault(-1, before[0])
        found[layer] = states[0]

    for layer, module in enumerate(adapter.layers):
        hook = module.register_forward_hook(lambda *call, layer=layer: note(*call, layer=layer), with_kwargs=True)
        hooks.append(hook)
    with torch.inference_mode():
        adapter.model_for(inputs)(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    for layer in range(len(adapter.layers)):
        found.setdefault(layer, found[layer - 1])  # a cross-attention layer, not passed without a picture
    return [found[layer] for layer in range(len(adapter.layers))]


def turned(states: Tensor, direction: Tensor, strength: float, *, gated: bool = False) -> Tensor:
    """Turn each row, (T, D), towards a direction, (D,), one at a time."""
    rows = []
    for row in states:
        unit, towards = row / row.norm(), direction / direction.norm()
        gate = 1 + max(0.0, float(-unit @ towards)) if gated else 1.0
        moved = unit + strength * gate * towards
        rows.append(row.norm() * moved / moved.norm())
    return torch.stack(rows)


def from_row(first: int, states: Tensor, edit: Callable[[Tensor], Tensor]) -> Tensor:
    """Edit rows from one on."""
    return torch.cat([states[:first], edit(states[first:])])
