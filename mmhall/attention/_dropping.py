"""Dropping of prompt tokens, such as image tokens, from a decoder layer on.

From that layer on, the rows of dropped tokens are not computed and their keys and values are not cached. All other
rows keep their positions; their states are the same as if the columns of dropped tokens were masked in these layers.
Between layers the sequence keeps its full length: the states of a dropped token do not change and are not read.

Tokens dropped from the first layer on can also leave no gap: the tokens after them then get the positions that they
would have in a shorter prompt. All else counts positions with gaps.
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
from mmhall.attention._layout import Layout, cut_mask, gather_rows
from mmhall.attention._ops import Op
from mmhall.attention._passes import Frame, Pass, Passes, current_passes
from mmhall.errors import CompositionError, ModelError

_HANDLED = ("attention_mask", "hidden_states")  # layer arguments that are cut explicitly
_SUPPORTED = ("full", "sliding")  # kinds of layers in which tokens can be dropped


class Drop(Op):
    """Op that drops prompt tokens from a layer on.

    Attributes:
        layer: 0-based; first layer without the tokens.
        contiguous: Whether rotary embeddings see the positions of a prompt without the dropped tokens.
    """

    def __init__(self, layer: int, dropped: Tensor | Callable[[], Tensor], *, contiguous: bool = False) -> None:
        """Drop tokens from a layer on.

        Args:
            layer: 0-based.
            dropped: Tokens to drop, (prompts, positions) bool, padding included. Padding may be dropped too: the batch
                becomes as short as the prompt that keeps most tokens. Or a function that returns this tensor: it is
                called when a pass over the prompt reaches the layer, so that ops can read the earlier layers first.
            contiguous: Close the gaps in the positions of the tokens that are left. Needs layer 0; padding must not be
                dropped.

        Raises:
            CompositionError: As in `Layout.of`; or gaps are to be closed, but earlier layers keep all tokens.
        """
        if contiguous and layer:
            raise CompositionError(
                f"gaps in the positions can be closed if tokens are dropped from layer 0 on, not from layer {layer}: "
                "earlier layers read them at their own positions"
            )
        self.layer, self.contiguous = layer, contiguous
        self._choose = None if isinstance(dropped, Tensor) else dropped
        self._layout = Layout.of(dropped) if isinstance(dropped, Tensor) else None

    @property
    def empty(self) -> bool:
        """Whether certainly no token is dropped."""
        return self._choose is None and self.layout.whole

    @property
    def layout(self) -> Layout:
        """Layout of the latest prompts.

        Raises:
            ModelError: No prompt was read.
        """
        if self._layout is None:
            raise ModelError(f"tokens are dropped in layer {self.layer}, but no prompt was read; read a prompt first")
        return self._layout

    def acts(self, layer: int) -> bool:
        """Whether tokens are missing in a layer."""
        return layer >= self.layer and not self.empty

    def choose(self) -> None:
        """Choose which tokens to drop from the prompts of the current pass."""
        if self._choose is not None:
            self._layout = Layout.of(self._choose())


def check_layers(drop: Drop, config: Any, kinds: Sequence[str], newest_only: frozenset[int]) -> None:
    """Check that dropping tokens is equivalent to masking them in all layers of a drop op.

    Args:
        drop: The op.
        config: Config of the decoder.
        kinds: Kinds of all layers.
        newest_only: Layers that share the keys of earlier layers.

    Raises:
        ModelError: In some layer it is not equivalent.
    """
    family, depth = config.model_type, len(kinds)
    if drop.layer not in range(depth):
        raise ModelError(f"there is no layer {drop.layer} to drop tokens from: the model's are 0 to {depth - 1}")
    problem = f"{family}: tokens cannot be dropped from layer {drop.layer} on"
    for layer, kind in enumerate(kinds):
        if drop.acts(layer) and kind not in _SUPPORTED:
            raise ModelError(f"{problem}: layer {layer} is of kind {kind!r}, not {' or '.join(_SUPPORTED)}")
        if drop.acts(layer) and layer in newest_only:
            raise ModelError(f"{problem}: layer {layer} reads the keys of an earlier layer")
    if drop.contiguous and not drop.empty and "sliding" in kinds:
        layer = kinds.index("sliding")
        raise ModelError(f"{family}: gaps in the positions cannot be closed: the window of layer {layer} counts them")
    if not drop.empty and getattr(config, "attn_temperature_tuning", False):
        raise ModelError(f"{problem}: its attention counts positions by itself, and would count only those left")


@contextmanager
def drop_tokens(
    frames: tuple[Frame, ...], modules: Mapping[int, nn.Module], rotary: nn.Module | None = None
) -> Iterator[None]:
    """Drop tokens in layers during the passes of these frames, inside this context.

    Args:
        frames: Description of the passes.
        modules: Layers in which some plan of the frames drops tokens.
        rotary: Module that computes the rotary embedding of positions, where some plan closes their gaps.
    """
    state, hooks = _DroppingHooks(frames), []
    try:
        if rotary is not None:
            hooks.append(rotary.register_forward_pre_hook(state.close_gaps, with_kwargs=True))
        for layer, module in modules.items():
            hooks.append(module.register_forward_pre_hook(partial(state.enter, layer), with_kwargs=True))
            hooks.append(module.register_forward_hook(state.leave, prepend=True))  # later hooks see all rows
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _DroppingHooks:
    """Layer hooks that drop tokens in the passes of some frames, and their shared state."""

    def __init__(self, frames: tuple[Frame, ...]) -> None:
        self._frames = frames
        self._passes: Passes | None = None
        self._cached: dict[Hashable, tuple[Any, Any]] = {}  # a value and its cut version, shared by the layers
        self._entered: tuple[Tensor, Tensor, Tensor] | None = None  # all states, indices of rows left, which are kept

    def close_gaps(self, module: nn.Module, args: tuple[Any, ...], *rest: dict[str, Any]) -> Any:
        """Renumber the positions that a rotary embedding is computed of, where a plan closes their gaps.

        Raises:
            ModelError: The model has positions of several dimensions.
        """
        passes = current_passes()
        if passes is None or passes.frames is not self._frames:
            return None
        states, kwargs = args[0] if args else rest[0]["x"], rest[0]
        positions: Tensor = args[1] if len(args) > 1 else kwargs["position_ids"]
        if positions.ndim != 2:
            raise ModelError(
                f"gaps in positions of shape {tuple(positions.shape)} cannot be closed: they are not a line"
            )
        shifts = []
        for where in passes.blocks:
            drop = where.block.plan.drop if where.block.plan is not None else None
            closes = drop is not None and drop.contiguous
            if closes and drop is not None and where.end == where.queries:
                drop.choose()
            layout = drop.layout if closes and drop is not None else None
            rows = len(states[where.rows])
            none = positions.new_zeros(rows, where.queries)
            shifts.append(none if layout is None else layout.shifts(where, rows, positions.device))
        positions = positions - torch.cat(shifts)
        if len(args) > 1:
            return (args[0], positions, *args[2:]), kwargs
        return args, {**kwargs, "position_ids": positions}

    def enter(self, layer: int, module: nn.Module, args: tuple[Any, ...], *rest: Any) -> Any:
        """Reduce the arguments of a layer to the rows that are left, with masks for its columns.

        torch omits the keyword arguments while another thread removes its hooks.
        """
        passes = current_passes()
        if passes is None or passes.frames is not self._frames:
            return None
        if passes is not self._passes:
            self._passes, self._entered, self._cached = passes, None, {}
        states: Tensor = args[0] if args else rest[0]["hidden_states"]
        if passes.blocks[0].end > passes.blocks[0].queries:
            return args, self._cut_answer_mask(layer, passes, states, rest[0])
        layout = _prompt_layout(layer, passes)
        if layout.whole:
            return None
        where, missing = passes.blocks[0], layout.prompt - layout.width
        count = where.queries - missing
        at, visible = self._cache(layout, lambda: layout.columns(where, count, len(states), states.device))
        rows = at + where.end
        caches.shorten(where.cache, layer, missing)
        self._entered = states, rows, visible
        kwargs = {
            name: self._cut_argument(name, value, rows) for name, value in rest[0].items() if name not in _HANDLED
        }
        mask = rest[0].get("attention_mask")
        partly = visible if layout.ragged else None
        kwargs["attention_mask"] = self._cache(mask, lambda: cut_mask(mask, at, partly, rows))
        fewer = gather_rows(states, rows, -3, -2)
        if not args:
            return args, {**kwargs, "hidden_states": fewer}
        return (fewer, *(self._cut_argument("a positional argument", value, rows) for value in args[1:])), kwargs

    def leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Insert the output rows of a layer into the states of the full sequence."""
        passes = current_passes()
        if passes is None or passes is not self._passes or self._entered is None:
            return None
        states = output[0] if isinstance(output, tuple) else output
        (whole, rows, visible), self._entered = (part.to(states.device) for part in self._entered), None
        rows = rows[..., None].expand_as(states)
        whole = whole.scatter(1, rows, torch.where(visible[..., None], states, whole.gather(1, rows)))
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    def _cut_answer_mask(self, layer: int, passes: Passes, states: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Remove the columns of dropped tokens from the mask of a layer that reads answer tokens."""
        layouts = [_layout(layer, where) for where in passes.blocks]
        if not any(layouts):
            return kwargs
        mask, queries = kwargs.get("attention_mask"), passes.blocks[0].queries
        count = caches.count_columns(passes.blocks[0].cache, layer) + queries
        pairs = list(zip(passes.blocks, layouts, strict=True))

        def cut() -> Tensor | None:
            parts = [_columns(*pair, count, len(states[pair[0].rows]), states.device) for pair in pairs]
            at, visible = (torch.cat(part) for part in zip(*parts, strict=True))
            every = all(_all_visible(*pair, count) for pair in pairs)
            return cut_mask(mask, at, None if every else visible, queries=queries)

        return {**kwargs, "attention_mask": self._cache(mask, cut, count, *map(bool, layouts))}

    def _cut_argument(self, name: str, value: Any, rows: Tensor) -> Any:
        """Reduce an argument of a layer to some rows, if it has an axis of positions.

        Raises:
            ModelError: The argument may have such an axis, but its place is unknown.
        """
        parts = value if isinstance(value, tuple | list) else (value,)
        if not any(isinstance(part, Tensor) and part.ndim for part in parts):
            return value
        if name not in LAYER_AXES:
            raise ModelError(
                f"tokens cannot be dropped: layers of this model take {name}, which may have values for each token"
            )
        axes = LAYER_AXES[name]
        if isinstance(value, Tensor):
            return self._cache(value, lambda: gather_rows(value, rows, *axes))
        return self._cache(value, lambda: tuple(gather_rows(part, rows, *axes) for part in value))

    def _cache(self, value: Any, make: Callable[[], Any], *more: Hashable) -> Any:
        """Compute something from a value once for all layers of the pass."""
        key = id(value), *more
        if key not in self._cached:
            self._cached[key] = value, make()
        return self._cached[key][1]


def _prompt_layout(layer: int, passes: Passes) -> Layout:
    """Return the layout in a pass over prompts; the first layer of the op chooses it, or before it `close_gaps`."""
    where = passes.blocks[0]
    drop = where.block.plan.drop if where.block.plan is not None else None
    if len(passes.blocks) > 1 or drop is None:
        raise CompositionError("prompts with dropped tokens cannot be read in one pass with the prompts of branches")
    if layer == drop.layer and not drop.contiguous:
        drop.choose()
    return drop.layout


def _layout(layer: int, where: Pass) -> Layout | None:
    """Return the layout of a block's prompts in a layer, or None where no tokens are dropped.

    Raises:
        ModelError: The pass reads only a part of the prompts.
    """
    drop = where.block.plan.drop if where.block.plan is not None else None
    if drop is None or not drop.acts(layer) or drop.layout.whole:
        return None
    if where.end - where.queries < drop.layout.prompt - 1:
        raise ModelError("a prompt with dropped tokens must be read in one pass, but this pass reads only a part")
    return drop.layout


def _columns(where: Pass, layout: Layout | None, count: int, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the positions of the last columns as `Layout.columns` does; without a layout no position is missing."""
    if layout is not None:
        return layout.columns(where, count, rows, device)
    at = torch.arange(-count, 0, device=device).expand(rows, -1)
    return at, at >= -where.end


def _all_visible(where: Pass, layout: Layout | None, count: int) -> bool:
    """Whether all of the last columns are visible, except the padding of the batch."""
    return layout is None or (not layout.ragged and count == layout.width + where.end - layout.prompt)
