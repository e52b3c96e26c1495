"""What a strategy asks of attention: ops, the plan that holds them, and the call they see.

A plan is active in a context (`ContextVar`), never on a model, so that two threads with different
plans can share one model. An op names the layers it concerns and overrides only the methods it
needs; a layer none of whose ops wants rows, bias or output costs nothing beyond plain SDPA.

Shapes: B batch rows, H query heads, KV key-value heads, Q query rows, K key columns, D head size,
R chosen rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import LongTensor, Tensor


@dataclass(frozen=True, slots=True)
class Call:
    """One attention call: one layer in one forward pass.

    Attributes:
        layer: 0-based decoder layer.
        query: (B, H, Q, D), after rotary embedding.
        key: (B, KV, K, D), cache included.
        value: (B, KV, K, Dv), cache included.
        mask: None (causal), or bool (True may be seen) or additive float, (B|1, 1|H, Q, K).
        scaling: Factor of the scores, usually D ** -0.5.
    """

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float

    @property
    def prefill(self) -> bool:
        """Whether this pass reads a prompt rather than one new token."""
        return self.query.shape[2] > 1


class Op:
    """One wish of a strategy; the base class wishes nothing.

    Attributes:
        layers: 0-based decoder layers it concerns; None: all.
        writes: Whether it edits scores or weights of rows, rather than only seeing them.
    """

    layers: frozenset[int] | None = None
    writes: bool = False

    def bias(self, call: Call) -> Tensor | None:
        """Return an additive log-scale bias on scores, (B|1, H|1, Q|1, K), float32.

        softmax(s + log w) is "multiply by w and renormalise", exactly.
        """

    def rows(self, call: Call) -> LongTensor | None:
        """Name the query rows to see or edit, R distinct 0-based indices; None: none."""

    def edit_scores(self, call: Call, rows: LongTensor, scores: Tensor) -> Tensor:
        """Return edited scores before softmax, (B, H, R, K), float32; masked columns hold the minimum."""
        return scores

    def edit_probs(self, call: Call, rows: LongTensor, probs: Tensor) -> Tensor:
        """Return edited attention weights, (B, H, R, K), float32."""
        return probs

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Look at final attention weights, (B, H, R, K), float32; reduce them at once, keep nothing large."""

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        """Return edited head outputs before the output projection, (B, Q, H, Dv)."""
        return output


class Plan:
    """Ops by layer."""

    def __init__(self, ops: Sequence[Op], layers: int) -> None:
        """Sort ops into the model's `layers` decoder layers."""
        self._by_layer = tuple(
            tuple(op for op in ops if op.layers is None or layer in op.layers) for layer in range(layers)
        )

    def for_layer(self, layer: int) -> tuple[Op, ...]:
        """Return the ops of one layer, in the order they were given."""
        return self._by_layer[layer]


_current: ContextVar[Plan | None] = ContextVar("mmhall_plan", default=None)


def current() -> Plan | None:
    """Return the plan of this context."""
    return _current.get()


@contextmanager
def active(plan: Plan | None) -> Iterator[None]:
    """Make a plan the one that attention follows inside this context."""
    token = _current.set(plan)
    try:
        yield
    finally:
        _current.reset(token)
