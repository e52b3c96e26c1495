"""What a strategy asks of attention: ops, the plan that holds them, and the call they see.

A plan is active in a context (`ContextVar`), never on a model, so that two threads with different
plans can share one model. An op names the layers it concerns and overrides only the methods it
needs; a layer none of whose ops wants rows, bias or output costs nothing beyond plain SDPA.

Branches decoded beside the main rows are attended plainly: an op never sees them.

Shapes: B batch rows, H query heads, KV key-value heads, Q query rows, K key columns, D head size,
R chosen rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import LongTensor, Tensor

SELF_ATTENTION = frozenset({"full", "sliding", "chunked"})


@dataclass(frozen=True, slots=True)
class Call:
    """One attention call: one layer in one forward pass, the main rows only.

    Attributes:
        layer: 0-based decoder layer.
        kind: "full", "sliding", "chunked" or "cross".
        step: Passes this layer has seen before in this request; 0 at prefill.
        start: Position of query row 0 in the sequence, prompt first. Layers that share the keys of earlier ones
            (Gemma 4) are given the newest row of a prompt only.
        offset: Position of key column 0. A sliding layer has dropped the columns before it; it is
            negative where rows were padded on the left to be joined with longer ones. In a cross layer
            columns are image positions, and it is 0.
        query: (B, H, Q, D), after rotary embedding.
        key: (B, KV, K, D), cache included.
        value: (B, KV, K, Dv), cache included.
        mask: None (causal), or bool (True may be seen) or additive float, (B|1, 1|H, Q, K).
        scaling: Factor of the scores, usually D ** -0.5.
        aside: Head outputs of this layer, (B, Q', H, Dv), in the pass that reads a session's `aside` in lock step;
            None where there is none.
        answer: Whether all query rows are tokens of an answer; see `Plan.reading`.
        owners: Which prompt of the request each row belongs to, (B,) 0-based; None: each to its own.
        again: Whether the prompt, or its last token, is read for the second time; see `Session.again`.
    """

    layer: int
    kind: str
    step: int
    start: int
    offset: int
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float
    aside: Tensor | None = None
    answer: bool = False
    owners: Tensor | None = None
    again: bool = False

    @property
    def prefill(self) -> bool:
        """Whether this pass reads a prompt rather than tokens of an answer."""
        return self.query.shape[2] > 1 and not self.answer

    @property
    def newest(self) -> LongTensor:
        """The query rows a next token is predicted from, as `Op.rows` names rows.

        One, the last; where an answer's tokens are tried side by side or read anew, each was or may become the newest.
        """
        count = self.query.shape[2]
        first = 0 if self.answer else count - 1
        return torch.arange(first, count, device=self.query.device)  # type: ignore[return-value]

    def rows_at(self, positions: Tensor) -> LongTensor:
        """Return the query rows at some positions of the sequence, as `Op.rows` names them; other passes' drop out.

        Args:
            positions: (R,) 0-based.
        """
        rows = positions.to(self.query.device) - self.start
        return rows[(rows >= 0) & (rows < self.query.shape[2])]  # type: ignore[return-value]

    def each(self, values: Tensor) -> Tensor:
        """Give every row what is known of its prompt, (prompts, ...)."""
        return values if self.owners is None else values[self.owners.to(values.device)]


class Op:
    """One wish of a strategy; the base class wishes nothing.

    Attributes:
        layers: 0-based decoder layers it concerns; None: all.
        kinds: Kinds of layers it concerns; linear layers hold no attention and are never called.
        writes: Whether it edits scores or weights of rows, rather than only seeing them.
    """

    layers: frozenset[int] | None = None
    kinds: frozenset[str] = SELF_ATTENTION
    writes: bool = False

    def bias(self, call: Call) -> Tensor | None:
        """Return an additive log-scale bias on scores, (B|1, H|1, Q|1, K), float32.

        softmax(s + log w) is "multiply by w and renormalise", exactly.
        """

    def rows(self, call: Call) -> LongTensor | None:
        """Name the query rows of this pass to see or edit, R distinct 0-based indices; None: none.

        See `Call.newest` and `Call.rows_at`.
        """

    def edit_scores(self, call: Call, rows: LongTensor, scores: Tensor) -> Tensor:
        """Return edited scores before softmax, (B, H, R, K), float32; masked columns stay masked whatever they hold."""
        return scores

    def edit_probs(self, call: Call, rows: LongTensor, probs: Tensor) -> Tensor:
        """Return edited attention weights, (B, H, R, K), float32."""
        return probs

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Look at final attention weights, (B, H, R, K), float32; reduce them at once, keep nothing large."""

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        """Return edited head outputs before the output projection, (B, Q, H, Dv)."""
        return output

    def edit_aside(self, call: Call, output: Tensor) -> Tensor:
        """Return edited head outputs of the pass aside, (B, Q, H, Dv), after the main pass has edited its own."""
        return output

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Say what it found in a single request, to be looked at: maps by name, float32.

        A map is (N,), over the image tokens, or (depth, heads), NaN in layers that it leaves alone.

        Args:
            depth: Number of decoder layers.
        """
        return {}

    def see_states(self, layer: int, step: int, states: Tensor) -> None:
        """Look at what enters a layer, before its norm, (B, Q, hidden size); keep nothing large."""


class Plan:
    """Ops by layer, for one request: it counts the passes it has seen.

    Attributes:
        kinds: Of each decoder layer.
        compared: Layers in which an op compares with a pass aside.
        aside: Gives the head outputs of that pass by layer, while it is on; None in layers that it leaves out.
        owners: Which prompt each main row belongs to, (rows,) 0-based; None: each to its own.
    """

    def __init__(self, ops: Sequence[Op], kinds: Sequence[str]) -> None:
        """Sort ops into layers.

        Args:
            ops: In the order they act.
            kinds: Of each decoder layer.
        """
        self.kinds = tuple(kinds)
        self._by_layer = tuple(
            tuple(op for op in ops if kind in op.kinds and (op.layers is None or layer in op.layers))
            for layer, kind in enumerate(kinds)
        )
        self._steps, self._seen, self._shown = [0] * len(kinds), [0] * len(kinds), [0] * len(kinds)
        self._watching = tuple(
            tuple(op for op in own if type(op).see_states is not Op.see_states) for own in self._by_layer
        )
        self.aside: Callable[[int], Tensor | None] | None = None
        self.compared = frozenset(
            layer
            for layer, own in enumerate(self._by_layer)
            if any(type(op).edit_aside is not Op.edit_aside for op in own)
        )
        self.answer, self.siblings = False, False
        self.owners: Tensor | None = None
        self.rereading = False
        self._apart: dict[str, tuple[Tensor | None, Tensor]] = {}

    def for_layer(self, layer: int) -> tuple[Op, ...]:
        """Return the ops of one layer, in the order they were given."""
        return self._by_layer[layer]

    def aside_at(self, layer: int) -> Tensor | None:
        """Return a layer's head outputs in the pass aside, if one is on and an op compares with it there."""
        return self.aside(layer) if self.aside is not None and layer in self.compared else None

    def watched(self, layer: int) -> bool:
        """Whether an op wants to see what enters a layer."""
        return bool(self._watching[layer])

    def see_states(self, layer: int, states: Tensor) -> None:
        """Show what enters a layer to the ops that want to see it."""
        for op in self._watching[layer]:
            op.see_states(layer, self._shown[layer], states)
        self._shown[layer] += 1  # linear layers pass no attention that would count them

    def enter(self, layer: int, queries: int, columns: int) -> tuple[int, int, int]:
        """Count a pass of one layer; return its step, and where its first query row and first key column stand.

        Layers that share the keys of earlier ones (Gemma 4) may be given fewer rows than there are tokens, so what
        counts is the layer that has seen most.
        """
        step = self._steps[layer]
        self._steps[layer] += 1
        self._seen[layer] += queries
        seen = max(self._seen)
        return step, seen - queries, 0 if self.kinds[layer] == "cross" else seen - columns

    def call(
        self,
        layer: int,
        place: tuple[int, int, int],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float,
    ) -> Call:
        """Describe the main rows of a pass of one layer; `place` is what `enter` said, the rest as in `Call`."""
        return Call(
            layer,
            self.kinds[layer],
            *place,
            query,
            key,
            value,
            mask,
            scaling,
            aside=self.aside_at(layer),
            answer=self.answer,
            owners=self.owners,
            again=self.rereading,
        )

    def rewind(self, positions: int) -> None:
        """Count on from this many positions: what was read after them has been dropped."""
        self._seen = [min(seen, positions) for seen in self._seen]

    @contextmanager
    def again(self, positions: int) -> Iterator[None]:
        """Say that the pass inside reads the prompt once more, from this position on: it is the first step again."""
        self.rewind(positions)
        self.rereading = True
        self._steps, self._shown = [0] * len(self._steps), [0] * len(self._shown)
        try:
            yield
        finally:
            self.rereading = False

    @contextmanager
    def reading(self, *, siblings: bool) -> Iterator[None]:
        """Say that the passes inside read tokens of an answer.

        Args:
            siblings: They all stand at the same position and do not see each other; else they follow each other.
        """
        self.answer, self.siblings = True, siblings
        try:
            yield
        finally:
            self.answer, self.siblings = False, False
            self._apart.clear()

    def mask(self, layer: int, mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
        """Return a layer's mask, where siblings are read with each seeing what the first sees, and itself."""
        kind, queries = self.kinds[layer], query.shape[2]
        if not self.siblings or queries == 1 or kind == "cross":
            return mask
        held = self._apart.get(kind)
        if held is None or held[0] is not mask:
            self._apart[kind] = held = mask, apart(mask, queries, key.shape[2], key.device)
        return held[1]


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


_current: ContextVar[tuple[Plan | None, int]] = ContextVar("mmhall_plan", default=(None, 1))


def current() -> tuple[Plan | None, int]:
    """Return the plan of this context, and how many copies of the main rows a batch holds."""
    return _current.get()


@contextmanager
def active(plan: Plan | None, copies: int = 1) -> Iterator[None]:
    """Make a plan the one that attention follows inside this context.

    Args:
        plan: None: plain attention.
        copies: The batch is this many blocks of equal size; the first holds the main rows, the others branches.
    """
    token = _current.set((plan, copies))
    try:
        yield
    finally:
        _current.reset(token)
