"""Visual and textual intervention (VTI).

Paper     Liu et al., ICLR 2025, arXiv:2410.15778; shengliu66/VTI.
Idea      One direction per layer, found beforehand, leads from hallucinated to faithful texts about pictures; push the
          output of every MLP along it. In the vision tower, the direction leads from a picture's features to their
          mean over masked copies, to what does not depend on single patches.
Formula   d_j = states of faithful text j minus states of the hallucinated one, at the last token, of all layers as one
          vector; mu = mean of d_j; c = their first principal component, of length 1, with the sign of mu
          v = mu + c, split by layer; m' = |m| N(N(m) + alpha / 10 N(v_l)), m the output of the MLP, N(x) = x / |x|
          vision tower: e_i = mean over the copies of picture i of the states of each layer, minus those of the picture
          u = mean of e_i; m' as above with alpha_vision and u
Defaults  alpha 0.8, alpha_vision 0, all layers, 50 copies with 99 % of the patches masked, as the released code's
          command line (both strengths 0.9 in its examples). The number of pictures, 50, is our choice.
Cost      1 row per token, no further pass. The fit reads each pair of texts once; where alpha_vision is not 0, the
          vision tower also reads each picture and its copies.
Compared  what is edited: paper, the hidden states; released code and ours, the MLP's output, whose length stays.
          states: released code, the library's hidden states, of which the last has passed the final norm and is written
          before it; ours, the outputs of the layers.
          sign of c: released code, that of the largest entry, so that it may point away from mu; ours, that of mu.
          direction in the tower: released code, one for each layer and position; ours, one for each layer, the mean
          over positions, as their number may depend on the picture.
          component in the tower: released code, added to the mean, though computed on samples that mix layers and
          positions; ours, the mean alone.
          masked patches: released code, 14 x 14 pixels in the channel means of the picture; ours, the patches of the
          model's own tower in the channel means of all that it reads, black bars of a tile included.
          question: released code, that of the last demonstration for all; ours, that of each pair.
          texts: released code, 50 or 70 pairs written by a language model; ours, made from known objects, or yours.
          dtype: released code, float16 whatever the model's; ours, float32, cast back.
          baseline: the models' own decoding in each benchmark, beams in MMHal; no plausibility cut-off.
Differs   `mmhall fit vti` measures the vision tower only if alpha_vision is not 0: mmhall fit "vti(alpha_vision=0.9)".
          component=False leaves out c; where c is almost orthogonal to mu it says how texts vary, not where they
          point, and is left out with a note in the artifact. A strength below 0 steers the other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.analysis import read_prompts
from mmhall.attention import EVERY, VISION, Op, Visit
from mmhall.errors import FitError, ModelError
from mmhall.fitting import read_states
from mmhall.generation import make_request
from mmhall.options import by_model, option
from mmhall.strategies import (
    MLP_UPDATE,
    Fit,
    LearnedStrategy,
    Pair,
    Session,
    TurnUpdates,
    layers_option,
    random_like,
    rows_option,
    select_layers,
    shuffled_range,
    sign_aligned_component,
    twin_generator,
    twin_option,
)

if TYPE_CHECKING:
    from mmhall.strategies.artifacts import Artifact

_AT_ONCE = 10  # copies of a picture in a batch


@dataclass(frozen=True)
class VTI(LearnedStrategy):
    """Steer what the MLPs add from hallucinated towards faithful texts, and those of the vision tower.

    Attributes:
        alpha: Strength of the steering; 0: none; below 0: towards hallucinated texts.
        component: Whether the first principal component is added to the mean.
        rows: Positions that are steered: "all", or "answer": the last of the prompt and every later one.
        layers: Layers of the decoder that are steered.
        alpha_vision: Strength of the steering in all layers of the vision tower, towards the mean of masked pictures;
            0: none.
        copies: Number of masked copies of each picture, for the fit of the vision tower.
        masked: Share of the patches that are masked in a copy.
        pictures: Largest number of pictures for the fit of the vision tower.
        twin: 0: the strategy; a larger number: the seed of a random twin (random directions of the same lengths).
    """

    name: ClassVar[str] = "vti"
    claims: ClassVar[frozenset[str]] = frozenset({MLP_UPDATE})
    adjustable: ClassVar[frozenset[str]] = frozenset({"alpha", "layers"})

    alpha: float = by_model(0.8, tries=(0.2, 0.4, 0.8, 1.6))
    component: bool = by_model(True)
    rows: str = rows_option()
    layers: str = layers_option(":")
    alpha_vision: float = option(0.0)
    copies: int = by_model(50, low=1)
    masked: float = by_model(0.99, low=0, high=1)
    pictures: int = by_model(50, low=2)
    twin: int = twin_option()

    def refusal(self, adapter: Adapter) -> str | None:
        """Return why a model does not support this strategy: its vision tower cannot be steered."""
        if self.alpha_vision == 0:
            return None
        try:
            tower = adapter.anatomy.vision
            for layer in range(len(tower.layers)):
                tower.site(layer, "mlp")
        except ModelError as error:
            return f"alpha_vision steers the MLPs of a vision tower, but {error}"
        return None

    def fit(self, adapter: Adapter, pairs: Sequence[Pair], seed: int) -> Fit:
        """Measure the direction of every layer; in the vision tower only where `alpha_vision` is not 0.

        Raises:
            FitError: The texts, or the masked pictures, do not differ in a common direction.
        """
        differences = torch.stack(
            [
                read_states(adapter, pair.picture, pair.prompt, pair.faithful)
                - read_states(adapter, pair.picture, pair.prompt, pair.hallucinated)
                for pair in pairs
            ]
        )
        found = shuffled_range(differences, seed)
        found.check("all layers")
        direction, numbers = find_direction(differences, component=bool(self.component))
        numbers = {"all layers": found.record(), **numbers, "lengths": direction.norm(dim=-1).tolist()}
        if self.alpha_vision == 0:
            return Fit({"direction": direction}, numbers)
        vision, measured = self._fit_vision(adapter, pairs, seed)
        return Fit({"direction": direction, "vision": vision}, {**numbers, **measured})

    def _fit_vision(self, adapter: Adapter, pairs: Sequence[Pair], seed: int) -> tuple[Tensor, dict[str, Any]]:
        """Return the direction of every layer of the vision tower, and numbers for the artifact.

        Raises:
            FitError: Masking does not move the states in a common direction.
        """
        pictures = list({pair.id: pair for pair in pairs}.values())[: self.pictures]
        changes = torch.stack([effect_of_masks(adapter, pair, self.copies, self.masked, seed) for pair in pictures])
        found = shuffled_range(changes, seed)
        if not found.outside:
            raise FitError(
                f"vision tower: masking {self.masked:.0%} of the patches moves its states in no common direction "
                f"(pictures: {len(pictures)}): norm {found.norm:.4g}, with random signs up to {found.high:.4g}; "
                "mask more (masked=0.99), or give more pictures"
            )
        direction = changes.mean(dim=0).float()
        lengths = direction.norm(dim=-1).tolist()
        measured = {**found.record(), "pictures": len(pictures)}
        return direction, {"vision tower": measured, "lengths in the tower": lengths}

    def learned(self, adapter: Adapter) -> Artifact:
        """Return the artifact; refuse one without the vision tower where that is to be steered."""
        artifact = super().learned(adapter)
        self.check(
            "alpha_vision",
            self.alpha_vision == 0 or "vision" in artifact.tensors,
            "0, as its artifact was fitted without the vision tower; fit it again with "
            '`mmhall fit "vti(alpha_vision=0.9)"`',
        )
        return artifact

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Steer towards faithful texts; without a picture return an empty session."""
        tensors = self.learned(adapter).tensors
        if not has_picture(inputs):
            return Session()
        ops: list[Op] = []
        if self.alpha_vision:
            vision = self._twin_of(tensors["vision"], "vision directions").to(adapter.device)
            ops.append(TurnTower(dict(enumerate(vision)), self.alpha_vision / 10))
        if self.alpha:
            direction = self._twin_of(tensors["direction"], "directions").to(adapter.device)
            layers = select_layers(adapter, self, "layers", self.layers, EVERY)
            ops.append(TurnUpdates({layer: direction[layer] for layer in layers}, self.alpha / 10, rows=self.rows))
        return Session(ops=tuple(ops))

    def _twin_of(self, directions: Tensor, what: str) -> Tensor:
        return random_like(directions, self.twin, what) if self.twin else directions


class TurnTower(TurnUpdates):
    """Turns what the MLPs of the vision tower add towards a direction of each layer, and keeps its length."""

    kinds = VISION

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return nothing: findings are by layers of the decoder."""
        return {}


class ReadTower(Op):
    """Reads the outputs of all layers of the vision tower, averaged over all patches, and ends the pass."""

    sites, kinds, projection = frozenset({"out"}), VISION, True  # it reads after edits, and writes nothing

    def __init__(self, depth: int) -> None:
        """Set the number of layers of the tower."""
        self._depth, self._means = depth, dict[int, Tensor]()

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        """Store the mean output of a layer; change nothing."""
        self._means[visit.layer] = states.flatten(0, -2).double().mean(dim=0).cpu()
        if visit.layer == self._depth - 1:
            raise _TowerRead
        return states

    def means(self) -> Tensor:
        """Return the means, (layers, D) float64."""
        return torch.stack([self._means[layer] for layer in range(self._depth)])


class _TowerRead(BaseException):  # no error, so that no `except Exception` of a model catches it
    """Ends a pass whose vision tower was read."""


def read_tower(adapter: Adapter, inputs: Inputs) -> Tensor:
    """Return the outputs of all layers of the vision tower, averaged over all patches of a batch.

    Args:
        adapter: The model.
        inputs: A batch with pictures.

    Returns:
        (layers, D) float64. The decoder does not run.
    """
    op = ReadTower(len(adapter.anatomy.vision.layers))
    with suppress(_TowerRead):
        read_prompts(adapter, inputs, [op])
    return op.means()


def effect_of_masks(adapter: Adapter, pair: Pair, copies: int, masked: float, seed: int) -> Tensor:
    """Measure how masking moves the states of the vision tower: masked copies minus the picture, (layers, D) float64.

    Args:
        adapter: The model.
        pair: A pair, of which only the picture matters.
        copies: Number of masked copies.
        masked: Share of the patches that are masked in a copy.
        seed: Seed of the masks; each picture has its own.

    Raises:
        FitError: A masked copy is the picture itself.
    """

    def mask(pixels: Tensor) -> Tensor:
        hidden: Tensor = adapter.mask_patches(pixels, masked, generator)
        if torch.equal(hidden, pixels):
            raise FitError(
                f"picture {pair.id}: masking {masked:.2%} of its patches changes nothing; mask more (masked=0.99), or "
                "leave out a picture of one colour"
            )
        return hidden

    inputs = adapter.inputs([make_request(pair.picture, pair.prompt)])
    generator, total = twin_generator(seed, f"masks of picture {pair.id}"), torch.zeros(1, dtype=torch.float64)
    for start in range(0, copies, _AT_ONCE):
        count = min(_AT_ONCE, copies - start)
        batch = adapter.with_pixels(adapter.picked(inputs, [0] * count), mask)
        total = total + count * read_tower(adapter, batch)
    change: Tensor = total / copies - read_tower(adapter, inputs)
    return change


def find_direction(differences: Tensor, *, component: bool) -> tuple[Tensor, dict[str, Any]]:
    """Return the direction of each layer and the numbers of its component.

    Args:
        differences: Faithful minus hallucinated, (pairs, layers, D).
        component: Whether the first principal component of all layers together is added to the mean.

    Returns:
        The direction, (layers, D) float32, and numbers for the artifact.
    """
    mean = differences.double().mean(dim=0).float()
    if not component:
        return mean, {}
    try:
        found = sign_aligned_component(differences.flatten(1))
    except FitError as error:
        return mean, {"component": f"left out, the direction is the mean: {error}"}
    part = found.direction.view_as(mean).to(mean)
    numbers = {"cosine with the mean": found.cosine, "share of the variance": found.share}
    return mean + part, {"component": numbers}
