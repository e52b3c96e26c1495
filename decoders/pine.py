"""Position-invariant inference (PINE).

Paper     arXiv:2407.01100; wzq016/PINE (no licence file; written from a description only). Published for language
          models and texts. On pictures and vision-language models it is unpublished: all about pictures is ours.
Idea      The order of interchangeable segments, such as several pictures, should not matter. Let segments see each
          other in both directions, and let each head place them by its own attention, not by their order.
Formula   importance of a segment for a row and a head = mean over its tokens of softmax(q k / sqrt(d)) over the tokens
          of all segments, with q and k before the rotary embedding
          positions: the most important segment stands nearest to the text behind the segments, the next one before it,
          and so on; together they fill the same positions as in the prompt
          a row inside a segment: its own segment stands nearest, and is masked in the softmax; importances are summed
          over the rows of its segment
          then attention with queries and keys at these positions; rows behind the segments keep their own
Defaults  Nothing to choose: all layers, all heads, as in the released code.
Cost      The scores between segments and all rows from the first segment on are computed twice, and all these rows
          explicitly instead of by SDPA: while the prompt is read, (heads, rows, columns) float32 for each prompt,
          several times. Queries are turned once for each segment. The cache is the same. On the embedded model with
          three pictures, on a CPU, the first token takes 2.9 times as long as with greedy, a later one 2.5 times.
Compared  keys: released code caches them before the rotary embedding and turns them for each head and row; ours turns
            the queries by the difference, which gives the same scores
          batch: released code one prompt; ours any
          positions of three axes (time, row, column): not in the paper; ours moves a segment by the same distance
            along all axes, and gives it as many positions as the model does
          separators: ours counts what stands between segments to each of them, and refuses a prompt whose text around
            segments shows their order, such as "Picture 2:"
          fewer than two segments: ours is plain decoding, to the last bit
          baseline: the authors' is greedy
Differs   A composition with a contrast is position-invariant in its main rows only: a branch reads the prompt as it is.
          A tokenizer must divide a text alike wherever it stands; write each segment on a line of its own. A question
          about "the first picture" has no answer any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any, ClassVar

import torch
from torch import LongTensor, Tensor, nn

from mmhall.adapters import Adapter, Inputs
from mmhall.attention import Call, Op, Rotary, visible_columns
from mmhall.errors import ModelError
from mmhall.options import option
from mmhall.strategies import (
    RowStrategy,
    Segments,
    Session,
    Strategy,
    picture_segments,
    text_segments,
    twin_generator,
    twin_option,
)

_ROWS = 256  # rows whose importances are computed together


def _are_texts(segments: tuple[Any, ...]) -> bool:
    texts = ["".join(text.split()) if isinstance(text, str) else "" for text in segments]
    return all(texts) and not any(one in other for one, other in permutations(texts, 2))


@dataclass(frozen=True)
class PINE(Strategy):
    """Read several pictures, or several texts, so that their order does not change the answer.

    Attributes:
        segments: The interchangeable texts, each of which is once in the prompt; empty: its pictures.
        twin: 0: the strategy; a larger number: the seed of a random twin (segments are placed by a random query of the
            same length in each head, not by the row's own).
    """

    name: ClassVar[str] = "pine"
    claims: ClassVar[frozenset[str]] = RowStrategy.claims

    segments: tuple[str, ...] = option(
        (), holds=_are_texts, expected="a tuple of texts, none of which contains another; empty: the pictures"
    )
    twin: int = twin_option()

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models with layers that see tokens by their distance, or whose positions cannot be changed."""
        others = sorted(set(adapter.kinds) - {"full"})
        if others:
            return f"it has layers of kind {' and '.join(others)}, in which not all rows see all segments alike"
        try:
            adapter.rotary  # noqa: B018
        except ModelError as error:
            return str(error)
        return None

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Place segments by importance; with fewer than two in every prompt return an empty session."""
        if self.segments:
            segments = text_segments(adapter, inputs, self.segments)
        else:
            segments = picture_segments(adapter, inputs)
        if max(segments.counts) < 2:
            return Session()
        return Session(ops=[PlaceSegments(segments, adapter.rotary, self.twin)])


@dataclass(frozen=True, slots=True, eq=False)
class _Region:
    """The stretch of a batch's prompts with their segments, N positions; S segments at most, P prompts.

    Attributes:
        first: First position.
        index: Segment of each position, -1: none, (P, N).
        angles: Angles of the rotary embedding at each position, (P, N, pairs).
        starts: First rotary position of each segment, (P, S).
        lengths: Number of rotary positions of each segment, (P, S); 0 where a prompt has fewer segments.
        ends: First rotary position behind the segments, (P, 1).
        spans: Positions that hold each segment in any prompt, relative to `first`.
    """

    first: int
    index: Tensor
    angles: Tensor
    starts: Tensor
    lengths: Tensor
    ends: Tensor
    spans: tuple[slice, ...]

    @classmethod
    def of(cls, segments: Segments, position_ids: Tensor, rotary: Rotary) -> _Region:
        """Measure segments; `position_ids` are those of the prompts, (axes, P, T)."""
        within = (segments.index >= 0).any(dim=0).nonzero()[:, 0]
        first, stop = int(within[0]), int(within[-1]) + 1
        index, most = segments.index[:, first:stop], max(segments.counts)
        text = position_ids[-len(rotary.frequencies)]  # along the first axis
        ends = torch.stack([row[int((own >= 0).nonzero()[-1]) + 1 if (own >= 0).any() else -1] for row, own in
                            zip(text, segments.index, strict=True)])  # fmt: skip
        starts = ends[:, None].repeat(1, most)
        for prompt, count in enumerate(segments.counts):
            for number in range(count):
                starts[prompt, number] = text[prompt, int((segments.index[prompt] == number).nonzero()[0])]
        lengths = torch.cat([starts[:, 1:], ends[:, None]], dim=1) - starts
        where = [(index == number).any(dim=0).nonzero()[:, 0].tolist() for number in range(most)]
        spans = tuple(slice(own[0], own[-1] + 1) for own in where)
        angles = rotary.angles(position_ids[:, :, first:stop])
        return cls(first, index, angles, starts, lengths, ends[:, None], spans)


class PlaceSegments(Op):
    """Lets segments see each other, and places them for each head by how much it attends to them."""

    kinds = frozenset({"full"})
    writes = True

    def __init__(self, segments: Segments, rotary: Rotary, twin: int = 0) -> None:
        """Store where the segments are.

        Args:
            segments: The segments of each prompt.
            rotary: Rotary embedding of the decoder.
            twin: Seed of random queries; 0: the rows' own.
        """
        self._segments, self._rotary, self._twin = segments, rotary, twin
        self._first = int((segments.index >= 0).any(dim=0).nonzero()[0])
        self._region: _Region | None = None
        self._nearest: dict[tuple[int, int], Tensor] = {}

    def remask(self, call: Call) -> Tensor | None:
        """Open pairs of tokens of different segments; all else is masked as the model does."""
        visible = visible_columns(call, None) if _reads_prompt(call) else None
        if visible is None:
            return None
        of_row, of_column = (self._index(call, count) for count in (call.count, call.key.shape[2]))
        of_row, of_column = of_row[:, None, :, None], of_column[:, None, None, :]
        opened: Tensor = visible | ((of_row >= 0) & (of_column >= 0) & (of_row != of_column))
        return opened

    def rows(self, call: Call) -> LongTensor | None:
        """Return the rows from the first segment on."""
        if not _reads_prompt(call):
            return call.newest
        return torch.arange(self._first, call.count, device=call.device)  # type: ignore[return-value]

    def edit_scores(self, call: Call, rows: LongTensor, scores: Tensor) -> Tensor:
        """Replace the scores of segments, and in rows of segments all scores, by those at the new positions."""
        ids = _position_ids(call)
        if self._region is None:
            self._region = _Region.of(self._segments, ids, self._rotary)
        region = self._region
        index, starts, lengths, ends = (
            call.each(part).to(call.device) for part in (region.index, region.starts, region.lengths, region.ends)
        )
        own = self._index(call, call.count)[:, rows] if _reads_prompt(call) else None
        query = call.query[:, :, rows].float()
        importance = self._importance(call, query, ids[:, :, rows], index, own)  # (B, H, R, S)
        shifts = place(importance, lengths[:, None, None], ends[:, None, None]) - starts[:, None, None]
        if own is None:
            moved = torch.zeros_like(ids[0, :, rows])
        else:  # the own segment stands nearest
            moved = (ends - lengths - starts).gather(1, own.clamp_min(0)).masked_fill(own < 0, 0)  # (B, R)
            turned = self._rotary.turn(query, self._rotary.shift(moved)[:, None])
            scores = torch.where((own >= 0)[:, None, :, None], _scores(call, turned, call.key.float()), scores)
        begin = region.first - call.offset
        for number, span in enumerate(region.spans):
            columns = slice(begin + span.start, begin + span.stop)
            turned = self._rotary.turn(query, self._rotary.shift(moved[:, None] - shifts[..., number]))
            replaced = _scores(call, turned, call.key[:, :, columns].float())
            inside = (index[:, span] == number)[:, None, None]
            scores[..., columns] = torch.where(inside, replaced, scores[..., columns])
        self._note(call, importance)
        return scores

    def _importance(self, call: Call, query: Tensor, ids: Tensor, index: Tensor, own: Tensor | None) -> Tensor:
        """Return the importance of each segment for each row and head, (B, H, R, S); infinite: the row's own."""
        region = self._region
        assert region is not None
        begin, most = region.first - call.offset, region.starts.shape[1]
        angles = call.each(region.angles).to(call.device)[:, None]
        keys = self._rotary.turn(call.key[:, :, begin : begin + index.shape[1]].float(), -angles)
        queries = self._rotary.turn(query, -self._rotary.angles(ids)[:, None])
        if self._twin:
            drawn = torch.randn(
                queries.shape[1], 1, queries.shape[3], generator=twin_generator(self._twin, f"layer {call.layer}")
            )
            queries = nn.functional.normalize(drawn, dim=-1).to(queries) * queries.norm(dim=-1, keepdim=True)
        member = index[..., None] == torch.arange(most, device=index.device)  # (B, N, S)
        share = (member / member.sum(dim=1, keepdim=True).clamp_min(1))[:, None]
        parts = []
        for chosen in torch.arange(query.shape[2], device=index.device).split(_ROWS):
            hidden = (
                (index < 0)[:, None] if own is None else (index < 0)[:, None] | (index[:, None] == own[:, chosen, None])
            )
            weights = _scores(call, queries[:, :, chosen], keys)
            weights = weights.masked_fill(hidden[:, None], torch.finfo(torch.float32).min).softmax(dim=-1)
            parts.append(weights @ share)
        importance = torch.cat(parts, dim=2)
        if own is None:
            return importance
        within = (own[..., None] == torch.arange(most, device=own.device))[:, None]  # (B, 1, R, S)
        pooled = within.float() @ (within.float().transpose(-1, -2) @ importance)
        importance = torch.where((own >= 0)[:, None, :, None], pooled, importance)
        return importance.masked_fill(within, torch.inf)

    def _index(self, call: Call, count: int) -> Tensor:
        """Return the segment of each of the first `count` positions, -1: none, (B, count)."""
        own = call.each(self._segments.index).to(call.device)
        return nn.functional.pad(own, (0, max(0, count - own.shape[1])), value=-1)

    def _note(self, call: Call, importance: Tensor) -> None:
        """Record which segment each head places nearest, for the rows that predict a token of the first prompt."""
        newest = importance[0, :, -len(call.newest) :].argmax(dim=-1) + 1.0  # (H, tokens)
        first = call.step - newest.shape[1] + 1
        for number, heads in enumerate(newest.unbind(dim=1)):
            self._nearest[first + number, call.layer] = heads.cpu()

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return the number of the segment, from 1, that each head places nearest for each token of the answer."""
        if not self._nearest:
            return {}
        tokens = max(step for step, _ in self._nearest) + 1
        heads = len(next(iter(self._nearest.values())))
        missing = torch.full((heads,), torch.nan)
        values = [self._nearest.get((step, layer), missing) for step in range(tokens) for layer in range(depth)]
        return {"nearest segment": torch.stack(values).view(tokens, depth, heads)}


def place(importance: Tensor, lengths: Tensor, ends: Tensor) -> Tensor:
    """Place segments from the end backwards, the most important one last; return their first positions, (..., S).

    Segments of 2 and 3 positions that end before position 7 begin at 2 and 4 with importances 0.1 and 0.1667, and at 5
    and 2 with these reversed.

    Args:
        importance: Importance of each segment, (..., S).
        lengths: Positions of each segment, broadcast to this shape.
        ends: First position behind the segments, (..., 1).
    """
    order = importance.argsort(dim=-1, descending=True, stable=True)
    sizes = lengths.expand_as(order).gather(-1, order)
    return torch.empty_like(order).scatter(-1, order, ends - sizes.cumsum(dim=-1))


def _reads_prompt(call: Call) -> bool:
    """Whether the pass reads the prompt from its first token on; without a cache, all passes do."""
    return call.prefill and call.start == 0


def _position_ids(call: Call) -> Tensor:
    """Return the position ids of the rows of a pass, (axes, B, Q); a decoder that gets none counts them itself."""
    ids = call.where.position_ids
    if ids is None:
        ids = torch.arange(call.start, call.start + call.count).expand(1, len(call.query), -1)
    return ids.to(call.device)


def _scores(call: Call, query: Tensor, keys: Tensor) -> Tensor:
    """Multiply queries, (B, H, R, D), with keys, (B, KV, K, D), into scores, (B, H, R, K)."""
    batch, heads, count, size = query.shape
    groups = keys.shape[1]
    grouped = query.reshape(batch, groups, heads // groups * count, size)
    return (grouped @ keys.transpose(-1, -2)).view(batch, heads, count, -1) * call.scaling
