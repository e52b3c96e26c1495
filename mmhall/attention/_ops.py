"""Ops: how a strategy reads and edits the attention and the states of a model's layers.

An op names the layers it acts in and overrides only the methods it needs; a layer without ops is plain SDPA. An op
belongs to the main rows of a request or to one branch, and is given those rows only.

Shapes: B rows of the op's block, H query heads, KV key-value heads, Q query rows, K key columns, D head size,
R chosen rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import LongTensor, Tensor

from mmhall.attention._memory import Memory
from mmhall.attention._passes import Pass
from mmhall.errors import CompositionError, ModelError

SELF_ATTENTION = frozenset({"full", "sliding", "chunked"})
ATTENTION = SELF_ATTENTION | {"cross"}
EVERY = ATTENTION | {"linear"}  # all kinds of decoder layers
VISION = frozenset({"vision"})
FEATURES = "features"


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A layer in one forward pass, for the rows of one block.

    Attributes:
        layer: 0-based decoder layer; for kind "vision", 0-based encoder layer of the vision tower, or the number of
            encoder layers for the features after the last one.
        kind: "full", "sliding", "chunked", "cross", "linear" or "vision".
        where: The forward pass.
    """

    layer: int
    kind: str
    where: Pass

    @property
    def count(self) -> int:
        """Number of sequence rows that the layer reads in this pass, Q."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Device on which the layer computes."""
        raise NotImplementedError

    @property
    def step(self) -> int:
        """Number of answer tokens after this pass: 0 where the prompt is read."""
        return self.where.step

    @property
    def start(self) -> int:
        """Position of row 0 in the sequence, prompt first.

        Layers that share the keys of earlier layers (Gemma 4) read only the newest row of a prompt.
        """
        return self.where.end - self.count

    @property
    def answer(self) -> bool:
        """Whether all rows are tokens of an answer; there may be several rows."""
        return self.where.frame.answer

    @property
    def reread(self) -> bool:
        """Whether the prompt or its last token is read for the second time; see `Session.reread`."""
        return self.where.frame.reread

    @property
    def owners(self) -> Tensor | None:
        """Index of the prompt that each row belongs to, (B,) 0-based; None: row i belongs to prompt i.

        In the vision tower: the prompt of each patch, in the shape of the states without their width, because a
        picture may take several rows and a row may hold several pictures; None: unknown.
        """
        return self.where.frame.owners

    @property
    def memory(self) -> Memory:
        """Tensors kept from step to step, shared by all ops of these rows; only for ops with `remembers`.

        Raises:
            CompositionError: No op of these rows has `remembers = True`.
        """
        plan = self.where.block.plan
        if plan is None or not plan.remembers:
            raise CompositionError(
                "an op uses `memory` without declaring it, so a search could not restore the memory; set "
                "`remembers = True` in its class"
            )
        return self.where.frame.memory.part(self.where.block.number)

    @property
    def prefill(self) -> bool:
        """Whether this pass reads a prompt, not tokens of an answer."""
        return self.count > 1 and not self.answer

    @property
    def left(self) -> Tensor | None:
        """Which positions of each prompt are left in this layer, (prompts, positions) bool; None: all of them.

        Rows and columns of the others mean nothing; see `Drop`.
        """
        plan = None if self.kind == "vision" else self.where.block.plan
        layout = None if plan is None else plan.layout(self.layer)
        return None if layout is None else layout.left

    @property
    def newest(self) -> LongTensor:
        """Rows from which a next token is predicted, 0-based.

        The last row; in a pass over several answer tokens (candidate tokens, or an answer that is read again) all rows.
        """
        first = 0 if self.answer else self.count - 1
        return torch.arange(first, self.count, device=self.device)  # type: ignore[return-value]

    def rows_at(self, positions: Tensor) -> LongTensor:
        """Return the rows at some positions of the sequence, 0-based; positions outside this pass are left out.

        Args:
            positions: Positions in the sequence, (R,) 0-based.
        """
        rows = positions.to(self.device) - self.start
        return rows[(rows >= 0) & (rows < self.count)]  # type: ignore[return-value]

    def each(self, values: Tensor) -> Tensor:
        """Expand values of each prompt, (prompts, ...), to every row, in the vision tower to every patch.

        Raises:
            ModelError: It is unknown which patches of the vision tower belong to which prompt.
        """
        if self.owners is None and self.kind == "vision":
            raise ModelError(
                "it is unknown which patches of the vision tower belong to which prompt of these inputs; make them "
                "with adapter.inputs(requests), or read one prompt at a time"
            )
        return values if self.owners is None else values[self.owners.to(values.device)]


@dataclass(frozen=True, slots=True, eq=False)
class Call(Place):
    """One attention call: one layer in one forward pass.

    Attributes:
        offset: Position of key column 0. Larger than 0 in a sliding layer that has dropped earlier columns; negative
            where rows were padded on the left to be joined with longer rows; 0 in a cross layer, whose columns are
            image positions. In a vision tower that attends picture by picture: number of patches of earlier pictures.
        query: (B, H, Q, D), after rotary embedding.
        key: (B, KV, K, D), cache included.
        value: (B, KV, K, Dv), cache included.
        mask: None (causal), or bool (True: visible) or additive float, (B|1, 1|H, Q, K).
        scaling: Factor of the scores, usually D ** -0.5.
        reference: Head outputs of this layer in the lockstep reference pass, (B, Q', H, Dv), before that pass's
            `edit_output`; None where there is no such pass. Only for ops with `compares`.
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
        """Number of query rows, Q."""
        return self.query.shape[2]

    @property
    def device(self) -> torch.device:
        """Device on which the layer computes."""
        return self.query.device

    @property
    def causal(self) -> bool:
        """Whether attention without a mask is causal."""
        return self.prefill and self.kind not in ("cross", "vision")


@dataclass(frozen=True, slots=True, eq=False)
class Visit(Place):
    """One site of a layer in one forward pass.

    Attributes:
        site: "attn", "mlp", "out", or "in" for the input of the layer; in the vision tower also "features".
        states: States at the site before any op has edited them, (B, Q, hidden size); where a vision tower reads all
            patches as one list, B is 1. Features have the shape of the model family, (..., hidden size).
        source: Input of the module at the site, (B, Q, hidden size): for "attn" and "mlp" after the preceding norm.
        project: At "features": returns what the projector makes of other features, of the same shape; None elsewhere.
    """

    site: str
    states: Tensor
    source: Tensor
    project: Callable[[Tensor], Any] | None = None

    @property
    def count(self) -> int:
        """Number of sequence rows, Q."""
        return self.states.shape[-2]

    @property
    def device(self) -> torch.device:
        """Device on which the layer computes."""
        return self.states.device


class Op:
    """One operation on attention or states; the base class does nothing.

    Attributes:
        layers: 0-based layers in which the op acts, of the decoder or, with `kinds` VISION, of the vision tower;
            None: all.
        kinds: Kinds of layers in which the op acts. Linear layers have no attention: only their sites can be edited.
            VISION: encoder layers of the vision tower, whose attention is not causal and has no cache.
        writes: Whether the op edits scores or weights of rows; otherwise it only reads them. An op that only reads may
            set it, too, where its edit needs the weights anyhow: the output of the rows is then made of them, not
            computed by SDPA as well.
        by_blocks: Whether the op edits each row by itself, so that the rows of a prompt may come in several calls of
            `edit_scores`, `edit_probs` and `see`: their weights are then never held all at once, unless another op
            that edits rows of the layer does not say so.
        compares: Whether the op reads `Call.reference`.
        whole: Whether each pass must have all rows of the batch, such as for an op that stacks what it reads from step
            to step by row. Rows that have ended are then decoded on; otherwise they leave the batch, and `owners` says
            which rows are left.
        remembers: Whether the op uses `Place.memory`. A search that reads an answer again then reads it token by
            token and scores each token before the next, so that the memory is restored; otherwise in one pass.
        sites: Sites of a layer at which the op edits states: "attn" (what attention adds to the residual stream),
            "mlp" (what the MLP adds), "out" (output of the layer), "in" (input of the layer; of layer 0 the embeddings
            of tokens and pictures). With `kinds` VISION also "features": the input of the projector after the vision
            tower, independent of `layers`.
        projection: Whether the edit of states is a projection, which may follow another op's edit at the same site.
        first_row: First position of the prompts whose row the op reads or edits: one for all, or one of each,
            (prompts,); -1: the last; 0: any. Rows before it may be read once for several prompts, without the op. Then
            prompts come in several passes, each over the ends of some of them; see `start` and `owners`.
    """

    layers: frozenset[int] | None = None
    kinds: frozenset[str] = SELF_ATTENTION
    writes: bool = False
    by_blocks: bool = False
    compares: bool = False
    whole: bool = False
    remembers: bool = False
    sites: frozenset[str] = frozenset()
    projection: bool = False
    first_row: int | Tensor = 0

    def remask(self, call: Call) -> Tensor | None:
        """Return which columns each row sees, instead of `call.mask`, (B, 1|H, Q, K) bool; None: the mask stays.

        It may make visible what the model masks. `call` has the mask as changed by earlier ops, and later methods of
        all ops get the new one.
        """

    def bias(self, call: Call) -> Tensor | None:
        """Return an additive bias on the scores, (B|1, H|1, Q|1, K), float32; None: no bias.

        A bias of log w multiplies the attention weights by w and renormalises them.
        """

    def rows(self, call: Call) -> LongTensor | None:
        """Return the query rows of this pass to read or edit, R distinct 0-based indices; None: no rows.

        See `Place.newest` and `Place.rows_at`.
        """

    def edit_scores(self, call: Call, rows: LongTensor, scores: Tensor) -> Tensor:
        """Return edited scores before softmax, (B, H, R, K), float32; masked columns stay masked."""
        return scores

    def edit_probs(self, call: Call, rows: LongTensor, probs: Tensor) -> Tensor:
        """Return edited attention weights, (B, H, R, K), float32."""
        return probs

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Read the final attention weights, (B, H, R, K), float32; reduce them here, do not store them whole."""

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        """Return edited head outputs before the output projection, (B, Q, H, Dv)."""
        return output

    def keep(self, call: Call, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return keys and values that replace those of this pass in the cache; None: the cache stays as it is.

        Called after the layer has attended; later passes read the new keys and values.

        Args:
            call: The attention call.
            keys: Keys of this pass's tokens, after rotary embedding, (B, KV, Q, D).
            values: Values of this pass's tokens, (B, KV, Q, Dv).
        """

    def see_states(self, visit: Visit) -> None:
        """Read the input of a layer before its norm, `visit.states`; reduce it here, do not store it whole.

        Needs no `sites`; edits at site "in" come first. In layer 0 it is the embeddings of the tokens; a pass does not
        hold their ids.
        """

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        """Return edited states of one of `sites`, in the same shape; the same tensor where nothing changes.

        Args:
            visit: The site.
            states: States after the edits of earlier ops.
        """
        return states

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return what the op measured in a single request, for display: maps by name, float32.

        A map is (N,), over the image tokens; (depth, heads), NaN in layers in which the op does not act; or
        (S, depth, heads), over the tokens of the answer, too. Of depth and heads, either is 1 where there is one value
        for all.

        Args:
            depth: Number of decoder layers.
        """
        return {}


def overrides(op: Op, method: str) -> bool:
    """Whether the class of an op overrides a method of the base class."""
    return getattr(type(op), method) is not getattr(Op, method)
