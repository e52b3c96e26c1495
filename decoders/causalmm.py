"""Counterfactual attention (CausalMM).

Paper     Zhou et al., "Mitigating modality prior-induced hallucinations in multimodal large language models via
          deciphering attention causality", arXiv:2410.04780; The-Martyr/CausalMM.
Idea      Attention that carries no information shows what a model says from its priors alone; subtract that.
Formula   s = (1 + alpha) z - alpha z_c, kept where z >= max z + log beta; z_c with counterfactual attention of the
          vision tower or of the decoder; with both s = (1 + 2 alpha) z - alpha z_v - alpha z_l
          a map E becomes random, 2 U(0, 1); uniform, the mean of E; reversed, max E - E; shuffled, its entries in a
          random order for each head
          edit "features": E is the map of the tower's layer that gives the features; each head's is resized to the grid
          of patches, bilinearly; their mean multiplies the features before the projector
          edit "attention" and `language`: of each row's weights over the columns that it sees: random, U(0, 1);
          uniform; reversed, max A - A; shuffled; then a sum of 1
Defaults  visual "shuffled", edit "features", alpha 1, beta 0.1, as the released scripts (beta 0.6 in that for POPE);
          language "none", as in the release. The layers of `language`, the middle third, are our choice.
Cost      1 more row per token for each of both branches, in one pass; one more prefill each, of full length.
Compared  vision: paper attention of the vision tower as a cause to intervene on; released code, multiplies the features
            by numbers of the size of attention weights and edits no attention; ours the released one, edit="attention"
            edits the tower's attention: it is ours and has no published figure
          strength: a map of 577 columns has entries of 1/577, so that "shuffled" and "uniform" leave almost no
            picture; "random" has a mean of 1 and leaves almost all of it; as released
          language: released in the repository's README only, no branch of the released code has it; its maps are
            normalised before the causal mask, "reversed" not at all, so that the rows of a prompt sum to less than 1,
            or more; ours normalised over the columns that a row sees (compat=True: as released). "shuffled" is ours
          cache: released branch reads the main branch's cache from the second token on, so that only the first token is
            contrasted; ours its own (first_token_only=True: as released)
          order: released code one random order of each head for all pictures of a batch; ours the same one for all
            pictures of the same number of patches
          alpha: scripts 1; released code where the argument is missing 0.5 (with beta 0.1); ours 1
Differs   A tower that attends to tiles, pictures or windows has one map for each, resized to the squarest grid of its
          features. A projector that first normalises each feature undoes a gain: such models are refused, and need
          edit="attention". A gain does not reach deep features that some towers pass around the projector. Draws
          depend on the seed and on the place in the map, not on the batch. Linear layers of a decoder have no
          attention to edit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import LongTensor, Tensor, nn
from transformers import PreTrainedModel

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.analysis import read_prompts
from mmhall.attention import FEATURES, SELF_ATTENTION, VISION, Call, Op, Visit, output_of, scores_of, visible_columns
from mmhall.errors import CompositionError, ModelError
from mmhall.generation import make_request
from mmhall.options import option
from mmhall.strategies import (
    Branch,
    Contrast,
    ContrastStrategy,
    Session,
    Step,
    contrast,
    layers_option,
    other_pictures,
    select_layers,
    select_tower_layers,
    twin_generator,
    twin_option,
)

KINDS = ("random", "uniform", "reversed", "shuffled")
_AT_ONCE = 2**22  # weights computed together
_UNDOES = 'its projector normalises each feature, which undoes a gain; use edit="attention"'
_REASONS: WeakKeyDictionary[PreTrainedModel, str | None] = WeakKeyDictionary()  # of `why_no_gain`, by model
_EQUAL = 1e-6  # weights whose reverse sums to less are equal up to rounding, so that no reverse is left


@dataclass(frozen=True)
class CausalMM(ContrastStrategy):
    """Contrast with branches whose attention carries no information.

    Attributes:
        alpha: Contrast strength of each branch, >= 0; 0 keeps the plain scores.
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
        visual: Counterfactual attention of the vision tower: "random", "uniform", "reversed", "shuffled", or "none".
        edit: What it edits: the "features" before the projector, as released, or the "attention" of the tower.
        tower_layers: Encoder layers of the tower, for edit="attention".
        language: Counterfactual attention of the decoder, as for `visual`; both "none": nothing is subtracted.
        layers: Decoder layers, for `language`.
        compat: Whether the decoder's counterfactual weights are normalised as in the release: before the causal mask,
            "reversed" not at all.
        first_token_only: Whether only the first token is contrasted, as in the release.
        seed: Seed of random maps and orders.
        twin: 0: the strategy; a larger number: the seed of a random twin (another picture, with plain attention, in
            each branch).
    """

    name: ClassVar[str] = "causalmm"

    visual: str = option("shuffled", choices=("none", *KINDS))
    edit: str = option("features", choices=("features", "attention"))
    tower_layers: str = layers_option(":")
    language: str = option("none", choices=("none", *KINDS))
    layers: str = layers_option("33%:67%")
    compat: bool = option(False)
    first_token_only: bool = option(False)
    seed: int = option(0, low=0, high=2**31 - 1)
    twin: int = twin_option()

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models whose vision tower gives no attention map, or whose projector undoes a gain of features."""
        if self.visual == "none":
            return None
        try:
            if self.edit == "features":
                return why_no_gain(adapter)
            adapter.anatomy.vision  # noqa: B018
        except ModelError as error:
            return f'its vision tower gives no attention map: {error}; visual="none" needs none'
        return None

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Add a branch for each counterfactual; without a picture return an empty session."""
        subtracts = self.alpha > 0 and (self.visual, self.language) != ("none", "none")
        if not has_picture(inputs) or not (subtracts or self.beta > 0):
            return Session()
        ops = self._counterfactuals(adapter, inputs) if subtracts else []
        kind = _FirstToken if self.first_token_only else Contrast
        combine = kind(len(ops) * self.alpha, self.beta)  # the mean of two branches, at twice the strength
        if self.twin:
            others = [other_pictures(adapter, inputs, self.twin, number) for number in range(len(ops))]
            return Session(branches=[Branch(other) for other in others], combine=combine)
        return Session(branches=[Branch(inputs, [op]) for op in ops], combine=combine)

    def _counterfactuals(self, adapter: Adapter, inputs: Inputs) -> list[Op]:
        """Return the op of each branch."""
        ops: list[Op] = []
        if self.visual != "none" and self.edit == "features":
            ops.append(FeatureGain(self.visual, adapter.anatomy.feature_layer, self.seed))
        elif self.visual != "none":
            layers = select_tower_layers(adapter, self, "tower_layers", self.tower_layers)
            ops.append(TowerCounterfactual(self.visual, layers, self.seed))
        if self.language != "none":
            layers = select_layers(adapter, self, "layers", self.layers, SELF_ATTENTION)
            padding = (inputs["attention_mask"].cumsum(dim=-1) == 0).sum(dim=-1)
            ops.append(DecoderCounterfactual(self.language, layers, self.seed, padding, unnormalised=self.compat))
        return ops


class _FirstToken(Contrast):
    """Contrasts the first token; from the second one on both branches are the same, and only the cut-off acts."""

    def __call__(self, step: Step) -> Tensor:
        return Contrast.__call__(self, step) if step.t == 0 else contrast(step.main, step.main, 0.0, self.beta)

    def level(self, step: Step) -> Tensor:
        return Contrast.level(self, step) if step.t == 0 else step.levels[0]


class _Counterfactual(Op):
    """Replaces the attention of all rows of some layers by weights that carry no information."""

    def __init__(self, how: str, layers: frozenset[int], seed: int) -> None:
        self.layers = layers
        self._how, self._seed = how, seed
        self._unnormalised = False

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        """Compute the head outputs anew, in blocks of rows."""
        if self._how == "uniform" and call.mask is None and (call.causal or call.count == 1):
            return running_mean(call, unnormalised=self._unnormalised).to(output.dtype)
        batch, heads, count, _ = call.query.shape
        size = max(1, _AT_ONCE // (batch * heads * call.key.shape[2]))
        blocks = torch.arange(count, device=call.device).split(size)
        return torch.cat([output_of(call, self._weights(call, rows)) for rows in blocks], dim=1).to(output.dtype)

    def _places(self, call: Call, rows: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return the places of rows and columns in the map, (B|1, 1, R, 1) and (B|1, 1, 1|R, K)."""
        raise NotImplementedError

    def _weights(self, call: Call, rows: LongTensor) -> Tensor:
        """Return the counterfactual weights of some rows, (B, H, R, K)."""
        visible = visible_columns(call, rows)
        if visible is None:
            visible = torch.ones(1, 1, len(rows), call.key.shape[2], dtype=torch.bool, device=call.device)
        row, column = self._places(call, rows, visible)
        draws = probs = None
        if self._how in ("random", "shuffled"):
            head = torch.arange(call.query.shape[1], device=call.device)[:, None, None]
            draws = draw_uniform(self._seed, torch.tensor(call.layer, device=call.device), head, row, column)
        if self._how in ("reversed", "shuffled"):
            probs = scores_of(call, rows).softmax(dim=-1)
        every = (visible if call.answer else column >= 0) if self._unnormalised else None  # each answer row by itself
        weights = counterfactual(self._how, visible, probs, draws, every)
        return weights.expand(*call.query.shape[:2], len(rows), -1)


class TowerCounterfactual(_Counterfactual):
    """Replaces the attention of layers of the vision tower by weights that carry no information."""

    kinds = VISION

    def _places(self, call: Call, rows: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        place = visible.cumsum(dim=-1) - 1  # among the patches of the picture, without padding
        return place.gather(-1, rows[:, None].expand(*place.shape[:-1], 1)), place


class DecoderCounterfactual(_Counterfactual):
    """Replaces the attention of decoder layers by weights that carry no information."""

    def __init__(
        self, how: str, layers: frozenset[int], seed: int, padding: Tensor, *, unnormalised: bool = False
    ) -> None:
        """Set the layers.

        Args:
            how: "random", "uniform", "reversed" or "shuffled".
            layers: 0-based decoder layers.
            seed: Seed of draws.
            padding: Positions of padding on the left of each prompt, (prompts,).
            unnormalised: Whether weights are normalised before the causal mask, those of "reversed" not at all.
        """
        super().__init__(how, layers, seed)
        self._padding, self._unnormalised = padding, unnormalised

    def _places(self, call: Call, rows: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        before = call.each(self._padding)[:, None, None, None].to(call.device)
        row = rows[:, None] + call.start
        column = torch.arange(call.key.shape[2], device=call.device) + call.offset
        if call.where.frame.candidates:  # all at the same position
            row, column = torch.full_like(row, call.start), column.clamp_max(call.start)
        return row - before, column - before


def running_mean(call: Call, *, unnormalised: bool = False) -> Tensor:
    """Return the head outputs of rows that attend to all columns up to their own alike, (B, Q, H, Dv) float32.

    Args:
        call: An attention call without a mask: causal, or of one row.
        unnormalised: Divide by all columns of the call instead of those that a row sees.
    """
    columns, count = call.key.shape[2], call.count
    sums = call.value.float().cumsum(dim=2)[:, :, columns - count :]
    seen = torch.arange(columns - count + 1, columns + 1, device=call.device)[:, None]
    mean = sums / (columns if unnormalised else seen)
    return mean.repeat_interleave(call.query.shape[1] // mean.shape[1], dim=1).transpose(1, 2)


def counterfactual(
    how: str,
    visible: Tensor,
    probs: Tensor | None = None,
    draws: Tensor | None = None,
    every: Tensor | None = None,
) -> Tensor:
    """Return attention weights that carry no information, (B|1, H|1, R, K) float32; hidden columns get 0.

    Uniform weights of four rows under a causal mask sum to 1, 1, 1, 1; with `every` to 0.25, 0.5, 0.75, 1. Reversed
    weights of (0.5, 0.3, 0.2) are (0, 0.4, 0.6); with `every` (0, 0.2, 0.3), which sum to 3 max - 1.

    Args:
        how: "random", "uniform", "reversed" or "shuffled".
        visible: Columns that each row sees, (B|1, 1|H, R, K) bool.
        probs: The model's own weights, (B, H, R, K); for "reversed" and "shuffled".
        draws: A number in (0, 1) for each weight, (B|1, H, R, K); for "random" and "shuffled".
        every: Columns over which weights are normalised before hidden ones are cut off, (B|1, 1, 1|R, K) bool, as in
            the release; None: those that a row sees.
    """
    if how == "shuffled":
        assert probs is not None
        assert draws is not None
        hidden = (~visible).expand(probs.shape)
        order = (draws + hidden).argsort(dim=-1)  # visible columns first, in random order
        natural = hidden.int().argsort(dim=-1, stable=True)
        return torch.zeros_like(probs).scatter(-1, natural, probs.gather(-1, order))
    weights = torch.ones_like(visible, dtype=torch.float32)
    if how == "random":
        assert draws is not None
        weights = draws
    elif how == "reversed":
        assert probs is not None
        weights = probs.amax(dim=-1, keepdim=True) - probs
        if every is not None:
            return weights * visible
    total = (weights * (visible if every is None else every)).sum(dim=-1, keepdim=True)
    flat = visible / visible.sum(dim=-1, keepdim=True).clamp_min(1)
    return torch.where(total > _EQUAL, weights * visible / total, flat)


class FeatureGain(Op):
    """Multiplies the features before the projector by a counterfactual attention map of the tower, as released."""

    kinds, sites = VISION, frozenset({FEATURES})

    def __init__(self, how: str, layer: int, seed: int) -> None:
        """Set the map.

        Args:
            how: "random", "uniform", "reversed" or "shuffled".
            layer: 0-based encoder layer that gives the features and the map.
            seed: Seed of draws.
        """
        self.layers = frozenset({layer})
        self._how, self._seed = how, seed
        self._calls: list[Call] = []

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        """Keep queries and keys until the features are there; change nothing."""
        self._calls.append(call)
        return output

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        """Multiply the features of each map's patches.

        Raises:
            ModelError: It is unknown which features belong to which map.
            CompositionError: The projector undoes a gain of each feature.
        """
        if undoes_gains(visit, states):
            raise CompositionError(_UNDOES)
        maps = [one for call in self._calls for one in split_maps(call)]
        self._calls = []
        counts = features_of_maps([len(columns) for _, columns in maps], states.shape[:-1])
        gains = [self._gains(*one, count) for one, count in zip(maps, counts, strict=True)]
        gain = torch.cat(gains).view(*states.shape[:-1], 1)
        return (states.float() * gain.to(states.device)).to(states.dtype)

    def _gains(self, call: Call, columns: LongTensor, count: int) -> Tensor:
        """Return the gain of each of `count` features, (count,); features of padding stay as they are."""
        if count != call.count or len(columns) == count:
            return self._gain(call, columns, count)
        padded = torch.ones(count, device=call.device)
        padded[columns] = self._gain(call, columns, len(columns))
        return padded

    def _gain(self, call: Call, columns: LongTensor, count: int) -> Tensor:
        """Return the gain of each of `count` features from one map, (count,)."""
        size, heads = len(columns), call.query.shape[1]
        if self._how == "uniform":
            return torch.full((count,), 1 / size, device=call.device)  # each row of the map sums to 1
        total, largest = torch.zeros(count, device=call.device), torch.zeros((), device=call.device)
        for head in range(heads):
            weights = self._map(call, columns, head)
            largest = torch.maximum(largest, weights.max())
            total += resize_map(weights, count)
        mean = total / heads
        return largest - mean if self._how == "reversed" else mean

    def _map(self, call: Call, columns: LongTensor, head: int) -> Tensor:
        """Return the map of one head, before it is reversed, (size, size)."""
        size = len(columns)
        if self._how == "random":
            place = torch.arange(size, device=call.device)
            number = torch.tensor(head, device=call.device)
            return 2 * draw_uniform(self._seed, number, place[:, None], place)
        one = _head_of(call, head)
        weights = scores_of(one, columns)[0, 0][:, columns].softmax(dim=-1)
        if self._how == "shuffled":
            generator = twin_generator(self._seed, f"head {head}, {size} patches")
            order = torch.randperm(size * size, generator=generator).to(weights.device)
            weights = weights.flatten()[order].view(size, size)
        return weights


def why_no_gain(adapter: Adapter) -> str | None:
    """Return why a gain of features does not reach a model; None: it does.

    A picture is read once for each model. Without a processor there is none, and the first request tells.

    Raises:
        ModelError: The model lacks a part, or it is unknown which features belong to which map.
    """
    layer, _ = adapter.anatomy.feature_layer, adapter.anatomy.projector
    if adapter.processor is None:
        return None
    if adapter.model not in _REASONS:
        request = make_request(Image.linear_gradient("L").convert("RGB"), "What is this?")
        reason = None
        try:
            with torch.inference_mode():
                read_prompts(adapter, adapter.inputs([request]), [FeatureGain("uniform", layer, 0)])
        except CompositionError as error:
            reason = str(error)
        _REASONS[adapter.model] = reason
    return _REASONS[adapter.model]


def undoes_gains(visit: Visit, states: Tensor) -> bool:
    """Whether a projector gives the same for features of other sizes, as it normalises each of them first.

    Features are multiplied by 0.5 and 1.5 in turn; the output changes by less than 1 % where only rounding is left.
    """
    assert visit.project is not None
    turn = torch.arange(states.shape[:-1].numel(), device=states.device).view(*states.shape[:-1], 1) % 2
    plain, changed = (_tensor_of(visit.project(part)).float() for part in (states, states * (0.5 + turn).to(states)))
    return bool((changed - plain).norm() < 0.01 * plain.norm())


def _tensor_of(output: Any) -> Tensor:
    """Return the tensor of a projector's output, which may be a tuple or a model output."""
    tensor: Tensor = output if isinstance(output, Tensor) else output[0]
    return tensor


def split_maps(call: Call) -> Iterator[tuple[Call, LongTensor]]:
    """Split a call of the vision tower into attention maps: one for each tile or picture.

    Yields:
        The call of one row of the batch, and the patches of a map in it, (N,); padding is left out.
    """
    for row in range(len(call.query)):
        mask = None if call.mask is None else call.mask[row : row + 1] if len(call.mask) > 1 else call.mask
        parts = [part[row : row + 1] for part in (call.query, call.key, call.value)]
        one = replace(call, query=parts[0], key=parts[1], value=parts[2], mask=mask)
        visible = visible_columns(one, None)
        if visible is None:
            yield one, torch.arange(call.count, device=call.device)  # type: ignore[misc]
            continue
        seen = visible[0, 0]
        for first in seen.int().argmax(dim=-1).unique().tolist():
            yield one, seen[first].nonzero()[:, 0]  # type: ignore[misc]


def _head_of(call: Call, head: int) -> Call:
    """Return the call of one head alone."""
    group = head // (call.query.shape[1] // call.key.shape[1])
    mask = call.mask[:, head : head + 1] if call.mask is not None and call.mask.shape[1] > 1 else call.mask
    query, key, value = call.query[:, head, None], call.key[:, group, None], call.value[:, group, None]
    return replace(call, query=query, key=key, value=value, mask=mask)


def features_of_maps(patches: list[int], shape: torch.Size) -> list[int]:
    """Return the number of features that belong to each map.

    Args:
        patches: Number of patches of each map.
        shape: Shape of the features without their width: (maps, features), or one list for all maps.

    Raises:
        ModelError: The features cannot be divided among the maps.
    """
    total = shape.numel()
    if len(shape) > 1 and shape[:-1].numel() == len(patches):
        return [shape[-1]] * len(patches)
    counts = [count * total // sum(patches) for count in patches] if patches else []
    if not patches or any(count * total % sum(patches) for count in patches):
        raise ModelError(
            f"causalmm: the {total} features before the projector cannot be divided among {len(patches)} attention "
            f'maps of {sum(patches)} patches; use edit="attention"'
        )
    return counts


def resize_map(weights: Tensor, count: int) -> Tensor:
    """Resize a map bilinearly to the squarest grid of `count` cells, (N, N) to (count,), row by row."""
    rows = next(size for size in range(int(count**0.5), 0, -1) if count % size == 0)
    grid = (rows, count // rows)
    return nn.functional.interpolate(weights[None, None], size=grid, mode="bilinear", align_corners=False).flatten()


def draw_uniform(seed: int, *places: Tensor) -> Tensor:
    """Draw a number in (0, 1) for each place, float32: a hash of the seed and the coordinates, broadcast.

    So a weight's draw depends on its place alone, and not on which others are drawn with it: in a batch, in blocks of
    rows, or while decoding.

    Args:
        seed: The seed.
        *places: Coordinates, integers, of shapes that broadcast.
    """
    drawn = torch.full_like(places[0], seed)
    for place in places:
        drawn = (drawn ^ place) & 0xFFFFFFFF
        for _ in range(2):
            drawn = ((drawn >> 16) ^ drawn) * 0x45D9F3B & 0xFFFFFFFF
        drawn = (drawn >> 16) ^ drawn
    return ((drawn >> 8).float() + 0.5) / 2**24
