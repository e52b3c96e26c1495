"""What a strategy asks of a model's layers: ops, and the places that they are called at.

An op names the layers it concerns and overrides only the methods it needs; a layer none of whose ops wants anything
costs nothing beyond plain SDPA. An op belongs to the main rows of a request or to one branch, and sees those rows only.

Shapes: B rows of the op's block, H query heads, KV key-value heads, Q query rows, K key columns, D head size,
R chosen rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import LongTensor, Tensor

from mmhall.attention._memory import Memory
from mmhall.attention._passes import Pass
from mmhall.errors import CompositionError, ModelError

SELF_ATTENTION = frozenset({"full", "sliding", "chunked"})
ATTENTION = SELF_ATTENTION | {"cross"}
EVERY = ATTENTION | {"linear"}  # of the decoder
VISION = frozenset({"vision"})
FEATURES = "features"


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A layer in one forward pass, for the rows of one block.

    Attributes:
        layer: 0-based decoder layer; of kind "vision", encoder layer of the vision tower, or their number for the
            features that leave it.
        kind: "full", "sliding", "chunked", "cross", "linear" or "vision".
        where: The pass.
    """

    layer: int
    kind: str
    where: Pass

    @property
    def count(self) -> int:
        """Rows of the sequence that the layer reads in this pass, Q."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the layer computes."""
        raise NotImplementedError

    @property
    def step(self) -> int:
        """Tokens of the answer once this pass has been made: 0 where the prompt is read."""
        return self.where.step

    @property
    def start(self) -> int:
        """Position of row 0 in the sequence, prompt first.

        Layers that share the keys of earlier ones (Gemma 4) are given the newest row of a prompt only.
        """
        return self.where.end - self.count

    @property
    def answer(self) -> bool:
        """Whether all rows are tokens of an answer, though there may be several."""
        return self.where.frame.answer

    @property
    def reread(self) -> bool:
        """Whether the prompt, or its last token, is read for the second time; see `Session.reread`."""
        return self.where.frame.reread

    @property
    def owners(self) -> Tensor | None:
        """Which prompt of the request each row belongs to, (B,) 0-based; None: each to its own.

        In the vision tower that of each patch, in the shape of the states without their width, as a picture may take
        several rows, or a row may hold several pictures; None: it is not known.
        """
        return self.where.frame.owners

    @property
    def memory(self) -> Memory:
        """What the rows remember; only for ops with `remembers`.

        Raises:
            CompositionError: No op of these rows says that it remembers.
        """
        plan = self.where.block.plan
        if plan is None or not plan.remembers:
            raise CompositionError(
                "an op asks for `memory` and does not say so, and a search could not bring it back; set "
                "`remembers = True` in its class"
            )
        return self.where.frame.memory.part(self.where.block.number)

    @property
    def prefill(self) -> bool:
        """Whether this pass reads a prompt rather than tokens of an answer."""
        return self.count > 1 and not self.answer

    @property
    def newest(self) -> LongTensor:
        """The rows a next token is predicted from, 0-based.

        One, the last; where an answer's tokens are tried side by side or read anew, each was or may become the newest.
        """
        first = 0 if self.answer else self.count - 1
        return torch.arange(first, self.count, device=self.device)  # type: ignore[return-value]

    def rows_at(self, positions: Tensor) -> LongTensor:
        """Return the rows at some positions of the sequence, 0-based; those of other passes drop out.

        Args:
            positions: (R,) 0-based.
        """
        rows = positions.to(self.device) - self.start
        return rows[(rows >= 0) & (rows < self.count)]  # type: ignore[return-value]

    def each(self, values: Tensor) -> Tensor:
        """Give every row, in the vision tower every patch, what is known of its prompt, (prompts, ...).

        Raises:
            ModelError: Which patches of the vision tower belong to which prompt is not known.
        """
        if self.owners is None and self.kind == "vision":
            raise ModelError(
                "which patches of the vision tower belong to which prompt is not known of these inputs; make them with "
                "adapter.inputs(requests), or read one prompt at a time"
            )
        return values if self.owners is None else values[self.owners.to(values.device)]


@dataclass(frozen=True, slots=True, eq=False)
class Call(Place):
    """One attention call: one layer in one forward pass.

    Attributes:
        offset: Position of key column 0; in a vision tower that attends from picture after picture, the patches of
            those before. A sliding layer has dropped the columns before it; it is
            negative where rows were padded on the left to be joined with longer ones. In a cross layer
            columns are image positions, and it is 0.
        query: (B, H, Q, D), after rotary embedding.
        key: (B, KV, K, D), cache included.
        value: (B, KV, K, Dv), cache included.
        mask: None (causal), or bool (True may be seen) or additive float, (B|1, 1|H, Q, K).
        scaling: Factor of the scores, usually D ** -0.5.
        reference: Head outputs of this layer, (B, Q', H, Dv), in a pass that is read in lock step, before the
            `edit_output` of its own ops; None where there is none. Only for ops with `compares`.
    """

    offset: int
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float
    reference: Tensor | None = None

    @property
    def count(self) -> int:
        """Query rows, Q."""
        return self.query.shape[2]

    @property
    def device(self) -> torch.device:
        """Where the layer computes."""
        return self.query.device

    @property
    def causal(self) -> bool:
        """Whether rows do not see the columns that follow them, where no mask says what they see."""
        return self.prefill and self.kind not in ("cross", "vision")


@dataclass(frozen=True, slots=True, eq=False)
class Visit(Place):
    """One site of a layer in one forward pass.

    Attributes:
        site: "attn", "mlp", "out", or "in" for what enters the layer; of the vision tower also "features".
        states: What the site holds before any op has edited it, (B, Q, hidden size); where a vision tower reads all
            patches as one list, B is 1. Features are as the family holds them, (..., hidden size).
        source: What enters the site's module, (B, Q, hidden size): of "attn" and "mlp" after the norm before it.
    """

    site: str
    states: Tensor
    source: Tensor

    @property
    def count(self) -> int:
        """Rows of the sequence, Q."""
        return self.states.shape[-2]

    @property
    def device(self) -> torch.device:
        """Where the layer computes."""
        return self.states.device


class Op:
    """One wish of a strategy; the base class wishes nothing.

    Attributes:
        layers: 0-based layers it concerns, of the decoder or, with `kinds` VISION, the vision tower; None: all.
        kinds: Kinds of layers it concerns; linear layers hold no attention, and only their sites can be edited.
            VISION: encoder layers of the vision tower, which sees all at once and keeps nothing.
        writes: Whether it edits scores or weights of rows, rather than only seeing them.
        compares: Whether it reads `Call.reference`.
        remembers: Whether it uses `Place.memory`. A search that reads an answer anew then does so token by token, and
            scores each before the next, so that the memory is at each token what it was; otherwise in one pass.
        sites: Where in a layer it edits states: of "attn" (what attention adds to the stream), "mlp" (what the MLP
            adds) and "out" (what leaves the layer). With `kinds` VISION also "features": what the projector behind the
            vision tower is given, whatever `layers` says.
        projection: Whether its edit of states is a projection, which may follow another op's edit of the same site.
    """

    layers: frozenset[int] | None = None
    kinds: frozenset[str] = SELF_ATTENTION
    writes: bool = False
    compares: bool = False
    remembers: bool = False
    sites: frozenset[str] = frozenset()
    projection: bool = False

    def bias(self, call: Call) -> Tensor | None:
        """Return an additive log-scale bias on scores, (B|1, H|1, Q|1, K), float32.

        softmax(s + log w) is "multiply by w and renormalise", exactly.
        """

    def rows(self, call: Call) -> LongTensor | None:
        """Name the query rows of this pass to see or edit, R distinct 0-based indices; None: none.

        See `Place.newest` and `Place.rows_at`.
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

    def keep(self, call: Call, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return what later passes shall find in the cache instead of this pass's columns; None: what is there.

        Called after the layer has attended.

        Args:
            call: The call.
            keys: Of this pass's tokens, after rotary embedding, (B, KV, Q, D).
            values: (B, KV, Q, Dv).
        """

    def see_states(self, visit: Visit) -> None:
        """Look at what enters a layer, before its norm: `visit.states`; keep nothing large."""

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        """Return edited states of one of `sites`, of the shape they have; the same tensor to leave them alone.

        Args:
            visit: The site.
            states: As earlier ops have left them.
        """
        return states

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Say what it found in a single request, to be looked at: maps by name, float32.

        A map is (N,), over the image tokens, or (depth, heads), NaN in layers that it leaves alone.

        Args:
            depth: Number of decoder layers.
        """
        return {}


def overrides(op: Op, method: str) -> bool:
    """Whether an op has a method of its own, rather than the base class's."""
    return getattr(type(op), method) is not getattr(Op, method)
