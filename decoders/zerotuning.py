"""ZeroTuning: rescale the attention to the initial token, which sharpens or flattens the rest.

Paper     arXiv:2505.11739; FeijiangHan/ZeroTuning.
Idea      The first token of a prompt draws much attention and says nothing. Multiplying its weight by a constant, in
          heads where that helps, changes how much all other tokens get, and not their proportions.
Formula   every row, listed heads: A_0 *= rate, renormalised: the others are multiplied by 1 / (1 + (rate - 1) A_0)
          computed as s_0 += log rate before softmax, a constant bias of one column, which is the same
          fit: each head alone with rate 2 and with rate 1/2; heads that gain by the first are to be raised, those that
          gain more by the second to be lowered; then the best of several rates for either group
          what is to gain: the share of right answers to yes/no questions, or their mean log-odds (supervised); or minus
          the entropy of the first token (unsupervised)
Defaults  No rate is published for an LVLM: rate and heads come from `mmhall fit zerotuning`, or the rate is given by
          hand, for all heads of the layers unless heads are listed. Layers: the first two thirds.
Cost      One number is added to one column. Where only some heads of a layer are listed, SDPA gets a mask for each head
          while the prompt is read. The fit reads each question twice for each head and each layer.
Compared  place: released code scales weights after the softmax and renormalises; ours before, the same
          rates and heads: paper from labelled data or by least entropy, 40% to 70% of the heads, up or down by task;
            ours the same idea, by the rates above, which are ours
          rate 1: released code leaves early; ours an empty session, plain decoding to the last bit
          question: released code can scale the columns of the question instead; ours not
          baseline: the authors' is the plain model, without a cut-off
Differs   The paper's results are of language models on text alone (such as Llama-3.1-8B); on LVLMs it is unpublished.
          The initial token is the first after padding: BOS or the start of the template; in PaliGemma and BLIP, where
          pictures come first, an image token. Without a picture nothing is changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, first_tokens, has_picture
from mmhall.analysis import OBJECTIVES, first_answers, gains_of_heads
from mmhall.attention import SELF_ATTENTION, Call, Columns, Op
from mmhall.errors import FitError
from mmhall.options import by_model
from mmhall.strategies import (
    GENERAL,
    Fit,
    HeadStrategy,
    LearnedStrategy,
    Question,
    RowStrategy,
    Session,
    format_heads,
    heads_option,
    layers_option,
    random_columns,
    random_heads,
    select_heads,
    select_layers,
    strategy as make_strategy,
    twin_option,
    usable_heads,
    why_no_yes_no,
)

_UP, _DOWN = 2.0, 0.5  # rates with which heads are tried
_NEUTRAL = math.nextafter(1.0, 2.0)  # is computed as other rates are and changes nothing; 1 would be plain decoding
_RATES = (0.1, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0, 3.0, 5.0)


@dataclass(frozen=True)
class ZeroTuning(HeadStrategy):
    """Multiply the attention to the first token, in listed heads.

    Attributes:
        rate: Factor of the first token's weight, > 0; 1 changes nothing. Given by hand, nothing needs to be fitted.
        heads: The heads, such as "16.29, 26.9" (head 29 of layer 16, head 9 of layer 26), "all", or "fitted": those
            that a fit has found to gain on the rate's side of 1.
        layers: Layers of which a fit tries the heads, and "all" takes them; a list names its own.
        by: What is to gain in a fit: "accuracy", the "margin" of the right answer, or less "entropy", without labels.
        twin: 0: the strategy; a larger number: the seed of a random twin (another token of the text, and as many other
            heads of each layer).
    """

    name: ClassVar[str] = "zerotuning"
    claims: ClassVar[frozenset[str]] = RowStrategy.claims
    learns_from: ClassVar[str] = "questions"
    lists: ClassVar[tuple[str, ...]] = ("heads",)
    unless: ClassVar[str] = ", unless its rate is given"
    adjustable: ClassVar[frozenset[str]] = frozenset({"rate", "heads"})

    rate: float = by_model(
        1.0, holds=lambda rate: rate > 0, expected="a number > 0", tries=(0.25, 0.5, 0.75, 1.5, 2.0, 3.0)
    )
    heads: str = heads_option("all")
    layers: str = layers_option(":67%")
    by: str = by_model("accuracy", choices=OBJECTIVES)
    twin: int = twin_option()

    def for_fit(self) -> LearnedStrategy:
        """Return this strategy with its heads to be fitted.

        Raises:
            OptionError: The rate or the heads are given.
        """
        self.check("rate", self.rate is None, "left out: a fit finds it")
        return super().for_fit()

    def needs_artifact(self, adapter: Adapter) -> bool:
        """Whether rate or heads come from a fit."""
        rate = self._open_values(adapter).get("rate")
        return (rate is not None and rate[1] == GENERAL) or super().needs_artifact(adapter)

    def fit(self, adapter: Adapter, questions: Sequence[Question], seed: int) -> Fit:
        """Find the heads to raise and to lower, and the best rate; nothing is drawn."""
        among = self._usable(adapter)

        def gains(rate: float) -> Tensor:
            alone, neutral = (partial(self._alone, one) for one in (rate, _NEUTRAL))
            return gains_of_heads(adapter, questions, alone, neutral, among, self.by)

        up, down = gains(_UP), gains(_DOWN)
        groups = {rate: gaining(up, down, rate) for rate in _RATES}
        tried = [rate for rate in _RATES if groups[rate].any()]
        methods = [replace(self, rate=rate, heads=format_heads(groups[rate])) for rate in tried]
        answers = first_answers(adapter, questions, [make_strategy("greedy"), *methods])
        values = dict(zip([1.0, *tried], answers.objective(self.by).tolist(), strict=True))
        best = max(values, key=lambda rate: (values[rate], -abs(math.log(rate))))
        if best == 1:
            raise FitError(
                f"zerotuning: no rate gains {self.by} on {len(questions)} questions; give more questions (--n), or "
                'another objective, such as zerotuning(by="margin")'
            )
        sign = -1 if self.by == "entropy" else 1
        numbers: dict[str, Any] = {
            "rate": best,
            f"{self.by} by rate": {f"{rate:g}": sign * value for rate, value in sorted(values.items())},
            "heads": {
                "tried": int(among.sum()),
                "to raise": int(groups[_UP].sum()),
                "to lower": int(groups[_DOWN].sum()),
            },
        }
        return Fit({"up": up.float(), "down": down.float()}, numbers, {"rate": best})

    def _alone(self, rate: float, head: str) -> ZeroTuning:
        """Return the change of one head."""
        return replace(self, rate=rate, heads=head)

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models to be fitted whose tokenizer does not tell yes and no apart."""
        return why_no_yes_no(adapter) if self.rate is None or self.heads == "fitted" else None

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Scale the first column in all rows; without a picture return an empty session."""
        chosen = self._select(adapter)
        if not has_picture(inputs) or self.rate == 1 or not chosen.any():
            return Session()
        column: Tensor = first_tokens(inputs)
        if self.twin:
            column = random_columns(adapter, inputs, column, self.twin)
        return Session(ops=[_ScaleColumn(chosen, column, self.rate)])

    def _usable(self, adapter: Adapter) -> Tensor:
        """Return the heads of the chosen layers, (layers, heads) bool."""
        layers = select_layers(adapter, self, "layers", self.layers, SELF_ATTENTION)
        return usable_heads(adapter, SELF_ATTENTION, layers=layers)

    def _select(self, adapter: Adapter) -> Tensor:
        """Return the heads, (layers, heads) bool."""
        if self.heads == "fitted":
            tensors = self.learned(adapter).tensors
            chosen = gaining(tensors["up"], tensors["down"], self.rate).cpu()
            found = "on the side of 1 on which heads gained in the fit; or give the heads too"
            self.check("rate", self.rate == 1 or bool(chosen.any()), found)
        elif self.heads == "all":
            chosen = self._usable(adapter)
        else:
            chosen = select_heads(adapter, self, "heads", self.heads, SELF_ATTENTION)
        return random_heads(chosen, self.twin, "heads", self._usable(adapter) | chosen) if self.twin else chosen


class _ScaleColumn(Op):
    """Multiplies the weight of one column by a constant and renormalises, in listed heads and all rows."""

    def __init__(self, chosen: Tensor, column: Tensor, rate: float) -> None:
        self.layers = frozenset(chosen.any(dim=1).nonzero()[:, 0].tolist())
        self._chosen, self._rate = chosen, rate
        self._column = Columns(math.log(rate) * column.float())

    def bias(self, call: Call) -> Tensor:
        column, chosen = self._column(call), self._chosen[call.layer]
        return column if chosen.all() else column * chosen[None, :, None, None].to(call.device, column.dtype)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return the rate of each head."""
        rates = torch.where(self._chosen, self._rate, 1.0)
        acts = self._chosen.any(dim=1, keepdim=True)
        return {"rates of the first token": rates.masked_fill(~acts, torch.nan)}


def gaining(up: Tensor, down: Tensor, rate: float) -> Tensor:
    """Return the heads that gain on a rate's side of 1, (layers, heads) bool; no head is on both sides.

    Args:
        up: By how much each head, alone, raises the objective with a rate above 1.
        down: The same with a rate below 1.
        rate: The rate.
    """
    return (up > 0) & (up >= down) if rate > 1 else (down > 0) & (down > up)
