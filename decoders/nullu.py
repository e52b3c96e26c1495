"""Null space of hallucinations (Nullu).

Paper     Yang et al., CVPR 2025, arXiv:2412.13817; Ziwei-Zheng/Nullu.
Idea      States of hallucinated and faithful texts about a picture differ in few dimensions; remove these from what the
          MLPs add.
Formula   e_j = (states of hallucinated text j - states of the faithful one) / 2 in a layer, averaged over tokens
          E = (e_1, ..., e_n)^T = U S V^T, not centred; V_r = the first r columns of V
          m' = m - V_r V_r^T m, m the output of the layer's MLP
Defaults  rank 4, as in the released code's examples (its script: 8, its class: 2); the later half of
          the layers, 16 to 31 of 32.
Cost      1 row per token, no further pass. The fit reads each pair of texts once.
Compared  edit: paper and released code, the weights of the last matrix of the MLP; ours, its output, which is the same
          but for the rounding of weights, and also covers a bias.
          states: released code, averaged over the whole sequence, mostly the picture and the prompt, which both texts
          share; ours, over the text alone, feature="all" as released, feature="last" its last token.
          texts: released code, 5000 pairs on COCO pictures written by a language model; ours, made from known objects,
          or yours.
          baseline: 3 beams of 64 tokens; no plausibility cut-off.
Differs   The released option that first takes the main direction of faithful texts out of E is not built. The artifact
          lists the first singular values of each layer: where they are alike, the choice of a rank is arbitrary. With
          fewer dimensions found than the rank asks for, those that were found are removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import EVERY, Op, Visit
from mmhall.errors import FitError
from mmhall.fitting import read_states
from mmhall.options import by_model
from mmhall.strategies import (
    FIRST_ROW,
    Fit,
    LearnedStrategy,
    Pair,
    Session,
    edit_rows,
    layers_option,
    random_subspace,
    rows_option,
    select_layers,
    twin_option,
)

_MOST = 16  # dimensions of a layer that an artifact holds
_SHOWN = 8  # singular values of a layer that it lists
_ROUNDING = 1e-6  # singular values below this share of the first are rounding


@dataclass(frozen=True)
class Nullu(LearnedStrategy):
    """Remove the dimensions in which hallucinated and faithful texts differ from what the MLPs add.

    Attributes:
        rank: Number of dimensions that are removed, 0 to 16; 0: none.
        feature: States that are compared: the mean over the "text", over "all" of prompt and text, or its "last" token.
        rows: Positions that are edited: "all", or "answer": the last of the prompt and every later one.
        layers: Layers that are edited.
        twin: 0: the strategy; a larger number: the seed of a random twin (random subspaces of the same dimension).
    """

    name: ClassVar[str] = "nullu"
    adjustable: ClassVar[frozenset[str]] = frozenset({"rank", "layers"})

    rank: int = by_model(4, low=0, high=_MOST, tries=(1, 2, 4, 8))
    feature: str = by_model("text", choices=("text", "all", "last"))
    rows: str = rows_option()
    layers: str = layers_option("50%:")
    twin: int = twin_option()

    def fit(self, adapter: Adapter, pairs: Sequence[Pair], seed: int) -> Fit:
        """Measure the subspace of every layer.

        Raises:
            FitError: The texts do not differ.
        """
        halves = torch.stack(
            [
                read_states(adapter, pair.picture, pair.prompt, pair.hallucinated, self.feature)
                - read_states(adapter, pair.picture, pair.prompt, pair.faithful, self.feature)
                for pair in pairs
            ]
        ).div(2)
        found = [find_subspace(part) for part in halves.unbind(dim=1)]
        if not any(values[0] for _, values in found):
            raise FitError("nullu: the two texts of all pairs leave the same states; give other pairs")
        numbers = {f"layer {layer}": {"singular values": values[:_SHOWN]} for layer, (_, values) in enumerate(found)}
        return Fit({"basis": torch.stack([basis for basis, _ in found])}, numbers)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Project what the MLPs add; without a picture return an empty session."""
        basis = self.learned(adapter).tensors["basis"]
        if not has_picture(inputs) or self.rank == 0:
            return Session()
        layers = select_layers(adapter, self, "layers", self.layers, EVERY, whole=self.feature != "last")
        bases = {layer: basis[layer, :, : self.rank].to(adapter.device) for layer in layers}
        if self.twin:
            bases = {layer: _random_basis(part, self.twin, layer) for layer, part in bases.items()}
        return Session(ops=[RemoveSubspace(bases, self.rows)])


class RemoveSubspace(Op):
    """Removes a subspace from what the MLPs add, after the edits of others."""

    sites, kinds, projection = frozenset({"mlp"}), EVERY, True

    def __init__(self, bases: Mapping[int, Tensor], rows: str = "all") -> None:
        """Set the subspaces.

        Args:
            bases: Orthonormal columns by layer, (D, rank) float32 each; columns of zeros remove nothing.
            rows: As in `edit_rows`.
        """
        self.layers, self._bases, self._rows = frozenset(bases), dict(bases), rows
        self.first_row = FIRST_ROW[rows]

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        """Project the rows of a layer."""
        basis = self._bases[visit.layer].to(states.device)
        return edit_rows(visit, states, self._rows, lambda rows: rows - (rows @ basis) @ basis.T)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return the number of dimensions that are removed in each layer."""
        removed = torch.full((depth, 1), torch.nan)
        for layer, basis in self._bases.items():
            removed[layer] = (basis.norm(dim=0) > 0).sum().cpu()
        return {"removed dimensions": removed}


def find_subspace(halves: Tensor) -> tuple[Tensor, list[float]]:
    """Return the right singular vectors of differences, not centred, and their singular values.

    Args:
        halves: Half of hallucinated minus faithful, (pairs, D).

    Returns:
        (D, 16) float32 with orthonormal columns, those without a difference zero; the singular values, largest first.
    """
    _, spectrum, rows = torch.linalg.svd(halves.double(), full_matrices=False)
    kept = rows[: min(_MOST, len(spectrum))] * (spectrum[:_MOST] > _ROUNDING * spectrum[0])[:, None]
    basis = torch.zeros(halves.shape[1], _MOST)
    basis[:, : len(kept)] = kept.T.float().cpu()
    return basis, spectrum.tolist()


def _random_basis(basis: Tensor, twin: int, layer: int) -> Tensor:
    """Draw a subspace of the same dimension, (D, rank)."""
    removed = basis.norm(dim=0) > 0
    drawn = torch.zeros_like(basis)
    drawn[:, removed] = random_subspace(len(basis), int(removed.sum()), twin, f"layer {layer}").to(basis)
    return drawn
