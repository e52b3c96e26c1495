"""Ops that choose which image tokens a prompt keeps; `mmhall.attention.Drop` drops the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter
from mmhall.attention import VISION, Call, Drop, Op
from mmhall.errors import ModelError
from mmhall.strategies._image_lift import why_no_image_columns
from mmhall.strategies._twins import twin_generator


class KeepImageTokens(Op):
    """The base of ops that choose which image tokens are kept from a layer on.

    A subclass reads something of the prompts and sets `_kept`, the choice.
    """

    def __init__(self, image: Tensor, first: int) -> None:
        """Set the tokens to choose from.

        Args:
            image: Image positions of the prompts, (prompts, T) bool.
            first: 0-based; first layer without the tokens that are not kept.
        """
        self._image, self._first = image, first
        self._kept: Tensor | None = None

    def dropped(self) -> Tensor:
        """Return the image tokens that are not kept, (prompts, T) bool."""
        assert self._kept is not None, "the prompts were not read"
        return self._image & ~self._kept

    def drop(self, *, contiguous: bool = False) -> Drop:
        """Return the op that drops them; see `Drop` for `contiguous`."""
        return Drop(self._first, self.dropped, contiguous=contiguous)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return which image tokens are kept (1) or dropped (0), and the share that each layer holds."""
        if self._kept is None:
            return {}
        kept = self._kept[0][self._image[0]].float().cpu()
        share = torch.where(torch.arange(depth) >= self._first, kept.mean(), 1.0)
        return {"image tokens kept": kept, "share of image tokens kept": share[:, None]}


class ClassRanking(KeepImageTokens):
    """Op on the vision tower that keeps the patches of each picture that its class token attends to most."""

    kinds = VISION

    def __init__(self, owner: str, image: Tensor, layers: frozenset[int], keep: float, twin: int = 0) -> None:
        """Set what is read, and how much is kept.

        Args:
            owner: Name of the strategy, for error messages.
            image: Image positions of the prompts, (prompts, T) bool.
            layers: 0-based encoder layers whose attention, averaged over heads, is added up.
            keep: Share of each picture's patches to keep, in (0, 1].
            twin: Seed of a random order of the patches, which stands for their attention; 0: none.
        """
        super().__init__(image, 0)
        self.layers, self._owner, self._keep, self._twin = layers, owner, keep, twin
        self._attended = torch.empty(0, 0)

    def rows(self, call: Call) -> LongTensor:
        """Return the row of the class token."""
        rows: LongTensor = torch.zeros(1, dtype=torch.long, device=call.device)  # type: ignore[assignment]
        return rows

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Add up the attention to the patches behind it."""
        attended = probs[:, :, 0, 1:].mean(dim=1)
        self._attended = attended if call.layer == min(self.layers or ()) else self._attended + attended

    def importance(self) -> Tensor:
        """Return the attention to each patch, or a random order in a twin, (pictures, patches) float32."""
        if not self._twin:
            return self._attended
        order = torch.randperm(self._attended.shape[1], generator=twin_generator(self._twin, "patches"))
        return (order + 1).to(self._attended).expand_as(self._attended)

    def highest(self) -> Tensor:
        """Mark the patches with the highest importance, (pictures, patches) bool."""
        scores = self.importance()
        counts = kept_count(self._keep, torch.full((len(scores),), scores.shape[1]))
        return keep_highest(scores, torch.ones_like(scores).bool(), counts)

    def kept_patches(self) -> Tensor:
        """Mark the patches that become image tokens, (pictures, patches) bool."""
        return self.highest()

    def dropped(self) -> Tensor:
        """Return the image tokens whose patches are not kept, (prompts, T) bool.

        Raises:
            ModelError: The image tokens are not the patches of the vision tower.
        """
        patches, tokens = self._attended.numel(), int(self._image.sum())
        if patches != tokens:
            raise ModelError(
                f"{self._owner}: the vision tower has read {patches} patches, but the prompts have {tokens} image "
                "tokens, so that it is unknown which token is which patch"
            )
        kept = self.kept_patches().to(self._image.device)
        self._kept = torch.zeros_like(self._image).masked_scatter(self._image, kept)
        return super().dropped()


def keep_highest(scores: Tensor, among: Tensor, counts: Tensor | Sequence[int]) -> Tensor:
    """Mark the tokens with the highest scores of each row, (rows, T) bool; of equal ones the earlier.

    Args:
        scores: (rows, T).
        among: Tokens that may be kept, (rows, T) bool; where a row has fewer than its count, all of them are kept.
        counts: Number of tokens to keep of each row, (rows,).
    """
    order = scores.float().masked_fill(~among, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    counts = torch.as_tensor(counts, device=scores.device)
    return among & (order.argsort(dim=-1) < counts[:, None])


def kept_count(share: float, total: Tensor) -> Tensor:
    """Return how many of `total` tokens are a share of them, rounded, at least one, in the shape of `total`."""
    return (share * total).round().clamp_min(1).long()


def why_no_drop(adapter: Adapter, layer: int, *, contiguous: bool = False) -> str | None:
    """Return why tokens cannot be dropped from a 0-based layer of a model on; None: they can. See `Drop`."""
    try:
        adapter.plan([Drop(layer, torch.tensor([[True, False]]), contiguous=contiguous)])
    except ModelError as error:
        return str(error)
    return None


def why_no_class_scores(adapter: Adapter) -> str | None:
    """Return why a model's image tokens cannot be chosen by the class token of its vision tower; None: they can."""
    reason = why_no_image_columns(adapter, "there are no image tokens to drop")
    if reason is not None:
        return reason
    if not adapter.patches:
        return "its image tokens are not the patches of a vision tower, one for each"
    if not adapter.anatomy.has_cls:
        return "its vision tower has no class token, whose attention would rank the patches"
    return why_no_drop(adapter, 0, contiguous=True)
