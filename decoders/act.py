"""Attention calibration (ACT): damp attention sinks beyond the first token, in heads where that helps.

Paper     Yu et al., ICML 2024, arXiv:2406.15765; GATECH-EIC/ACT.
Idea      Not only the first token, but also others in the middle of a prompt draw attention without need. In heads
          where that hurts, give part of what these sinks get to the other tokens, in proportion to what they have.
Formula   score of a column: c_k = mean attention of the rows that see k, in the prompt, for each head
          sinks of a head: {k : c_k > theta}, without the first token
          every row, listed heads, S = attention of the row to the sinks: A_k *= beta for sinks,
          A_k *= 1 + (1 - beta) S / (1 - S) for the others
          computed as scores of the sinks + log(beta (1 - S) / (1 - beta S)) before softmax, which is the same
          fit: the heads whose calibration, each alone, raises the accuracy on yes/no questions, against the same
          explicit attention of the layer without a sink
Defaults  beta 0.4, theta 0.1; layers 2 to 30 of 32, the same part in other models. No list of heads is published for
          an LVLM: without `mmhall fit act` it is refused, unless heads are given. heads="all" calibrates all heads of
          the layers; the paper only those where it helps.
Cost      In layers with a listed head, attention of the prompt is computed explicitly, twice, 256 rows at a time (no
          map of all rows is held), and that of the newest row. The fit reads each question once for each head
          and each layer.
Compared  theta: paper a multiple of 1 / N for N columns (5, as remembered, not checked again); released code 0.1, 0.15
            for chat models; ours 0.1
          beta: released code 0.4; ours 0.4
          first token: released code leaves out the first column that it detects, whichever that is; ours column 0,
            always, so that no real sink is spared where column 0 is below theta
          rows: released code those of the prompt, of the first row of the batch; ours of every row its own
          answers: released code takes the newest row for the whole prompt and sets its first weight to 1, which spoils
            answers of more than one token; ours the prompt's sinks in every row of the answer, whose own tokens are
            never sinks
          heads: released code lists for LLMs, from up to 900 samples; ours from yes/no questions about pictures
          baseline: the authors' are closed questions, without a cut-off
Differs   Published for language models on text; for the decoder of an LVLM it is unpublished, and image tokens can be
          sinks too, unless sinks="text". by="margin" (ours) chooses heads by the mean log-odds of the right answer,
          which moves where no answer turns. Without a picture nothing is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import LongTensor, Tensor, nn

from mmhall.adapters import Adapter, Inputs, first_tokens, has_picture
from mmhall.analysis import first_answers, gains_of_heads
from mmhall.attention import SELF_ATTENTION, Call, Columns, Op, column_means
from mmhall.errors import FitError
from mmhall.options import by_model
from mmhall.strategies import (
    Fit,
    HeadStrategy,
    Question,
    RowStrategy,
    Session,
    format_heads,
    heads_option,
    layers_option,
    random_heads,
    select_heads,
    select_layers,
    shuffled_columns,
    strategy as make_strategy,
    twin_option,
    usable_heads,
    why_no_yes_no,
)


@dataclass(frozen=True)
class ACT(HeadStrategy):
    """Move attention from sinks beyond the first token to the other tokens, in listed heads.

    Attributes:
        beta: Share of their attention that sinks keep, in [0, 1]; 1 changes nothing.
        theta: Mean attention above which a column is a sink, in [0, 1].
        heads: The heads, such as "16.29, 26.9" (head 29 of layer 16, head 9 of layer 26), "all", or "fitted".
        layers: Layers of which a fit tries the heads, and "all" takes them; a list names its own.
        sinks: Which columns can be sinks: "all" but the first, or of these only the "text".
        by: What calibrating a head must raise in a fit: "accuracy", or the "margin" of the right answer.
        twin: 0: the strategy; a larger number: the seed of a random twin (as many other heads of each layer; with "all"
            heads, as many columns at random in place of the sinks of each).
    """

    name: ClassVar[str] = "act"
    claims: ClassVar[frozenset[str]] = RowStrategy.claims
    learns_from: ClassVar[str] = "questions"
    lists: ClassVar[tuple[str, ...]] = ("heads",)
    unless: ClassVar[str] = ", unless its heads are given"
    adjustable: ClassVar[frozenset[str]] = frozenset({"heads", "beta"})

    beta: float = by_model(0.4, low=0, high=1, tries=(0.0, 0.2, 0.4, 0.7))
    theta: float = by_model(0.1, low=0, high=1)
    heads: str = heads_option()
    layers: str = layers_option("6%:-1")
    sinks: str = by_model("all", choices=("all", "text"))
    by: str = by_model("accuracy", choices=("accuracy", "margin"))
    twin: int = twin_option()

    def fit(self, adapter: Adapter, questions: Sequence[Question], seed: int) -> Fit:
        """Find the heads whose calibration helps, each alone; nothing is drawn."""
        plain = make_strategy("greedy")
        among = self._usable(adapter)
        alone, neutral = (partial(self._alone, theta) for theta in (self.theta, 1.0))  # no mean is above 1
        gains = gains_of_heads(adapter, questions, alone, neutral, among, self.by)
        helping = gains > 0
        if not helping.any():
            raise FitError(
                f"act: calibrating no single head raises the {self.by} on {len(questions)} questions; give more "
                'questions (--n), a smaller theta, or act(by="margin")'
            )
        together = replace(self, heads=format_heads(helping))
        before, after = first_answers(adapter, questions, [plain, together]).objective(self.by).tolist()
        numbers: dict[str, Any] = {
            "heads": {"tried": int(among.sum()), "raise": int(helping.sum()), "lower": int((gains < 0).sum())},
            self.by: {"plain": before, "all that raise it": after},
            "list": format_heads(helping),
        }
        return Fit({"gains": gains.float()}, numbers)

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models whose heads are to be fitted, and whose tokenizer does not tell yes and no apart."""
        return why_no_yes_no(adapter) if self.heads in (None, "fitted") else None

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Calibrate the listed heads in all rows; without a picture return an empty session."""
        chosen = self._select(adapter)
        if not has_picture(inputs) or self.beta == 1 or not chosen.any():
            return Session()
        candidates = inputs["attention_mask"].bool() & ~first_tokens(inputs)
        image = adapter.image_mask(inputs["input_ids"])
        if self.sinks == "text":
            candidates = candidates & ~image
        return Session(ops=[_Calibrate(self, chosen, inputs["attention_mask"].bool(), candidates, image)])

    def _alone(self, theta: float, head: str) -> ACT:
        """Return the calibration of one head."""
        return replace(self, heads=head, theta=theta)

    def _usable(self, adapter: Adapter) -> Tensor:
        """Return the heads of the chosen layers, (layers, heads) bool."""
        layers = select_layers(adapter, self, "layers", self.layers, SELF_ATTENTION, whole=True)
        return usable_heads(adapter, SELF_ATTENTION, whole=True, layers=layers)

    def _select(self, adapter: Adapter) -> Tensor:
        """Return the heads, (layers, heads) bool."""
        if self.heads == "fitted":
            chosen = (self.learned(adapter).tensors["gains"] > 0).cpu()
        elif self.heads == "all":
            return self._usable(adapter)
        else:
            chosen = select_heads(adapter, self, "heads", self.heads, SELF_ATTENTION, whole=True)
        return random_heads(chosen, self.twin, "heads", self._usable(adapter) | chosen) if self.twin else chosen


class _Calibrate(Op):
    """Moves attention from sinks to other columns, in listed heads and all rows."""

    writes, by_blocks = True, True

    def __init__(self, options: ACT, chosen: Tensor, attended: Tensor, candidates: Tensor, image: Tensor) -> None:
        self._options, self._chosen = options, chosen
        self._shuffled = options.twin if options.heads == "all" else 0  # there are no other heads to draw
        self.layers = frozenset(chosen.any(dim=1).nonzero()[:, 0].tolist())
        self._attended, self._candidates, self._image = attended, candidates, image
        self._sinks: dict[int, Tensor] = {}  # (prompts, H, T) float32
        self._columns: dict[int, Columns] = {}

    def rows(self, call: Call) -> LongTensor | None:
        if not call.prefill:
            return call.newest
        return torch.arange(call.count, device=call.device)  # type: ignore[return-value]

    def edit_scores(self, call: Call, rows: LongTensor, scores: Tensor) -> Tensor:
        if call.layer not in self._sinks:
            self._find_sinks(call)
        sinks = self._columns[call.layer](call)
        probs = scores.softmax(dim=-1)
        mass, rest = ((probs * part).sum(dim=-1, keepdim=True) for part in (sinks, 1 - sinks))
        return scores + sinks * log_bias(mass, rest, self._options.beta)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return how many sinks each listed head has, and in what share of these heads an image token is one."""
        if not self._sinks:
            return {}
        counts = torch.full(self._chosen.shape, torch.nan)
        for layer, sinks in self._sinks.items():
            counts[layer, self._chosen[layer]] = sinks[0].sum(dim=-1).cpu()[self._chosen[layer]]
        listed = torch.cat([sinks[0].cpu()[self._chosen[layer]] for layer, sinks in self._sinks.items()])
        return {"sinks of a head": counts, "share of heads with a sink here": listed.mean(dim=0)[self._image[0].cpu()]}

    def _find_sinks(self, call: Call) -> None:
        """Find the sinks of each listed head in the pass over the prompts."""
        left = self._attended if call.left is None else self._attended & call.left.to(self._attended.device)
        means = column_means(call, left[:, call.start : call.start + call.count])
        length = self._candidates.shape[1]
        first = min(max(0, call.offset), length)  # a sliding window may have dropped earlier columns
        means = nn.functional.pad(means[..., first - call.offset : length - call.offset], (first, 0))
        heads = self._chosen[call.layer, :, None].to(means.device)
        among = self._candidates & left
        found = (means > self._options.theta) & heads & among[:, None].to(means.device)
        sinks = self._twin_of(found.float(), among, call.layer)
        self._sinks[call.layer], self._columns[call.layer] = sinks, Columns(sinks)

    def _twin_of(self, sinks: Tensor, among: Tensor, layer: int) -> Tensor:
        """Return as many random columns for each head, (prompts, H, T), or the sinks where heads are drawn instead.

        Args:
            sinks: The sinks of each head, (prompts, H, T).
            among: Columns to draw from, (prompts, T) bool.
            layer: The layer.
        """
        if not self._shuffled:
            return sinks
        names = [f"sinks of head {head} of layer {layer}" for head in range(sinks.shape[1])]
        seed = self._shuffled
        return torch.stack([shuffled_columns(sinks[:, i], among, seed, name) for i, name in enumerate(names)], dim=1)


def log_bias(mass: Tensor, rest: Tensor, beta: float) -> Tensor:
    """Return what to add to the scores of sinks, so that they keep a share of their attention and others get the rest.

    With attention 0.5 to sinks and beta 0.4 it is log(0.4 * 0.5 / 0.8) = -1.3863: sinks keep 0.2.

    Args:
        mass: Attention of each row to the sinks, before, (...).
        rest: Attention to all other columns, same shape: 1 - mass, but exact where that is small.
        beta: The share, in [0, 1].
    """
    tiny = torch.finfo(mass.dtype).tiny  # where nothing but sinks is seen, all get the same
    return (beta * rest / (rest + (1 - beta) * mass).clamp_min(tiny)).clamp_min(tiny).log()
