"""One layer intervention (ONLY).

Paper     ICCV 2025, arXiv:2507.00898; zifuwan/ONLY.
Idea      A side stream from a single attention layer, in which heads lean on text, predicts the next token within the
          same pass. Where its prediction is near the model's own, add it; where it is far, subtract it.
Formula   newest row of one layer, columns in three groups: the first token, text, image
          weights above mean + std of their group, sample deviation, become 0, those of the first token stay
          rho = H(text) / H(image), H the entropy of a group's remaining weights, p their shares: -sum p log(p + 1e-6)
          heads with rho below the mean over heads become 0; c = output projection of the remaining heads' outputs
          in the last layer, which h enters: g = 0.2 h + norm(c), c' = g + MLP(norm(g))
          z' = head(N(c') + 0.5 N(h')), h' the output of the last layer, N the final norm
          d = sum |p - p'|, from 0 to 2; d < gamma: s = z + alpha_near z'; else s = (1 + alpha_far) z - alpha_far z'
          kept where z >= max z + log beta
Defaults  alpha_near 3, alpha_far 1, beta 0.1, layer 0; gamma 0.2 for yes/no questions (0.25 for captions of 128 tokens,
          0.4 for Qwen-VL).
Cost      One layer's newest attention row once more, one MLP for one row, and one more row of the output head.
Compared  d: released code summed over the batch; ours for each row
          columns: released code the positions of LLaVA-1.5, 35 to 610; ours the positions of the prompt's pictures
          last layer: released code the 32nd; ours the last of the model
          baseline: released code sampled, without the cut-off, which the method alone has; ours what runs beside it
Differs   The first token is the first one that is no image token. z' holds 0.5 z, so that adding it also sharpens z.
          With greedy decoding the cut-off alone changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter, Inputs, LayerParts, has_picture
from mmhall.attention import Call, Columns, Exit, Op, ReadOut, Visit, output_of, visible_columns
from mmhall.errors import ModelError
from mmhall.options import by_model, option
from mmhall.strategies import (
    CONTRAST,
    Session,
    Step,
    Strategy,
    contrast,
    layers_option,
    random_choice,
    select_layers,
    twin_option,
    why_no_image_columns,
)

_ENTERING, _OWN = 0.2, 0.5  # shares of the last layer's input, and of the model's own normed states
_IMAGE, _FIRST = 1.0, 2.0  # groups of columns; 0: text


@dataclass(frozen=True)
class Only(Strategy):
    """Add or subtract the prediction of a text-leaning side stream of the same pass.

    Attributes:
        alpha_near: Strength with which a near side prediction is added, >= 0.
        alpha_far: Strength with which a far side prediction is subtracted, >= 0.
        gamma: Distance below which the side prediction is near, >= 0; distances are at most 2.
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
        layer: The layer whose attention begins the side stream.
        twin: 0: the strategy; a larger number: the seed of a random twin (as many heads of the layer, at random).
    """

    name: ClassVar[str] = "only"
    claims: ClassVar[frozenset[str]] = frozenset({CONTRAST})
    published: ClassVar = {("llava", 32): {"alpha_near": 3.0, "alpha_far": 1.0, "gamma": 0.2, "layer": "0"}}

    alpha_near: float = by_model(3.0, low=0, tries=(0.5, 1.0, 3.0))
    alpha_far: float = by_model(1.0, low=0, tries=(0.25, 0.5, 1.0))
    gamma: float = by_model(0.2, low=0, tries=(0.1, 0.2, 0.25, 0.4))
    beta: float = option(0.1, low=0, high=1)
    layer: str = layers_option("0%")
    twin: int = twin_option()

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models without image tokens, or with gates or further norms in their layers."""
        reason = why_no_image_columns(adapter, "no heads lean on text beside them")
        if reason is not None:
            return reason
        try:
            adapter.layer_parts(len(adapter.layers) - 1)
        except ModelError as error:
            return str(error).partition(": ")[2]
        return None

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Follow the side stream, and read it out; without a picture return an empty session."""
        if not has_picture(inputs) or self.alpha_near == self.alpha_far == self.beta == 0:
            return Session()
        if self.alpha_near == self.alpha_far == 0:
            return Session(combine=_NearOrFar(self))
        layers = select_layers(adapter, self, "layer", self.layer)
        self.check("layer", len(layers) == 1, "one layer of this model")
        image, attended = adapter.image_mask(inputs["input_ids"]), inputs["attention_mask"].bool()
        first = (attended & ~image).cumsum(dim=1) == 1
        groups = Columns(_IMAGE * image + _FIRST * (first & attended & ~image))
        depth, (layer,) = len(adapter.layers), layers
        parts = adapter.layer_parts(layer), adapter.layer_parts(depth - 1)
        stream = _SideStream(layer, depth - 1, groups, parts, adapter.read_out, self.twin)
        exit_ = Exit(depth - 1, norm=False, through=stream.through)
        return Session(ops=[stream], exits=[exit_], combine=_NearOrFar(self, exit_))


class _SideStream(Op):
    """Follows the text-leaning heads of one layer through the last layer."""

    first_row = -1

    def __init__(
        self,
        layer: int,
        last: int,
        groups: Columns,
        parts: tuple[LayerParts, LayerParts],
        read_out: ReadOut,
        twin: int,
    ) -> None:
        self.layers = frozenset({layer, last})
        self._layer, self._last, self._groups, self._twin = layer, last, groups, twin
        self._parts, self._read_out = parts, read_out
        self._stream: Tensor  # (B, R, hidden size)
        self._entering: Tensor  # input of the last layer, (B, R, hidden size)
        self._kept: list[Tensor] = []  # heads of the first row in each pass, (H,) bool each

    def rows(self, call: Call) -> LongTensor | None:
        return call.newest if call.layer == self._layer else None

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        groups, visible = self._groups(call), visible_columns(call, rows)
        seen = torch.ones_like(groups, dtype=torch.bool) if visible is None else visible
        weights, ratio = suppress_largest(probs, (groups == 0) & seen, (groups == _IMAGE) & seen)
        kept = ratio >= ratio.mean(dim=1, keepdim=True)
        if self._twin:  # about half of the heads is kept: the others alone would be the opposite choice
            kept = random_choice(kept.transpose(1, 2), self._twin, "heads", others=False).transpose(1, 2)
        self._kept.append(kept[0, :, -1])
        outputs = output_of(call, weights * kept[..., None])
        self._stream = self._parts[0].projection(outputs.flatten(2))

    def see_states(self, visit: Visit) -> None:
        if visit.layer == self._last:
            self._entering = visit.states[:, visit.newest]

    def through(self, states: Tensor) -> Tensor:
        """Return the normed states of the side stream, mixed with those of the model, (B, newest rows, hidden size)."""
        part, norm, newest = self._parts[1], self._read_out.norm, slice(-states.shape[1], None)
        stream, entering = (given[:, newest].to(states.device) for given in (self._stream, self._entering))
        mixed = _ENTERING * entering + part.attention_norm(stream)
        side: Tensor = norm(mixed + part.mlp_update(mixed)) + _OWN * norm(states)
        return side

    def findings(self, depth: int) -> dict[str, Tensor]:
        share = torch.stack(self._kept).float().mean(dim=0).cpu()
        table = torch.full((depth, len(share)), torch.nan)
        table[self._layer] = share
        return {"text-leaning heads": table}


@dataclass(frozen=True, slots=True)
class _NearOrFar:
    """Adds the side prediction where it is near, and subtracts it where it is far."""

    options: Only
    exit: Exit | None = None

    def __call__(self, step: Step) -> Tensor:
        options, main = self.options, step.main
        plain = contrast(main, main, 0.0, options.beta)
        if self.exit is None:
            return plain
        side = step.exits[self.exit].to(main.device)
        return torch.where(plain == -math.inf, plain, near_or_far(main, side, options))


def near_or_far(main: Tensor, side: Tensor, options: Only) -> Tensor:
    """Combine log-probabilities of the model and of the side stream, (N, V) each.

    Logits (2, 1, 0) and (1, 1, 1) are 0.6638 apart: with gamma 0.2 subtracting gives (3, 1, -1), but for a constant.
    """
    distance = (main.exp() - side.exp()).abs().sum(dim=-1, keepdim=True)
    added = main + options.alpha_near * side
    subtracted = (1 + options.alpha_far) * main - options.alpha_far * side
    return torch.where(distance < options.gamma, added, subtracted)


def suppress_largest(probs: Tensor, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Suppress the largest weights of text and image, and compare how spread the others are.

    Columns in neither group keep their weights. A column that a row sees counts also where its weight is 0.

    Args:
        probs: Attention weights, (B, H, R, K).
        text: Columns of text that each row sees, (B, 1|H, 1|R, K) bool.
        image: Columns of the picture that each row sees, same shape.

    Returns:
        The weights left, (B, H, R, K), not renormalised; entropy over text as a multiple of that over the picture,
        (B, H, R).
    """
    weights, entropies = probs, []
    for group in (text, image):
        count = group.sum(dim=-1, keepdim=True)
        mean = (probs * group).sum(dim=-1, keepdim=True) / count
        deviation = (((probs - mean).square() * group).sum(dim=-1, keepdim=True) / (count - 1)).sqrt()
        weights = weights.masked_fill(group & (probs > mean + deviation), 0.0)
        left = weights * group
        share = left / left.sum(dim=-1, keepdim=True)
        entropies.append(-(share * (share + 1e-6).log()).sum(dim=-1))
    return weights, entropies[0].nan_to_num(0.0) / entropies[1].nan_to_num(math.inf)
