"""Adaptive deactivation of hallucination heads (AD-HH).

Paper     ICLR 2025; TianyunYoung/Hallucination-Attribution.
Idea      A few heads make the model say what usually stands beside the words so far, not what the picture shows. Where
          such a head attends too much to the text after the picture, hide that text from it.
Formula   newest row, listed heads: where the attention to all columns after the picture (the rest of the prompt and the
          answer) sums to tau or more, these weights become 0; the others stay as they are (no renormalisation)
Defaults  tau 0.4; LLaVA-1.5-7B: the 20 heads of the authors' list. In other models, the 2% of heads that `mmhall fit
          adhh` ranks first (20 of 1024).
Cost      Attention weights of the newest row are computed explicitly, in layers with a listed head.
Compared  heads: paper and released code rank by influence, the loss of a token's probability without the head's
          output: its mean over hallucinated words minus that over true words; ours the same
          words of the fit: the authors' own greedy captions of 3000 COCO pictures, labelled by CHAIR; ours words in
          which a faithful and a hallucinated text about a picture differ, read token by token (teacher forcing)
          sum over columns: released code over the whole batch; ours for each row
          tau: released code 0.4 for LLaVA, 0.5 for MiniGPT-4; ours 0.4
          newer models: released code sets the listed heads' outputs to 0 always; ours the formula above
          baseline: the authors' not known to be greedy or sampled; ours what runs beside it
Differs   The influence is that of the output at the position that predicts the word. The pictures' last column is found
          from the prompt, not at fixed positions. Columns before the picture stay, as in the authors' code. Published
          heads go by model type and depth alone: every "llava" of 32 layers gets them, also one with other weights,
          such as a fine-tuned one or one built on Mistral, for which nobody has found them; heads="fitted" is for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.analysis import head_influence, measure_words
from mmhall.attention import Call, Columns
from mmhall.options import by_model
from mmhall.strategies import (
    DifferingWords,
    Fit,
    HeadStrategy,
    Pair,
    RowStrategy,
    Session,
    Steer,
    format_heads,
    heads_option,
    random_heads,
    select_heads,
    top_heads,
    twin_option,
    usable_heads,
)


@dataclass(frozen=True)
class ADHH(HeadStrategy, RowStrategy):
    """Hide the text after the picture from heads that hallucinate.

    Attributes:
        tau: Attention to the text after the picture from which it is hidden, >= 0; above 1 it never is.
        heads: The heads, such as "16.29, 26.9" (head 29 of layer 16, head 9 of layer 26), or "fitted".
        share: Share of the heads that are taken from a fit, in [0, 1].
        twin: 0: the strategy; a larger number: the seed of a random twin (as many other heads of each layer).
    """

    name: ClassVar[str] = "adhh"
    lists: ClassVar[tuple[str, ...]] = ("heads",)
    adjustable: ClassVar[frozenset[str]] = frozenset({"heads", "tau", "share"})
    published: ClassVar = {
        ("llava", 32): {
            "tau": 0.4,
            "heads": "16.29, 26.9, 13.31, 15.10, 20.12, 30.9, 19.18, 17.0, 18.9, 26.28, 19.27, 18.26, 15.25, 14.16, "
            "31.26, 15.24, 31.3, 22.20, 27.29, 17.28",
        }
    }

    tau: float = by_model(0.4, low=0, tries=(0.2, 0.3, 0.4, 0.5, 0.6))
    heads: str = heads_option()
    share: float = by_model(0.02, low=0, high=1, tries=(0.01, 0.02, 0.05))
    twin: int = twin_option()

    def fit(self, adapter: Adapter, pairs: Sequence[Pair], seed: int) -> Fit:
        """Rank the heads by their influence on hallucinated words, less that on true ones."""

        def influence(inputs: Inputs, text: DifferingWords) -> Tensor:
            first = [word.tokens[0] for word in text.words]
            return torch.stack([head_influence(adapter, inputs, text.ids[: token + 1]) for token in first])

        values = measure_words(adapter, pairs, influence)
        scores = values.difference()
        numbers = {
            "influence": values.check("the influence of heads", seed),
            "heads": format_heads(top_heads(scores, self.share, usable_heads(adapter))),
        }
        return Fit({"scores": scores}, numbers)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Hide the text after the picture at the newest row; without a picture return an empty session."""
        chosen = self._select(adapter)
        if not has_picture(inputs) or self.tau > 1 or not chosen.any():
            return Session()
        return Session(ops=[_HideText(chosen, adapter.after_image(inputs), self.tau)])

    def _select(self, adapter: Adapter) -> Tensor:
        """Return the heads, (layers, heads) bool."""
        if self.heads == "fitted":
            chosen = top_heads(self.learned(adapter).tensors["scores"], self.share, usable_heads(adapter))
        else:
            chosen = select_heads(adapter, self, "heads", self.heads)
        return random_heads(chosen, self.twin, "heads") if self.twin else chosen


class _HideText(Steer):
    """Hides the text after the picture from listed heads that attend to it too much."""

    first_row = -1

    def __init__(self, chosen: Tensor, after: Tensor, tau: float) -> None:
        self._count = chosen.shape[1]
        super().__init__(frozenset(chosen.any(dim=1).nonzero()[:, 0].tolist()))
        self._heads = {layer: chosen[layer].nonzero()[:, 0] for layer in self.layers or ()}
        self._before, self._tau = Columns((~after).float()), tau
        self._fired = {layer: torch.zeros(len(heads)) for layer, heads in self._heads.items()}
        self._rows = dict.fromkeys(self._heads, 0)

    def edit_probs(self, call: Call, rows: LongTensor, probs: Tensor) -> Tensor:
        heads, before = self._heads[call.layer].to(probs.device), self._before(call)
        weights = probs[:, heads]
        kept = weights * before
        fires = (weights - kept).sum(dim=-1, keepdim=True) >= self._tau
        self._fired[call.layer] = self._fired[call.layer].to(probs.device) + fires[0].sum(dim=(1, 2))
        self._rows[call.layer] += len(rows)
        return probs.index_copy(1, heads, torch.where(fires, kept, weights))

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return in which share of the steps each listed head did not see the text after the picture."""
        layers = {layer: heads for layer, heads in self._heads.items() if self._rows[layer]}
        if not layers:
            return {}
        shares = torch.full((depth, self._count), torch.nan)
        for layer, heads in layers.items():
            shares[layer, heads] = self._fired[layer].cpu() / self._rows[layer]
        return {"steps without the text": shares}
