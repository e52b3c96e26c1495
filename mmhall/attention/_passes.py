"""Where a forward pass of the decoder stands: which rows follow which plan, and at which positions.

What is to be read is announced as a `Frame`, in a context (`ContextVar`) and never on the model, so that threads with
different plans can share one model. Where a pass begins is then read off the cache that it is going to write, when the
decoder is called: nothing is counted, and whoever calls the model, its passes stand where they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Cache

from mmhall._transformers import caches
from mmhall.attention._memory import Memory
from mmhall.errors import ModelError

if TYPE_CHECKING:
    from mmhall.attention._ops import Op
    from mmhall.attention._plan import Plan

_HOOKS = "_mmhall_pass"  # a copy of an open decoder carries hooks and mark alike


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows of a batch that follow one plan: the main rows, or those of one branch.

    Attributes:
        plan: What is asked of the pass in these rows; None: nothing.
        prompt: Positions of their prompts, from which steps are counted; None: not known.
        padding: Columns on their left that were added when they were joined with longer prompts.
        number: 0: the main rows; else that of the branch, from 1.
    """

    plan: Plan | None
    prompt: int | None = None
    padding: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """What is known of forward passes before they are made.

    Attributes:
        blocks: The batch is so many blocks of equal size, the main rows first.
        answer: Whether all tokens that are read are tokens of an answer, though there may be several a row.
        siblings: Whether the tokens of a row all stand at the same position and do not see each other.
        reread: Whether the prompt, or its last token, is read for the second time.
        owners: Which prompt of the request each row of a block belongs to, (rows,) 0-based; None: each to its own.
        memory: What the rows remember.
        reference: Gives the head outputs of a pass in lock step by layer, (B, Q', H, Dv); None: there is none.
    """

    blocks: tuple[Block, ...]
    answer: bool = False
    candidates: bool = False
    reread: bool = False
    owners: Tensor | None = None
    memory: Memory = field(default_factory=Memory)
    reference: Callable[[int], Tensor | None] | None = None

    @property
    def plans(self) -> list[Plan]:
        """The plans that some rows follow."""
        return [block.plan for block in self.blocks if block.plan is not None]


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One forward pass, as the rows of one block see it.

    Attributes:
        frame: What was announced.
        block: Of which rows.
        end: Positions of the block's sequence once the pass has been made, prompt first.
        queries: Tokens it reads of each row.
        cache: What it writes; None: nothing is kept.
    """

    frame: Frame
    block: Block
    end: int
    queries: int
    cache: Cache | None

    @property
    def step(self) -> int:
        """Tokens of the answer once the pass has been made, siblings counting as one: 0 where the prompt is read.

        Raises:
            ModelError: The length of the prompt was not announced.
        """
        if self.block.prompt is None:
            if self.end == self.queries:
                return 0
            raise ModelError(
                "an op asks for the step, and how long the prompt is was not said: give `active(plan, prompt=...)` its "
                "number of positions, padding included"
            )
        read = self.end - self.queries + 1 if self.frame.candidates else self.end
        return max(0, read - self.block.prompt)

    def first_column(self, kind: str, columns: int) -> int:
        """Return the position of key column 0 in a layer of some kind that holds so many columns.

        A sliding layer has dropped the columns before it; it is negative where rows were padded on the left. In a
        cross layer columns are image positions, and it is 0.

        Raises:
            ModelError: The layer's cache does not tell.
        """
        if kind == "cross" or (kind == "full" and caches.is_fixed(self.cache)):
            return 0
        if caches.is_fixed(self.cache):
            raise ModelError(f"a static cache does not tell which positions a {kind} layer holds; use a dynamic one")
        return self.end - columns


@dataclass(frozen=True, slots=True, eq=False)
class Passes:
    """One forward pass, block by block.

    Attributes:
        frame: What was announced.
        blocks: The pass as each block sees it, the main rows first.
        masks: Masks that keep siblings apart, by kind of layer: the mask they were made from, and what was made.
    """

    frame: Frame
    blocks: tuple[Pass, ...]
    masks: dict[str, tuple[Tensor | None, Tensor]] = field(default_factory=dict)

    def asked(self, layer: int) -> tuple[list[tuple[Op, ...]], str]:
        """Return the ops that a layer's attention calls, of each block, and the kind of the layer."""
        plans = [where.block.plan for where in self.blocks]
        kind = next(plan.kinds[layer] for plan in plans if plan is not None)
        return [() if plan is None else plan.of_layer(layer) for plan in plans], kind

    def mask(self, kind: str, mask: Tensor | None, queries: int, columns: int, device: torch.device) -> Tensor | None:
        """Return a layer's mask, where siblings are read with each seeing what the first sees, and itself."""
        if not self.frame.candidates or queries == 1 or kind == "cross":
            return mask
        held = self.masks.get(kind)
        if held is None or held[0] is not mask:
            self.masks[kind] = held = mask, apart(mask, queries, columns, device)
        return held[1]


_frame: ContextVar[Frame | None] = ContextVar("mmhall_frame", default=None)
_passes: ContextVar[tuple[Passes | None, ...]] = ContextVar("mmhall_passes", default=())  # one inside the other

exits_read: ContextVar[Any] = ContextVar("mmhall_exits", default=None)  # the early exits that a pass is to read
tower_pass: ContextVar[Any] = ContextVar("mmhall_tower", default=None)  # the pass of a vision tower at hand


def current() -> Passes | None:
    """Return the forward pass of this context in which something is asked for; None: there is none."""
    passes = _passes.get()
    return passes[-1] if passes else None


@contextmanager
def suspended() -> Iterator[None]:
    """Follow no plan inside this context: an op may call parts of the model there, and they do what they always do."""
    held = [(part, part.set(None)) for part in (_frame, exits_read, tower_pass)]
    passes = _passes.set((None,))
    try:
        yield
    finally:
        _passes.reset(passes)
        for part, token in held:
            part.reset(token)


def announced_frame() -> Frame | None:
    """Return what was announced of the forward passes of this context; None: nothing."""
    return _frame.get()


@contextmanager
def announced(frame: Frame) -> Iterator[None]:
    """Announce the forward passes that are made inside this context."""
    token, before = _frame.set(frame), _passes.set(())
    try:
        yield
    finally:
        _passes.reset(before)  # torch calls no hook behind a pass that a user has interrupted
        _frame.reset(token)


def open_passes(decoder: nn.Module) -> None:
    """Let a decoder tell where each of its passes stands."""
    if not hasattr(decoder, _HOOKS):
        before = decoder.register_forward_pre_hook(_begin, with_kwargs=True)
        setattr(decoder, _HOOKS, (before, decoder.register_forward_hook(_end, always_call=True)))


def close_passes(decoder: nn.Module) -> None:
    """Take that away."""
    for hook in vars(decoder).pop(_HOOKS, ()):
        hook.remove()


def _begin(decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    frame, outer = _frame.get(), _passes.get()
    if frame is None or outer or not (frame.plans or frame.candidates):
        _passes.set((*outer, None))
        return
    given = kwargs.get("inputs_embeds")
    given = kwargs.get("input_ids") if given is None else given
    queries = (args[0] if given is None else given).shape[1]
    cache = next((value for value in (*kwargs.values(), *args) if isinstance(value, Cache)), None)
    caches.check_readable(cache)
    end = queries + (0 if cache is None else int(cache.get_seq_length()))
    stands = partial(Pass, frame, queries=queries, cache=cache)
    _passes.set((Passes(frame, tuple(stands(block, end=end - block.padding) for block in frame.blocks)),))


def _end(decoder: nn.Module, args: Any, output: Any) -> None:
    _passes.set(_passes.get()[:-1])


def apart(mask: Tensor | None, queries: int, columns: int, device: torch.device) -> Tensor:
    """Mask siblings, the last `queries` of `columns`, from each other.

    Args:
        mask: None (causal), or bool or additive float, (B|1, 1|H, Q, K), made for tokens that follow each other.
        queries: Q.
        columns: K.
        device: Of the keys.

    Returns:
        The same for tokens that all stand at the first one's position.
    """
    itself = torch.eye(queries, dtype=torch.bool, device=device)
    before = columns - queries
    if mask is None:
        return torch.nn.functional.pad(itself, (before, 0), value=True)[None, None]
    if mask.dtype != torch.bool:
        itself = torch.zeros_like(itself, dtype=mask.dtype).masked_fill(~itself, torch.finfo(mask.dtype).min)
    seen = mask[:, :, :1, :before].expand(-1, -1, queries, -1)
    return torch.cat([seen, itself.expand(*seen.shape[:3], -1)], dim=-1)
