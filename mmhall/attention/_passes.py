"""Forward passes of the decoder: which rows follow which plan, and at which positions.

A `Frame` describes the next passes of the rows of one batch of prompts; rows of several batches can share a pass, each
with a frame of their own. Frames are stored in a `ContextVar`, never on the model, so that threads with different plans
can share one model. When the decoder is called, the position of the pass is read from the cache that the pass
will write. No counter is kept, so the positions are right whichever code calls the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
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

_HOOKS = "_mmhall_pass"  # a copy of a hooked decoder has both the hooks and this attribute


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows of a batch that follow one plan: the main rows, or those of one branch.

    Attributes:
        plan: Plan of these rows; None: no ops.
        prompt: Length of their prompts in positions, padding included; steps are counted from there. None: unknown.
        padding: Columns on the left that were added when these rows were joined with longer prompts.
        number: 0 for the main rows, otherwise the number of the branch, from 1.
    """

    plan: Plan | None
    prompt: int | None = None
    padding: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Description of the next forward passes for the rows of one batch of prompts.

    Attributes:
        blocks: Blocks of equal size that the rows consist of, the main rows first.
        answer: Whether all tokens of the pass are tokens of an answer; a row may have several.
        candidates: Whether the tokens of a row are candidate tokens: all at the same position, masked from each other.
        reread: Whether the prompt or its last token is read for the second time.
        owners: Index of the prompt that each row of a block belongs to, (rows,) 0-based; None: row i to prompt i.
        memory: Tensors that ops keep from step to step.
        reference: Returns the head outputs of the lockstep reference pass in a layer, (B, Q', H, Dv); None: no such
            pass.
        size: Number of rows of each block; None: the pass has no other rows.
    """

    blocks: tuple[Block, ...]
    answer: bool = False
    candidates: bool = False
    reread: bool = False
    owners: Tensor | None = None
    memory: Memory = field(default_factory=Memory)
    reference: Callable[[int], Tensor | None] | None = None
    size: int | None = None

    @property
    def plans(self) -> list[Plan]:
        """Plans of the blocks that have one."""
        return [block.plan for block in self.blocks if block.plan is not None]


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One forward pass for the rows of one block.

    Attributes:
        frame: Description of the pass for these rows.
        block: The rows.
        end: Length of the block's sequence after the pass, in positions, prompt first.
        queries: Number of tokens that the pass reads of each row.
        cache: Cache that the pass writes; None: no cache.
        position_ids: Position ids of the tokens of the pass, for the rotary embedding, (axes, rows of the block, Q);
            several axes where a picture has positions in time, row and column. None: the decoder counts them itself.
        rows: Where the rows of the block stand in the pass.
    """

    frame: Frame
    block: Block
    end: int
    queries: int
    cache: Cache | None
    position_ids: Tensor | None = None
    rows: slice = field(default_factory=lambda: slice(None))

    @property
    def step(self) -> int:
        """Number of answer tokens after the pass, candidate tokens counting as one: 0 where the prompt is read.

        Raises:
            ModelError: The length of the prompt is unknown.
        """
        if self.block.prompt is None:
            if self.end == self.queries:
                return 0
            raise ModelError(
                "an op uses the step, but the length of the prompt is unknown; pass it as `active(plan, prompt=...)`, "
                "in positions, padding included"
            )
        read = self.end - self.queries + 1 if self.frame.candidates else self.end
        return max(0, read - self.block.prompt)

    def first_column(self, kind: str, columns: int) -> int:
        """Return the position of key column 0 in a layer; see `Call.offset`.

        Args:
            kind: Kind of the layer.
            columns: Number of key columns in the layer.

        Raises:
            ModelError: The position cannot be read from the cache of the layer.
        """
        if kind == "cross" or (kind == "full" and caches.is_fixed(self.cache)):
            return 0
        if caches.is_fixed(self.cache):
            raise ModelError(f"the positions in a {kind} layer are unknown with a static cache; use a dynamic cache")
        return self.end - columns


@dataclass(frozen=True, slots=True, eq=False)
class Passes:
    """One forward pass, block by block.

    Attributes:
        frames: Description of the pass, one for the rows of each batch.
        blocks: The pass for each block in the order of rows, main rows before those of their branches.
        masks: Cached masks for candidate tokens, by kind of layer: the original mask, and the new mask.
    """

    frames: tuple[Frame, ...]
    blocks: tuple[Pass, ...]
    masks: dict[str, tuple[Tensor | None, Tensor]] = field(default_factory=dict)

    def ops_of_layer(self, layer: int) -> tuple[list[tuple[Op, ...]], str]:
        """Return the attention ops of each block in a layer, and the kind of the layer."""
        plans = [where.block.plan for where in self.blocks]
        kind = next(plan.kinds[layer] for plan in plans if plan is not None)
        return [() if plan is None else plan.of_layer(layer) for plan in plans], kind

    def mask(self, kind: str, mask: Tensor | None, queries: int, columns: int, device: torch.device) -> Tensor | None:
        """Return the mask of a layer; candidate tokens see what the first of them sees, and themselves."""
        if not self.frames[0].candidates or queries == 1 or kind == "cross":
            return mask
        cached = self.masks.get(kind)
        if cached is None or cached[0] is not mask:
            self.masks[kind] = cached = mask, mask_candidates(mask, queries, columns, device)
        return cached[1]


@dataclass(slots=True)
class PassCount:
    """The forward passes of a decoder in a block of code, with all its branches.

    Attributes:
        prompt_reads: Prompt positions computed: rows times tokens of the passes over prompts, padding included.
        passes: Number of passes that read tokens of answers.
        rows: Answer positions computed: rows times tokens of these passes.
        looked_up: Seconds that a vision tower had taken for what was looked up instead of computed (`reuse_features`).
    """

    prompt_reads: int = 0
    passes: int = 0
    rows: int = 0
    looked_up: float = 0.0

    def add(self, rows: int, queries: int, frames: Sequence[Frame], before: int) -> None:
        """Count a pass.

        Args:
            rows: Its rows.
            queries: Number of tokens that it reads of each row.
            frames: Its description; it is either a pass over prompts, or one over answers for all of them.
            before: Positions in the cache before it.
        """
        first = frames[0].blocks[0] if frames else None
        if first is None or first.prompt is None or before < first.prompt + first.padding:
            self.prompt_reads += rows * queries
        else:
            self.passes += 1
            self.rows += rows * queries


_frames: ContextVar[tuple[Frame, ...]] = ContextVar("mmhall_frames", default=())
_count: ContextVar[PassCount | None] = ContextVar("mmhall_count", default=None)
_passes: ContextVar[tuple[Passes | None, ...]] = ContextVar("mmhall_passes", default=())  # nested calls

current_exits: ContextVar[Any] = ContextVar("mmhall_exits", default=None)  # early exits to read in the pass
tower_pass: ContextVar[Any] = ContextVar("mmhall_tower", default=None)  # current pass of a vision tower


def current_passes() -> Passes | None:
    """Return the forward pass of this context if it follows a plan; otherwise None."""
    passes = _passes.get()
    return passes[-1] if passes else None


@contextmanager
def suspended() -> Iterator[None]:
    """Suspend all plans inside this context, so that an op can call parts of the model unchanged."""
    tokens = [(variable, variable.set(None)) for variable in (current_exits, tower_pass)]
    frames, passes = _frames.set(()), _passes.set((None,))
    try:
        yield
    finally:
        _passes.reset(passes)
        _frames.reset(frames)
        for variable, token in tokens:
            variable.reset(token)


def current_frames() -> tuple[Frame, ...]:
    """Return the frames of this context; none where no plan is followed."""
    return _frames.get()


@contextmanager
def use_frames(frames: tuple[Frame, ...]) -> Iterator[None]:
    """Apply frames to the forward passes inside this context, one for the rows of each batch."""
    token, before = _frames.set(frames), _passes.set(())
    try:
        yield
    finally:
        _passes.reset(before)  # torch calls no forward hook after a pass that a user has interrupted
        _frames.reset(token)


@contextmanager
def count_passes(count: PassCount) -> Iterator[None]:
    """Count the passes of hooked decoders inside this context, also in threads that follow it."""
    token = _count.set(count)
    try:
        yield
    finally:
        _count.reset(token)


def count_looked_up(seconds: float) -> None:
    """Count the seconds that a vision tower had taken for what is looked up in this context."""
    count = _count.get()
    if count is not None:
        count.looked_up += seconds


def hook_passes(decoder: nn.Module) -> None:
    """Hook a decoder, so that the positions of each of its passes are known."""
    if not hasattr(decoder, _HOOKS):
        before = decoder.register_forward_pre_hook(_begin, with_kwargs=True)
        setattr(decoder, _HOOKS, (before, decoder.register_forward_hook(_end, always_call=True)))


def unhook_passes(decoder: nn.Module) -> None:
    """Remove the hooks of `hook_passes`."""
    for hook in vars(decoder).pop(_HOOKS, ()):
        hook.remove()


def _begin(decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    frames, outer, count = _frames.get(), _passes.get(), _count.get()
    planned = not outer and any(frame.plans or frame.candidates for frame in frames)
    if not planned and count is None:
        _passes.set((*outer, None))
        return
    inputs = kwargs.get("inputs_embeds")
    inputs = kwargs.get("input_ids") if inputs is None else inputs
    rows, queries = (args[0] if inputs is None else inputs).shape[:2]
    cache = next((value for value in (*kwargs.values(), *args) if isinstance(value, Cache)), None)
    if planned:
        caches.check_readable(cache)
    before = 0 if cache is None else int(cache.get_seq_length())
    if count is not None:
        count.add(rows, queries, frames, before)
    if not planned:
        _passes.set((*outer, None))
        return
    ids, blocks = kwargs.get("position_ids"), []
    for frame, block, own in _places(frames, rows):
        end = queries + before - block.padding
        blocks.append(Pass(frame, block, end, queries, cache, _position_ids(ids, rows, own), own))
    _passes.set((Passes(frames, tuple(blocks)),))


def _places(frames: Sequence[Frame], rows: int) -> Iterator[tuple[Frame, Block, slice]]:
    """Yield each block with its frame and its place in a pass of so many rows."""
    first = 0
    for frame in frames:
        size = rows // len(frame.blocks) if frame.size is None else frame.size
        for block in frame.blocks:
            yield frame, block, slice(first, first + size)
            first += size
    if first != rows:
        raise ModelError(f"a plan for {first} rows was given to a pass of {rows}; read these rows under their own plan")


def _position_ids(ids: Tensor | None, rows: int, own: slice) -> Tensor | None:
    """Return the position ids of some rows, of (rows or 1, Q) or (axes, rows or 1, Q); see `Pass`."""
    return None if ids is None else (ids if ids.ndim == 3 else ids[None]).expand(-1, rows, -1)[:, own]


def _end(decoder: nn.Module, args: Any, output: Any) -> None:
    _passes.set(_passes.get()[:-1])


def mask_candidates(mask: Tensor | None, queries: int, columns: int, device: torch.device) -> Tensor:
    """Mask candidate tokens, the last `queries` of `columns`, from each other.

    Args:
        mask: None (causal), or bool or additive float, (B|1, 1|H, Q, K), for tokens at consecutive positions.
        queries: Q.
        columns: K.
        device: Device of the keys.

    Returns:
        The mask for tokens that are all at the position of the first one.
    """
    itself = torch.eye(queries, dtype=torch.bool, device=device)
    before = columns - queries
    if mask is None:
        return torch.nn.functional.pad(itself, (before, 0), value=True)[None, None]
    if mask.dtype != torch.bool:
        itself = torch.zeros_like(itself, dtype=mask.dtype).masked_fill(~itself, torch.finfo(mask.dtype).min)
    earlier = mask[:, :, :1, :before].expand(-1, -1, queries, -1)
    return torch.cat([earlier, itself.expand(*earlier.shape[:3], -1)], dim=-1)
