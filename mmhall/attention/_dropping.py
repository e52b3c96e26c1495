"""Drop tokens of the prompt, such as those of the picture, from a decoder layer on.

From that layer on, the rows of dropped tokens are not computed and their keys and values are not kept. All other rows
keep their positions, and come out as if the dropped tokens' columns were masked in these layers. Between layers the
sequence is whole: the states of a dropped token stay what they were when it was dropped, and nobody reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmhall._transformers import caches
from mmhall._transformers.calls import LAYER_AXES
from mmhall.attention._layout import Layout, cut_mask, picked
from mmhall.attention._ops import Op
from mmhall.attention._passes import Frame, Pass, Passes, current
from mmhall.errors import CompositionError, ModelError

_OURS = ("attention_mask", "hidden_states")
_CARRIED = ("full", "sliding")


class Drop(Op):
    """Drops tokens of the prompts from a layer on; other ops of the same rows act on attention before that layer only.

    Attributes:
        layer: 0-based; from here on the tokens are not there.
    """

    def __init__(self, layer: int, dropped: Tensor | Callable[[], Tensor]) -> None:
        """Drop tokens.

        Args:
            layer: 0-based.
            dropped: Which, (prompts, positions) bool, padding counted; it may be dropped too: a batch becomes as short
                as the prompt that keeps most. Or what returns that: it is called when the reading of a prompt has come
                to the layer, so that ops can see the layers before it.

        Raises:
            CompositionError: As in `Layout.of`.
        """
        self.layer = layer
        self._choose = None if isinstance(dropped, Tensor) else dropped
        self._layout = Layout.of(dropped) if isinstance(dropped, Tensor) else None

    @property
    def empty(self) -> bool:
        """Whether it is known that nothing is dropped."""
        return self._choose is None and self.layout.whole

    @property
    def layout(self) -> Layout:
        """What was chosen last.

        Raises:
            ModelError: Nothing was: no prompt was read.
        """
        if self._layout is None:
            raise ModelError(f"no prompt was read from which tokens are dropped in layer {self.layer}; read it first")
        return self._layout

    def acts(self, layer: int) -> bool:
        """Whether tokens are missing in a layer."""
        return layer >= self.layer and not self.empty

    def choose(self) -> None:
        """Choose what to drop from the prompts that are being read."""
        if self._choose is not None:
            self._layout = Layout.of(self._choose())


def check_layers(drop: Drop, config: Any, kinds: Sequence[str], newest_only: frozenset[int]) -> None:
    """Refuse to drop tokens in layers where that is not the same as to mask them.

    Args:
        drop: From which layer on.
        config: The decoder's.
        kinds: Of all layers.
        newest_only: Layers that share the keys of earlier ones.

    Raises:
        ModelError: Some layer is such.
    """
    family, depth = config.model_type, len(kinds)
    if drop.layer not in range(depth):
        raise ModelError(f"there is no layer {drop.layer} to drop tokens from: the model's are 0 to {depth - 1}")
    told = f"{family}: tokens cannot be dropped from layer {drop.layer} on"
    for layer, kind in enumerate(kinds):
        if drop.acts(layer) and kind not in _CARRIED:
            raise ModelError(f"{told}: layer {layer} is of kind {kind!r}, and only {' and '.join(_CARRIED)} ones can")
        if drop.acts(layer) and layer in newest_only:
            raise ModelError(f"{told}: layer {layer} reads the keys of an earlier layer")
    if not drop.empty and getattr(config, "attn_temperature_tuning", False):
        raise ModelError(f"{told}: its attention counts positions by itself, and would count those left")


@contextmanager
def dropping(frame: Frame, modules: Mapping[int, nn.Module]) -> Iterator[None]:
    """Let layers do without the tokens that plans drop, in passes that a frame announces, inside this context.

    Args:
        frame: The passes.
        modules: The layers in which some plan of the frame drops tokens.
    """
    held, hooks = _Dropping(frame), []
    try:
        for layer, module in modules.items():
            hooks.append(module.register_forward_pre_hook(partial(held.enter, layer), with_kwargs=True))
            hooks.append(module.register_forward_hook(held.leave, prepend=True))  # whoever looks on sees all rows
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Dropping:
    """What the hooks of a frame hold between each other."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._passes: Passes | None = None
        self._held: dict[Hashable, tuple[Any, Any]] = {}  # what was cut and what came of it: layers share it
        self._entered: tuple[Tensor, Tensor, Tensor] | None = None  # states, the rows that are left, which are kept

    def enter(self, layer: int, module: nn.Module, args: tuple[Any, ...], *rest: Any) -> Any:
        """Give a layer the rows that are kept, and masks for its columns.

        Where another thread takes its hooks away at this moment, torch calls without the keyword arguments.
        """
        passes = current()
        if passes is None or passes.frame is not self._frame:
            return None
        if passes is not self._passes:
            self._passes, self._entered, self._held = passes, None, {}
        states: Tensor = args[0] if args else rest[0]["hidden_states"]
        if passes.blocks[0].end > passes.blocks[0].queries:
            return args, self._later(layer, passes, states, rest[0])
        layout = _chosen(layer, passes)
        if layout.whole:
            return None
        where, missing = passes.blocks[0], layout.prompt - layout.width
        count = where.queries - missing
        at, seen = self._once(layout, lambda: layout.columns(where, count, len(states), states.device))
        rows = at + where.end
        caches.shorten(where.cache, layer, missing)
        self._entered = states, rows, seen
        kwargs = {name: self._along(name, value, rows) for name, value in rest[0].items() if name not in _OURS}
        mask = rest[0].get("attention_mask")
        hidden = seen if layout.ragged else None
        kwargs["attention_mask"] = self._once(mask, lambda: cut_mask(mask, at, hidden, rows))
        fewer = picked(states, rows, -3, -2)
        if not args:
            return args, {**kwargs, "hidden_states": fewer}
        return (fewer, *(self._along("a positional argument", value, rows) for value in args[1:])), kwargs

    def leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Put the rows of a layer back among those that were dropped."""
        passes = current()
        if passes is None or passes is not self._passes or self._entered is None:
            return None
        states = output[0] if isinstance(output, tuple) else output
        (whole, rows, seen), self._entered = (part.to(states.device) for part in self._entered), None
        rows = rows[..., None].expand_as(states)
        whole = whole.scatter(1, rows, torch.where(seen[..., None], states, whole.gather(1, rows)))
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    def _later(self, layer: int, passes: Passes, states: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Cut the mask of a layer that reads tokens of answers: some columns are not there."""
        layouts = [_layout(layer, where) for where in passes.blocks]
        if not any(layouts):
            return kwargs
        mask, queries = kwargs.get("attention_mask"), passes.blocks[0].queries
        count, rows = caches.count_columns(passes.blocks[0].cache, layer) + queries, len(states) // len(layouts)
        pairs = list(zip(passes.blocks, layouts, strict=True))

        def cut() -> Tensor | None:
            parts = [_columns(*pair, count, rows, states.device) for pair in pairs]
            at, seen = (torch.cat(part) for part in zip(*parts, strict=True))
            every = all(_all_seen(*pair, count) for pair in pairs)
            return cut_mask(mask, at, None if every else seen, queries=queries)

        return {**kwargs, "attention_mask": self._once(mask, cut, count, *map(bool, layouts))}

    def _along(self, name: str, value: Any, rows: Tensor) -> Any:
        """Cut something that a layer is given, if it runs along the sequence.

        Raises:
            ModelError: It may do so, in an unknown way.
        """
        parts = value if isinstance(value, tuple | list) else (value,)
        if not any(isinstance(part, Tensor) and part.ndim for part in parts):
            return value
        if name not in LAYER_AXES:
            raise ModelError(f"tokens cannot be dropped: layers of this model are given {name}, which may hold theirs")
        axes = LAYER_AXES[name]
        if isinstance(value, Tensor):
            return self._once(value, lambda: picked(value, rows, *axes))
        return self._once(value, lambda: tuple(picked(part, rows, *axes) for part in value))

    def _once(self, value: Any, make: Callable[[], Any], *more: Hashable) -> Any:
        """Make something of a value that other layers of the pass are given, too."""
        key = id(value), *more
        if key not in self._held:
            self._held[key] = value, make()
        return self._held[key][1]


def _chosen(layer: int, passes: Passes) -> Layout:
    """Return what to drop in a pass that reads prompts; in the first layer concerned it is chosen."""
    where = passes.blocks[0]
    drop = where.block.plan.drop if where.block.plan is not None else None
    if len(passes.blocks) > 1 or drop is None:
        raise CompositionError("prompts from which tokens are dropped cannot be read together with those of branches")
    if layer == drop.layer:
        drop.choose()
    return drop.layout


def _layout(layer: int, where: Pass) -> Layout | None:
    """Return what was dropped of a block's prompts in a layer; None: nothing.

    Raises:
        ModelError: The pass reads a part of the prompts only.
    """
    drop = where.block.plan.drop if where.block.plan is not None else None
    if drop is None or not drop.acts(layer) or drop.layout.whole:
        return None
    if where.end - where.queries < drop.layout.prompt - 1:
        raise ModelError("a prompt from which tokens are dropped must be read in one pass, and only a part is")
    return drop.layout


def _columns(where: Pass, layout: Layout | None, count: int, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what the last columns hold as `Layout.columns` does; without a layout each position has one."""
    if layout is not None:
        return layout.columns(where, count, rows, device)
    at = torch.arange(-count, 0, device=device).expand(rows, -1)
    return at, at >= -where.end


def _all_seen(where: Pass, layout: Layout | None, count: int) -> bool:
    """Whether all of the last columns may be seen, but those in the padding of the batch."""
    return layout is None or (not layout.ragged and count == layout.width + where.end - layout.prompt)
