"""Fixing imbalanced attention: two groups of image tokens, raised by different strengths.

Paper     arXiv:2501.12206; hasanar1f/PAINT, hasanar1f/llava-hallunication-fix.
Idea      The vision tower itself shows which patches matter: its first layer those with local detail, a late one the
          few that gather a summary of the picture. Raise the decoder's attention to both, and subtract the prediction
          without the picture.
Formula   a_0, a_s: attention from the CLS token to each patch in the first encoder layer, and in the last but one,
          summed over heads
          summary: image tokens with a_s > Q3 + 1.5 (Q3 - Q1), quartiles of a_s by linear interpolation
          local: the 25% with the largest a_0 (of equal ones the first), without those of the summary
          scores before softmax, newest row, all heads of the chosen layers: s_k += alpha |s_k| for local columns k,
          s_k += beta |s_k| for summary columns
          log-probabilities: gamma l + (1 - gamma) l_u as in `pai`, kept where l >= max l + log cut
Defaults  alpha 0.7, beta 0.3, gamma 1.1, cut 0.1; all layers except the first two (2 to 31 of 32).
Cost      Attention weights of the newest row are computed explicitly, and one row in two layers of the tower, or all of
          them, 256 at a time, where it has no CLS token. With gamma > 1 also a second row per token and a short
          prefill.
Compared  alpha and beta: paper not known; released code 0.7 and 0.3, constants of its attention (its command line's
            alpha reaches only an unused branch; the run's script says 0.9); ours 0.7 and 0.3
          gamma: released code 2.0 unless it is given, the run's script 1.1; ours 1.1
          cut-off: as in `pai`, from which the guidance comes
          batch: released code takes the first row's groups for all rows; ours each row's own
          masked columns: released code adds after the mask; ours they stay masked
          a third group, spatial: released code none by default; ours none
          baseline: not told in what this was written from; with gamma > 1 the same decoding has a cut-off
Differs   Published for LLaVA-1.5, whose tower has a CLS token and whose image tokens are its patches. Ours, not
          published: in a tower without a CLS token (SigLIP, Qwen) the mean attention that a patch receives from all
          patches of its picture, or window, stands for it; where an image token is made of several patches, their mean;
          line breaks between tiles are in no group; several pictures of a prompt are one set of tokens. Families whose
          tokens are resampled, pooled or packed in unknown ways are refused. A trace shows both groups; either may be
          empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import VISION, Call, Columns, Op, column_means
from mmhall.errors import ModelError
from mmhall.options import by_model, option
from mmhall.strategies import (
    CONTRAST,
    Branch,
    Contrast,
    RaiseColumns,
    RowStrategy,
    Session,
    layers_option,
    select_layers,
    shuffled_columns,
    twin_option,
)

_FENCE = 1.5  # interquartile ranges above the third quartile


@dataclass(frozen=True)
class Imbalance(RowStrategy):
    """Raise attention to local and summary tokens of the picture by different strengths.

    Attributes:
        alpha: Strength of the increase of local tokens, >= 0.
        beta: Strength of the increase of summary tokens, >= 0.
        gamma: Strength of the guidance, >= 1; 1 uses no branch.
        cut: Plausibility cut-off of the guidance, in [0, 1].
        share: Share of the image tokens that are local, in [0, 1].
        layers: Layers in which attention is raised.
        twin: 0: the strategy; a larger number: the seed of a random twin (groups of the same sizes, drawn from the
            image tokens; guidance stays).
    """

    name: ClassVar[str] = "imbalance"

    alpha: float = by_model(0.7, low=0, tries=(0.1, 0.3, 0.5, 0.7, 0.9))
    beta: float = by_model(0.3, low=0, tries=(0.1, 0.3, 0.5))
    gamma: float = by_model(1.1, low=1, tries=(1.0, 1.1, 1.5, 2.0))
    cut: float = option(0.1, low=0, high=1)
    share: float = option(0.25, low=0, high=1)
    layers: str = layers_option("6%:", tries=("6%:", "50%:"))
    twin: int = twin_option()

    ways_out: ClassVar = {CONTRAST: "imbalance(gamma=1), which has no contrast"}

    @property
    def claims(self) -> frozenset[str]:  # type: ignore[override]
        """The rows of attention, and the contrast unless gamma is 1."""
        rows = RowStrategy.claims
        return rows if self.gamma == 1 else rows | {CONTRAST}

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models without image columns, and those whose image tokens are no patches of the tower."""
        reason = super().refusal(adapter)
        if reason is not None or adapter.merges_patches:
            return reason
        return "it is unknown of which patches of the vision tower an image token is made, so none can be ranked"

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Watch the vision tower, raise both groups, and contrast with a picture-free branch."""
        if not has_picture(inputs):
            return Session()
        ops: list[Op] = []
        if self.alpha > 0 or self.beta > 0:
            groups = TokenGroups(adapter, inputs, self.alpha, self.beta, self.share, self.twin)
            layers = select_layers(adapter, self, "layers", self.layers)
            ops = [groups, RaiseColumns(layers, groups.strength)]
        if self.gamma == 1:
            return Session(ops=ops)
        bare = Branch(adapter.without_image(inputs))
        return Session(ops=ops, branches=[bare], combine=Contrast(self.gamma - 1, self.cut))


class TokenGroups(Op):
    """Groups image tokens into local and summary tokens by the attention of the vision tower."""

    kinds = VISION

    def __init__(
        self, adapter: Adapter, inputs: Inputs, alpha: float, beta: float, share: float, twin: int = 0
    ) -> None:
        """Set the batch to be read, and how strongly each group is to be raised.

        Args:
            adapter: The model.
            inputs: The batch.
            alpha: Strength of local tokens.
            beta: Strength of summary tokens.
            share: Share of local tokens.
            twin: Seed of random groups of the same sizes; 0: none.
        """
        depth = len(adapter.anatomy.vision.layers)
        self._first, self._late = 0, max(0, depth - 2)
        self.layers = frozenset({self._first, self._late})
        self._adapter, self._inputs, self._has_cls = adapter, inputs, adapter.anatomy.has_cls
        self._strengths, self._share, self._twin = (alpha, beta), share, twin
        self._seen: dict[int, dict[int, Tensor]] = {layer: {} for layer in self.layers}
        self._groups: tuple[Tensor, Tensor] | None = None
        self._columns: Columns | None = None

    def rows(self, call: Call) -> LongTensor | None:
        """Return the row of the CLS token, if there is one."""
        return call.rows_at(torch.tensor([call.start])) if self._has_cls else None

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Note the attention of the CLS token to each patch, summed over heads."""
        self._seen[call.layer][call.offset] = probs[:, :, 0, 1:].sum(dim=1)

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        """Note the mean attention that each patch receives, where there is no CLS token; change nothing."""
        if not self._has_cls:
            self._seen[call.layer][call.offset] = column_means(call).sum(dim=1)
        return output

    def groups(self) -> tuple[Tensor, Tensor]:
        """Return the local and the summary tokens, (prompts, T) bool each.

        Raises:
            ModelError: The tower has not read as many patches as the prompts have image tokens.
        """
        if self._groups is None:
            image = self._adapter.image_mask(self._inputs["input_ids"])
            early, late = (self._at_tokens(layer, image) for layer in (self._first, self._late))
            local, summary = torch.zeros_like(image), torch.zeros_like(image)
            for row, marked in enumerate(image):
                local[row, marked], summary[row, marked] = group_tokens(
                    early[row, marked], late[row, marked], self._share
                )
            if self._twin:
                kinds = local.long() + 2 * summary.long()
                kinds = shuffled_columns(kinds, image, self._twin, "groups of image tokens")
                local, summary = kinds == 1, kinds == 2
            self._groups = local, summary
        return self._groups

    def strength(self, call: Call) -> Tensor:
        """Return by what share each column is to be raised, (B, 1, 1, K)."""
        if self._columns is None:
            alpha, beta = self._strengths
            local, summary = self.groups()
            self._columns = Columns(alpha * local.float() + beta * summary.float())
        return self._columns(call)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return both groups: 1 for their image tokens, 0 for others."""
        if self._groups is None:
            return {}
        image = self._adapter.image_mask(self._inputs["input_ids"])[0]
        local, summary = (group[0, image].float().cpu() for group in self._groups)
        return {"local tokens": local, "summary tokens": summary}

    def _at_tokens(self, layer: int, image: Tensor) -> Tensor:
        """Return what a layer of the tower gives each image token, (prompts, T); 0 elsewhere."""
        calls = self._seen[layer]
        patches = torch.cat([calls[offset] for offset in sorted(calls)], dim=-1) if calls else torch.empty(0, 0)
        values = self._adapter.merge_patches(patches, self._inputs) if calls else patches
        if values.numel() != int(image.sum()):
            raise ModelError(
                f"imbalance: the vision tower has read patches for {values.numel()} image tokens, and the prompts have "
                f"{int(image.sum())}; make the inputs with adapter.inputs(requests)"
            )
        return torch.zeros(image.shape, device=image.device).masked_scatter(image, values.to(image.device).float())


def group_tokens(early: Tensor, late: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return which image tokens of a prompt are local and which are summary tokens, (tokens,) bool each.

    Of late values 1, 1, 1, 2, 2, 2, 3, 20 only the last is above 2.25 + 1.5 * 1.25.

    Args:
        early: Attention to each token in the first layer of the tower, (tokens,); NaN: no patch.
        late: Attention to each token in the last layer but one, (tokens,); NaN: no patch.
        share: Share of the tokens with a patch that have the largest early values.
    """
    real = ~late.isnan()
    if not real.any():  # a prompt without a picture, in a batch with pictures
        return torch.zeros_like(real), torch.zeros_like(real)
    low, high = torch.quantile(late[real].double(), torch.tensor([0.25, 0.75], dtype=torch.float64, device=late.device))
    summary = late.double() > high + _FENCE * (high - low)  # NaN is not
    order = early.masked_fill(~real, -torch.inf).argsort(descending=True, stable=True)
    local = torch.zeros_like(real)
    local[order[: round(share * int(real.sum()))]] = True
    return local & ~summary, summary
