"""Merging of redundant image tokens, and inhibition of text-image pairs (VMTC and CMAI).

Paper     arXiv:2411.15453; no code. All that follows is ours where it is not in the abstract: a stand-in, not the
          authors' method to the digit.
Idea      Redundant image tokens distract a model from what it was told to do. Keep the patches that the class token of
          the vision tower attends to, merge the others in clusters, and keep text from image tokens that it, and the
          text that it attends to, hardly look at.
Formula   importance i_j of a patch: A[class, j] in one encoder layer, averaged over heads
          the share `keep` with the highest i stays; the others are put in clusters by k-means on cosine; each becomes
          one token, sum i_j x_j / sum i_j over its patches, at the place of its most important patch
          in some decoder layers, rows of the text T behind the picture, weights A averaged over heads:
          F = A_TT A_TI; where F is below its mean, weights of that pair of text and image token *= inhibit, and the row
          is renormalised; a token of the answer attends to T and itself in A_TT, and has the mean of its own row
Defaults  keep 0.25, clusters for 5% of the patches, the last but one encoder layer (whose output such models read),
          inhibit 0, the middle third of the decoder: ours. inhibit=1 merges alone, keep=1 inhibits alone.
Cost      Fewer tokens in all layers of the decoder, as in `vtc-cls`. In the layers that inhibit, attention weights of
          the text are computed twice, and keys are laid out at all positions, which costs time, but no cache.
Compared  published: clusters by k-means on cosine, merging weighted by importance, attention to the picture aggregated
            by attention among text, inhibition of the lowest pairs
          ours: shares, layers, start and number of rounds of k-means, the threshold (the mean of F), which rows are
            text, heads averaged, positions without gaps
          baseline: not known; ours greedy
Differs   From the authors' in what is not published. Needs what `vtc-cls` needs: a class token, a token for each patch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import LongTensor, Tensor, nn

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import FEATURES, Call, Columns, Op, Visit
from mmhall.options import by_model
from mmhall.strategies import (
    ClassRanking,
    RowStrategy,
    Session,
    Steer,
    layers_option,
    select_layers,
    select_tower_layers,
    shuffled_columns,
    twin_option,
    why_no_class_scores,
)

_MASKED = -1e9
"""Bias of an inhibited pair where nothing is left: exp(-1e9) is 0. With -inf, rows could hold NaN."""
_ROUNDS = 20  # of k-means, unless it ends before


@dataclass(frozen=True)
class VTC(RowStrategy):
    """Merge redundant image tokens, and keep text from image tokens that it hardly looks at.

    Attributes:
        keep: Share of each picture's patches that are kept as they are, above 0, at most 1; 1: none is merged.
        clusters: Number of clusters of the other patches, as a share of all patches, in [0, 1]; 0: they are dropped.
        encoder: The encoder layer of the vision tower whose class token ranks the patches.
        inhibit: Factor of the weights of inhibited pairs, in [0, 1]; 1: nothing is inhibited.
        layers: Layers of the decoder in which pairs are inhibited.
        twin: 0: the strategy; a larger number: the seed of a random twin (patches and pairs at random).
    """

    name: ClassVar[str] = "vtc"

    keep: float = by_model(
        0.25, low=0, high=1, holds=lambda keep: keep > 0, expected="above 0, at most 1", tries=(0.125, 0.25, 0.5, 1.0)
    )
    clusters: float = by_model(0.05, low=0, high=1, tries=(0.0, 0.05, 0.1))
    encoder: str = layers_option("-2")
    inhibit: float = by_model(0.0, low=0, high=1, tries=(0.0, 0.5, 1.0))
    layers: str = layers_option("33%:67%")
    twin: int = twin_option()

    ways_out: ClassVar = dict.fromkeys(RowStrategy.claims, "vtc(inhibit=1), which merges alone")

    @property
    def claims(self) -> frozenset[str]:  # type: ignore[override]
        """The rows of attention, unless nothing is inhibited."""
        return frozenset() if self.inhibit == 1 else RowStrategy.claims

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models without a class token, without a token for each patch, or whose tokens cannot be dropped."""
        return why_no_class_scores(adapter)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Merge patches before the projector, and inhibit pairs; without a picture return an empty session."""
        if not has_picture(inputs) or self.keep == self.inhibit == 1:
            return Session()
        image = adapter.image_mask(inputs["input_ids"])
        encoder = select_tower_layers(adapter, self, "encoder", self.encoder)
        self.check("encoder", len(encoder) == 1, "one encoder layer of this model's vision tower")
        merging = _Merge(self.name, image, encoder, self.keep, self.twin, self.clusters)
        ops: list[Op] = [] if self.keep == 1 else [merging, merging.drop(contiguous=True)]
        if self.inhibit < 1:
            layers = select_layers(adapter, self, "layers", self.layers)
            kept = merging if self.keep < 1 else None
            ops.append(_Inhibit(layers, image, adapter.after_image(inputs), kept, self.inhibit, self.twin))
        return Session(ops=ops)


class _Merge(ClassRanking):
    """Keeps the patches that the class token attends to, and one token for each cluster of the others."""

    sites = frozenset({FEATURES})

    def __init__(
        self, owner: str, image: Tensor, layers: frozenset[int], keep: float, twin: int, clusters: float
    ) -> None:
        super().__init__(owner, image, layers, keep, twin)
        self._clusters, self._patches = clusters, torch.empty(0)

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        importance, highest = self.importance(), self.highest()
        edited = states.float().view(*importance.shape, -1).clone()
        count = round(self._clusters * importance.shape[1])
        parts = zip(edited, importance, highest, strict=True)
        merged, kept = zip(*(merge(*part, count) for part in parts), strict=True)
        self._patches = torch.stack(kept)
        return torch.stack(merged).view_as(states).to(states.dtype)

    def kept_patches(self) -> Tensor:
        return self._patches


class _Inhibit(Steer):
    """Lowers the weights of pairs of a text token and an image token with little focus."""

    def __init__(
        self,
        layers: frozenset[int],
        image: Tensor,
        text: Tensor,
        merging: _Merge | None,
        inhibit: float,
        twin: int,
    ) -> None:
        super().__init__(layers, text)
        self._bias = math.log(inhibit) if inhibit else _MASKED
        self._image, self._text, self._merging, self._twin = image, text, merging, twin
        self._columns, self._looks = Columns(image.float()), dict[int, Tensor]()

    def edit_scores(self, call: Call, rows: LongTensor, scores: Tensor) -> Tensor:
        weights = scores.softmax(dim=-1).mean(dim=1)  # (B, R, K)
        if call.prefill and call.layer == min(self.layers or ()) and self._merging is not None:
            self._columns = Columns((self._image & ~self._merging.dropped()).float())
        image = self._columns(call)[:, 0] > 0  # (B, 1, K)
        looks = weights * image
        own = (rows + call.start - call.offset).expand(len(weights), -1)
        if call.prefill:
            valid = self.row_mask(call, rows)
            assert valid is not None
            valid = valid[:, 0]  # (B, R, 1)
            self._looks[call.layer] = looks * valid
            focus = weights.gather(2, own[:, None].expand(-1, len(rows), -1)) @ self._looks[call.layer]
            low = low_pairs(focus, image, valid)
        else:
            focus = self._answer_focus(call, weights)
            if call.step:
                focus = focus + weights.gather(2, own[..., None]) * looks
            counted = torch.ones_like(focus[:, :1, :1])
            low = torch.cat([low_pairs(part, image, counted) for part in focus.split(1, dim=1)], dim=1)
        if self._twin:
            low = _random_pairs(low, image, self._twin)
        return scores + self._bias * low[:, None]

    def _answer_focus(self, call: Call, weights: Tensor) -> Tensor:
        """Return the focus of tokens of an answer through the text of the prompt, (B, R, K)."""
        length, before = self._text.shape[1], -call.offset
        text = self._text.any(dim=0).nonzero()[:, 0].to(call.device) + before
        looks = call.each(self._looks[call.layer])
        return weights[:, :, text] @ nn.functional.pad(looks, (before, weights.shape[2] - length - before))


def merge(states: Tensor, importance: Tensor, highest: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Merge the patches of a picture that are not kept, cluster by cluster.

    Args:
        states: Features of the patches, (N, D) float32; edited in place.
        importance: Importance of each patch, (N,).
        highest: Patches that are kept as they are, (N,) bool.
        count: Largest number of clusters.

    Returns:
        The features, and which patches become tokens, (N,) bool.
    """
    kept, rest = highest.clone(), (~highest).nonzero()[:, 0]
    if count == 0 or len(rest) == 0:
        return states, kept
    labels = cluster(states[rest], min(count, len(rest)))
    for label in labels.unique().tolist():
        members = rest[labels == label]
        weights = importance[members].to(states)
        place = members[weights.argmax()]
        states[place] = (weights / weights.sum()) @ states[members]
        kept[place] = True
    return states, kept


def cluster(states: Tensor, count: int) -> Tensor:
    """Cluster vectors by k-means on cosine, from centres at even distances in their order; return labels, (N,).

    Args:
        states: Vectors, (N, D).
        count: Number of clusters, at most N; some may stay empty.
    """
    units = nn.functional.normalize(states, dim=-1)
    centres = units[torch.arange(count, device=states.device) * len(units) // count]
    labels = torch.full((len(units),), -1, device=states.device)
    for _ in range(_ROUNDS):
        nearest = (units @ centres.T).argmax(dim=1)
        if torch.equal(nearest, labels):
            break
        labels = nearest
        sums = torch.zeros_like(centres).index_add(0, labels, units)
        filled = torch.bincount(labels, minlength=count)[:, None] > 0
        centres = torch.where(filled, nn.functional.normalize(sums, dim=-1), centres)
    return labels


def low_pairs(focus: Tensor, image: Tensor, rows: Tensor) -> Tensor:
    """Mark the pairs of text and image token whose focus is below the mean, (B, R, K) bool.

    Of attention of text to the picture (0.2, 0.1), (0.05, 0.3), and among text (1, 0), (0.5, 0.5), the focus is
    (0.2, 0.1), (0.125, 0.2), with the mean 0.15625: the pairs (0, 1) and (1, 0) are low.

    Args:
        focus: Focus of each row on each column, (B, R, K).
        image: Columns of the picture, (B, 1, K) bool.
        rows: Whether a row counts, (B, R, 1) float32.
    """
    pairs = image * rows
    mean = (focus * pairs).sum(dim=(1, 2), keepdim=True) / pairs.sum(dim=(1, 2), keepdim=True).clamp_min(1)
    return (focus < mean) & (pairs > 0)


def _random_pairs(low: Tensor, image: Tensor, twin: int) -> Tensor:
    """Mark as many random image tokens of each row, the same ones in all rows of a prompt, (B, R, K) bool.

    Args:
        low: The informed choice, (B, R, K) bool.
        image: Image columns that are left, (B, 1, K) bool.
        twin: The seed.
    """
    ranks = shuffled_columns(image[:, 0].cumsum(dim=-1).float(), image[:, 0], twin, "pairs")[:, None]
    return image & (ranks <= low.sum(dim=-1, keepdim=True))
