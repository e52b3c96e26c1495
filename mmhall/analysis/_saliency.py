"""Saliency of image tokens, from attention shifts while a model reads a question.

Attention to the picture shifts from word to word. The sum of the shifts at informative words is a map of the part of
the picture that the question is about (arXiv:2510.22067, which calls them gaze shifts).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import LongTensor, Tensor, nn

from mmhall.adapters import Adapter, Inputs
from mmhall.attention import Call, Columns, Op, first_marked
from mmhall.strategies import top_half
from mmhall.words import Word, split_words


def mark_informative(adapter: Adapter, inputs: Inputs, query: Tensor) -> Tensor:
    """Mark the tokens of informative words in a question, (B, T) bool; without a tokenizer all its tokens."""
    return query if adapter.tokenizer is None else _mark(adapter, inputs, query, lambda word: word.is_informative)


def mark_words(adapter: Adapter, inputs: Inputs, query: Tensor, words: Sequence[str]) -> Tensor:
    """Mark the tokens of given words in a question, in any case, (B, T) bool; needs the adapter's tokenizer."""
    lowered = {word.lower() for word in words}
    return _mark(adapter, inputs, query, lambda word: word.text.lower() in lowered)


def _mark(adapter: Adapter, inputs: Inputs, query: Tensor, counts: Callable[[Word], bool]) -> Tensor:
    """Mark the tokens of the words of a question that count, (B, T) bool; a picture always separates words."""
    marked = torch.zeros_like(query)
    for row, ids, in_query in zip(marked, inputs["input_ids"], query, strict=True):
        positions = in_query.nonzero()[:, 0]
        gaps = (positions.diff() > 1).nonzero()[:, 0].cpu() + 1
        for places in positions.tensor_split(gaps):
            words = split_words(adapter.tokenizer, ids[places].tolist())
            row[places[[token for word in words if counts(word) for token in word.tokens]]] = True
    return marked


class SaliencyProbe(Op):
    """Records how attention to the picture shifts from word to word while a prompt is read.

    Attributes:
        shifts: By layer, mean shift to each column over words and over the half of the heads that shift most, (B, T);
            in a cross layer (B, K).
    """

    def __init__(self, layers: frozenset[int], image: Tensor, words: Tensor, kinds: frozenset[str] = Op.kinds) -> None:
        """Choose the rows to read.

        Args:
            layers: 0-based decoder layers.
            image: Image positions, (B, T) bool.
            words: Positions of the words that count, (B, T) bool; not the first.
            kinds: Kinds of layers that hold image columns.
        """
        self.layers, self.kinds, self.image, self.words = layers, kinds, image, words
        self.first_row = first_marked(words) - 1
        self.shifts: dict[int, Tensor] = {}
        self._image = Columns(image.float())
        self._at = words.any(dim=0).nonzero()[:, 0]
        self._row_positions = torch.unique(torch.cat([self._at - 1, self._at]))

    def rows(self, call: Call) -> LongTensor | None:
        """Return the words' rows and those before them."""
        return call.rows_at(self._row_positions) if call.prefill and not call.reread else None

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Sum the shifts of a layer."""
        if call.count < call.where.queries:
            return  # a layer that gets only the newest row
        positions, at, words = (part.to(probs.device) for part in (rows + call.start, self._at, call.each(self.words)))
        at = at[at > call.start]  # a shared prefix holds words of other prompts only
        now, before = torch.searchsorted(positions, at), torch.searchsorted(positions, at - 1)
        shift = (probs[:, :, now] - probs[:, :, before]).clamp_min(0)
        shift = (shift * words[:, at][:, None, :, None]).sum(dim=2)  # (B, H, K)
        if call.kind != "cross":
            length, width = self.image.shape[1], probs.shape[-1]
            shift = shift * self._image(call)[:, :, 0]
            shift = nn.functional.pad(shift, (call.offset, length - call.offset - width))
        heads = top_half(shift.sum(dim=-1)[:, :, None, None])[:, :, 0]
        count = heads.sum(dim=1).clamp_min(1) * words.sum(dim=1, keepdim=True).clamp_min(1)
        self._store(call, ((shift * heads).sum(dim=1) / count).to(self.image.device))

    def _store(self, call: Call, shifts: Tensor) -> None:
        """Store the shifts of a layer for the prompts of this pass, (B, T)."""
        if call.owners is None:
            self.shifts[call.layer] = shifts
            return
        stored = self.shifts.setdefault(call.layer, shifts.new_zeros(len(self.image), shifts.shape[1]))
        stored[call.owners.to(stored.device)] = shifts

    def of(self, layers: Sequence[int], count: int) -> Tensor:
        """Return the shifts of a single request, (layers, image tokens) float32 on the CPU; 0 in layers without any."""
        shifts = torch.zeros(len(layers), count)
        for row, layer in zip(shifts, layers, strict=True):
            if layer in self.shifts:
                values = self.shifts[layer][0]
                row[:] = values[self.image[0]] if self.image.any() else values
        return shifts

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return the map of a single request."""
        layers, image = sorted(self.shifts), self.image[0]
        if not layers:
            return {}
        count = int(image.sum()) if image.any() else len(self.shifts[layers[0]][0])
        return {"saliency": scale(self.of(layers, count).mean(dim=0))}

    def map(self) -> Tensor:
        """Return the saliency map, mean over layers, (B, T) in [0, 1] at image positions, 0 elsewhere."""
        maps = torch.zeros_like(self.image, dtype=torch.float32)
        if self.shifts:
            mean = torch.stack(list(self.shifts.values())).mean(dim=0)
            for row, image, scaled in zip(mean, self.image, maps, strict=True):
                scaled[image] = scale(row[image])
        return maps


def scale(shifts: Tensor) -> Tensor:
    """Clip shifts at three deviations from their mean and scale them to [0, 1]; constant ones become 0.

    Of 0, 1, 3 the mean is 1.33 and the deviation 1.53: nothing is clipped, and they become 0, 0.33, 1.

    Args:
        shifts: Shift to each image token, (N,).
    """
    if len(shifts) < 2:
        return torch.zeros_like(shifts)
    mean, spread = shifts.mean(), 3 * shifts.std()
    clipped = shifts.clamp(mean - spread, mean + spread)
    width = clipped.max() - clipped.min()
    return (clipped - clipped.min()) / width if width > 0 else torch.zeros_like(shifts)
