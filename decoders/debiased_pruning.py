"""Pruning of image tokens by debiased attention.

Paper     arXiv:2508.17807; intcomp/attention-bias.
Idea      Keep the image tokens that the end of the prompt attends to; the layers behind do without the others, which
          saves time and memory. That attention favours tokens late in the prompt, the lower part of the picture, and
          padding around it: divide the trend out, and leave padding out.
Formula   a_j attention of the prompt's last row to token j = 0, 1, ... of a picture in one layer, averaged over heads
          score a_j exp(-trend j), 0 where more than half of the token's patch is padding
          the share `keep` of the image tokens with the highest scores stays from the next layer on, at its positions
Defaults  keep 0.2222, 128 of 576 image tokens, and the second of 32 layers, as in the released scripts; in other models
          the layer at 4% of the depth. The trend is what `mmhall fit debiased-pruning` found for the model: the slope
          of log mean a_j over j, by least squares, over pictures and questions. Without a fit it is 0, so that only
          padding is left out; the record of an answer says which it was.
Cost      Less time and memory than plain decoding: only the ranking layer and those before it hold all image tokens.
          To find the padding, the model's processor also reads three made pictures, once for each size in a batch;
          padding=False saves that, except for prompts with several pictures where there is a trend. Each question about
          a picture reads the whole prompt; in plain decoding, those of a batch share the beginning.
Compared  weights: released code one array of 576 values for each setting, the inverse of a smooth curve; how it was
            fitted is not known, and it is not used here; ours an exponential, as the paper describes the trend
          padding: released code from the picture's width and height on 24 x 24 patches; ours from what the model's own
            processor does with a picture of that size. Many processors crop or squeeze, and pad nothing.
          too few unpadded tokens: both keep them all
          dropping: released code masks the tokens, keeps them in the cache and computes attention in full; ours drops
            them, which gives the same answers
          baseline: the same pruning without debiasing: trend=0, padding=False (FastV, arXiv:2403.06764)
Differs   In a prompt with several pictures the trend begins anew with each; in tensors from another processor, whose
          pictures are not known, it runs on. A share instead of a number, as models differ in their number of image
          tokens. A token without a place in the picture, such as a line break between rows of tiles, counts as padding
          where other tokens have places. Models with layers that cannot drop tokens (recurrent, chunked,
          cross-attention, shared keys) are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import LongTensor, Tensor, nn

from mmhall.adapters import Adapter, Batch, Inputs, has_picture
from mmhall.analysis import read_prompts
from mmhall.attention import Call
from mmhall.errors import FitError, ModelError
from mmhall.generation import make_request
from mmhall.options import by_model, option
from mmhall.strategies import (
    Fit,
    KeepImageTokens,
    LearnedStrategy,
    Question,
    Session,
    keep_highest,
    kept_count,
    layers_option,
    select_layers,
    shuffled_columns,
    twin_option,
    why_no_drop,
    why_no_image_columns,
)

_ROUNDING = 1e-3  # of shares that are computed from places in the picture


@dataclass(frozen=True)
class DebiasedPruning(LearnedStrategy):
    """Drop the image tokens that the end of the prompt attends to least, by attention without its trend.

    Attributes:
        keep: Share of the image tokens to keep, above 0, at most 1; 1: all, nothing is dropped.
        layer: The layer whose attention ranks the image tokens, one of full attention where there is one; the layers
            after it, at least one, do without those that are not kept.
        trend: Growth of log attention from one image token to the next, which is divided out; 0: none.
        padding: Whether padding around the picture is left out.
        twin: 0: the strategy; a larger number: the seed of a random twin (image tokens at random).
        artifact: The first 12 digits of the SHA-256 of the fitted artifact.
    """

    name: ClassVar[str] = "debiased-pruning"
    learns_from: ClassVar[str] = "questions"
    optional: ClassVar[bool] = True
    adjustable: ClassVar[frozenset[str]] = frozenset({"keep", "trend"})
    published: ClassVar = {("llava", 32): {"keep": 0.2222, "layer": "1"}}

    keep: float = by_model(
        0.2222,
        low=0,
        high=1,
        holds=lambda keep: keep > 0,
        expected="above 0, at most 1",
        tries=(0.1111, 0.2222, 0.3333),
    )
    layer: str = layers_option("4%")
    trend: float | None = by_model(0.0)
    padding: bool = option(True)
    twin: int = twin_option()

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models whose pictures are no tokens beside the text's, or whose later layers need every token."""
        reason = why_no_image_columns(adapter, "there are no image tokens to drop")
        if reason is not None:
            return reason
        layer = self._open_values(adapter).get("layer", (self.layer, ""))[0]
        later = max(self._layers(adapter, layer)) + 1
        if later < len(adapter.layers):
            return why_no_drop(adapter, later)
        lack = "no layer stands behind the one whose attention would rank the image tokens"
        return lack if self.layer is None else None

    def _layers(self, adapter: Adapter, spec: str) -> frozenset[int]:
        """Return the layers that an option names, among those that see the whole prompt, if there are such layers."""
        kinds = {"full"} if "full" in adapter.kinds else None
        return select_layers(adapter, self, "layer", spec, kinds, whole=True)

    def for_fit(self) -> LearnedStrategy:
        """Return this strategy.

        Raises:
            OptionError: The trend is given.
        """
        self.check("trend", self.trend is None, "left out: a fit finds it")
        return self

    def fit(self, adapter: Adapter, questions: Sequence[Question], seed: int) -> Fit:
        """Fit the trend to attention over pictures and questions; nothing is drawn.

        Raises:
            FitError: A picture has less than two image tokens, or one that no prompt attends to.
        """
        (layer,) = self._layers(adapter, self.layer)
        rows, shown = list[Tensor](), list[Tensor]()
        for question in questions:
            inputs = adapter.inputs([make_request(question.picture, question.text)])
            image = adapter.image_mask(inputs["input_ids"])
            ranking = _Ranking(layer, image)
            read_prompts(adapter, inputs, [ranking])
            rows.append(ranking.attended[image].double().cpu())
            shown.append(unpadded(adapter, inputs)[image].cpu() if self.padding else torch.ones_like(rows[-1]).bool())
        values, seen = (nn.utils.rnn.pad_sequence(part, batch_first=True) for part in (rows, shown))
        numbers = fit_trend((values * seen).sum(dim=0), seen.sum(dim=0))
        trend = numbers["trend"]
        return Fit({"trend": torch.tensor(trend, dtype=torch.float64)}, numbers, {"trend": trend})

    def needs_artifact(self, adapter: Adapter) -> bool:
        """Whether the trend comes from a fit: where one is loaded and no trend is given."""
        return self.artifact is not None or (self.trend is None and self.name in adapter.artifacts)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Rank image tokens in one layer and drop the others behind it; without a picture: an empty session."""
        if not has_picture(inputs) or self.keep == 1:
            return Session()
        layers = self._layers(adapter, self.layer)
        single = len(layers) == 1 and max(layers) + 1 < len(adapter.layers)
        self.check("layer", single, "one layer of this model that has a layer behind it")
        image = adapter.image_mask(inputs["input_ids"])
        usable = unpadded(adapter, inputs) if self.padding else image
        trend = (self.trend or 0.0) * (numbered(adapter, inputs) if self.trend else image.long())
        ranking = _Ranking(max(layers), image, usable, self.keep, trend, self.twin)
        return Session(ops=[ranking, ranking.drop()])


class _Ranking(KeepImageTokens):
    """Ranks image tokens by the attention of the prompt's last row in one layer, without its trend."""

    def __init__(
        self,
        layer: int,
        image: Tensor,
        usable: Tensor | None = None,
        keep: float = 1.0,
        trend: Tensor | None = None,
        twin: int = 0,
    ) -> None:
        """Set what is read, and how much is kept.

        Args:
            layer: 0-based layer whose attention ranks the image tokens.
            image: Image positions of the prompts, (prompts, T) bool.
            usable: Image tokens that are not padding, (prompts, T) bool; None: all.
            keep: Share of the image tokens to keep, in (0, 1].
            trend: Logarithm by which attention to each position is too large, (prompts, T); None: 0.
            twin: Seed of a random order of the image tokens, which stands for their attention; 0: none.
        """
        super().__init__(image, layer + 1)
        self.layers = frozenset({layer})
        self._usable, self._counts = image if usable is None else usable, kept_count(keep, image.sum(dim=-1))
        self._trend = torch.zeros(image.shape, device=image.device) if trend is None else trend
        self._order = shuffled_columns(image.cumsum(dim=-1).float(), image, twin, "image tokens") if twin else None
        self.attended = torch.empty(0)

    def rows(self, call: Call) -> LongTensor | None:
        return call.rows_at(torch.tensor([self._image.shape[1] - 1])) if call.prefill else None

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        attended = nn.functional.pad(probs[:, :, -1].mean(dim=1), (call.offset, 0))[:, : self._image.shape[1]]
        self.attended = attended.to(self._image.device)
        scores = debiased(self.attended, self._trend) if self._order is None else self._order
        self._kept = keep_highest(scores, self._usable, self._counts)


def debiased(attended: Tensor, trend: Tensor) -> Tensor:
    """Divide the attention to image tokens by its trend, (batch, T).

    Attention 0.1, 0.2, 0.3, 0.4 with a trend of 0, 0.5, 1, 1.5 gives 0.1, 0.1213, 0.1104, 0.0893.

    Args:
        attended: Attention to each position, (batch, T).
        trend: Logarithm by which it is too large, (batch, T).
    """
    return attended * torch.exp(-trend)


def numbered(adapter: Adapter, inputs: Inputs) -> Tensor:
    """Number the tokens of each picture from 0, (batch, T); other tokens have 0.

    In tensors from another processor, the image tokens of a prompt are numbered as if they were of one picture.

    Args:
        adapter: The model.
        inputs: The inputs of a batch.
    """
    image = adapter.image_mask(inputs["input_ids"])
    numbers = (image.cumsum(dim=-1) - 1) * image
    pairs = zip(inputs.requests, inputs.singles, strict=True) if isinstance(inputs, Batch) else ()
    for row, (request, single) in enumerate(pairs):
        if len(request.images) > 1:
            owners = adapter.places(request, single).image
            own = torch.zeros_like(owners)
            for picture in range(len(request.images)):
                own[owners == picture] = torch.arange(int((owners == picture).sum()))
            numbers[row, image[row]] = own.to(numbers.device)
    return numbers


def unpadded(adapter: Adapter, inputs: Inputs) -> Tensor:
    """Mark the image tokens of which at most half is padding, (batch, T) bool.

    All tokens of a model whose tokens have no places in the picture, and of a prompt that has only padding otherwise.

    Args:
        adapter: The model.
        inputs: A batch from the adapter.

    Raises:
        ModelError: The inputs come from another processor, so that their pictures are not known.
    """
    if not isinstance(inputs, Batch):
        raise ModelError(
            "debiased-pruning: these inputs are tensors from another processor, without the pictures whose padding is "
            "to be found; make them with adapter.inputs(requests), or set padding=False"
        )
    marked, known = adapter.image_mask(inputs["input_ids"]), dict[tuple[object, ...], Tensor | None]()
    for row, (request, single) in enumerate(zip(inputs.requests, inputs.singles, strict=True)):
        places = marked[row].nonzero()[:, 0]
        sizes = (len(places), *(image.size for image in request.images))
        if sizes not in known:  # padding depends on the size of a picture alone
            grid = adapter.places(request, single)
            known[sizes] = None if grid.edges is None else shown_shares(grid.edges, grid.image, grid.view)
        shares = known[sizes]
        if shares is not None:
            shown = shares >= 0.5 - _ROUNDING
            marked[row, places] = (shown if shown.any() else ~shown).to(marked.device)
    return marked


def shown_shares(edges: Tensor, image: Tensor, view: Tensor) -> Tensor:
    """Return the share of each token that shows the picture, not padding, in [0, 1]; 0 for a token without a place.

    A token with padding covers less of the picture than a whole token of the same view.

    Args:
        edges: Left, top, right, bottom of what each token shows, (N, 4) fractions of the picture; NaN: no place.
        image: 0-based picture of each token, (N,).
        view: 0-based view of each token, (N,).
    """
    areas = ((edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1])).nan_to_num(0.0)
    shares = torch.zeros_like(areas)
    for picture, number in {(int(one), int(other)) for one, other in zip(image, view, strict=True)}:
        same = (image == picture) & (view == number)
        shares[same] = areas[same] / areas[same].amax().clamp_min(torch.finfo(areas.dtype).tiny)
    return shares


def fit_trend(sums: Tensor, counts: Tensor) -> dict[str, float]:
    """Fit log mean attention as intercept + trend * place by least squares.

    Means 0.1 exp(0.5 j) give the trend 0.5 and the intercept log 0.1 = -2.3026.

    Args:
        sums: Sum of the attention to each place, (N,) float64, over prompts that have a token there.
        counts: Number of these prompts, (N,); places with 0 are left out.

    Returns:
        "trend", "intercept", and "explained", the share of the variance of the log means, in [0, 1].

    Raises:
        FitError: There are fewer than two places, or one without attention.
    """
    places = counts.nonzero()[:, 0]
    means = sums[places] / counts[places]
    if len(places) < 2 or not bool((means > 0).all()):
        raise FitError("debiased-pruning: a trend needs at least two image tokens, all of which prompts attend to")
    logs, x = means.log(), places.double()
    x = x - x.mean()
    trend = (x * (logs - logs.mean())).sum() / (x * x).sum()
    spread = ((logs - logs.mean()) ** 2).sum()
    explained = trend**2 * (x * x).sum() / spread if spread > 0 else spread
    intercept = logs.mean() - trend * places.double().mean()
    return {"trend": float(trend), "intercept": float(intercept), "explained": float(explained)}
