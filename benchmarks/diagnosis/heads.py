"""Heads that look: how unequal the heads of a layer are in their dependence on the picture (VHD, arXiv:2412.13949).

VHD is the distance between a head's outputs with and without the picture at the row that predicts a token
(`mmhall.analysis`), here its mean over the tokens of all captions. The figure is the coefficient of variation over the
heads of a layer, their standard deviation (of a population) over their mean; that of the model is the mean over its
layers. Equal heads have 0: then `vhr` cannot find heads to reinforce.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmhall.analysis import HeadDivergence
from mmhall.benchmarks.diagnosis.figures import MECHANISMS, Figure, UnmeasuredError
from mmhall.results.statistics import Array, Resampler


def variation(*sums: Array) -> Array:
    """Return the coefficient of variation over heads.

    Heads with 1, 2 and 3 have mean 2 and standard deviation 0.816: 0.408.

    Args:
        *sums: The VHD of each head, in any unit, of one shape each.
    """
    values = np.stack(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        varied: Array = values.std(axis=0) / values.mean(axis=0)
    return varied


def head_figure(divergences: Sequence[HeadDivergence], draws: Resampler) -> Figure:
    """Return how unequal the heads of a layer are.

    Args:
        divergences: VHD of each caption.
        draws: Bootstrap draws of the captions.

    Raises:
        UnmeasuredError: There is no layer with self-attention, or only one head.
    """
    layers = divergences[0].layers if divergences else ()
    if not layers or divergences[0].values.shape[2] < 2:
        raise UnmeasuredError("no layer attends to the sequence with several heads")
    sums = np.stack([of.values.double().sum(dim=0).numpy() for of in divergences])  # (captions, layers, heads)
    by_layer = [list(sums[:, index].T) for index in range(len(layers))]
    heads, tokens = len(by_layer[0]), sum(len(of.values) for of in divergences)

    def mean(*flat: Array) -> Array:
        rows = [variation(*flat[start : start + heads]) for start in range(0, len(flat), heads)]
        average: Array = np.mean(rows, axis=0)
        return average

    return Figure(
        "vhd_variation",
        MECHANISMS,
        "heads: variation of VHD within a layer",
        draws.estimate_of(mean, [series for rows in by_layer for series in rows]),
        percent=False,
        layers={layer: draws.estimate_of(variation, rows) for layer, rows in zip(layers, by_layer, strict=True)},
        note=f"mean over {len(layers)} layers of {heads} heads",
        short="VHD variation",
        heads={layer: tuple((sums[:, index].sum(axis=0) / tokens).tolist()) for index, layer in enumerate(layers)},
        by_head="VHD, mean over tokens",
    )
