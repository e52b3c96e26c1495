"""Intervention on text-to-text and image-to-text heads (AllPath).

Paper     arXiv:2511.17254, NeurIPS 2025; SooLab/AllPath.
Idea      Answers come about on several paths: some heads read the picture for the words that follow, some carry on
          the text, rightly or wrongly. Amplify the good heads of both paths, and switch off the bad ones of the text.
Formula   head outputs before the output projection: times gain for good heads, times bad_gain for bad ones; a head that
          is both is good
          text score of a head: by how much h + w raises the log-probability of a true word over h, less the same of a
          hallucinated word; h the states that enter the layer, w what the head writes, both by the output head alone
          image score of a head: its attention to the picture at true words, less that at hallucinated words
Defaults  gain 2, bad_gain 0, all positions; of the heads that `mmhall fit allpath` has ranked, as for captions of
          LLaVA-1.5-7B: good the 3.9% with the best text scores (40 of 1024) and the 4.9% with the best image scores
          (50), bad the 3.9% with the worst text scores. The authors' short answers: text_share 0.02, image_share
          0.01, with lists of their own.
Cost      Head outputs are scaled in layers with a listed head; no further pass or branch.
Compared  image score: paper and released code attention to the cells of the object where masks are known, else to the
          whole picture, subtracted where the object is absent; ours always to the whole picture, for both kinds of
          words
          words of the fit: released code captions with true and hallucinated objects, and Yes and No for questions;
          ours words in which a faithful and a hallucinated text about a picture differ, read token by token (teacher
          forcing); attention at the last token of each, logits at the position that predicts its first
          norms: released code can keep the norm of all heads together; ours does not
          baseline: the authors' not known to be greedy or sampled; ours what runs beside it
Differs   rows="answer" leaves the prompt as it is. A bias of the output projection is no part of a head, nor scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.analysis import head_logit_gains, measure_words, word_attention
from mmhall.attention import Call, Op
from mmhall.options import by_model
from mmhall.strategies import (
    FIRST_ROW,
    HEAD_GAINS,
    DifferingWords,
    Fit,
    HeadStrategy,
    Pair,
    Session,
    edit_rows,
    heads_option,
    random_heads,
    rows_option,
    select_heads,
    top_heads,
    twin_option,
    usable_heads,
    why_no_image_columns,
)


@dataclass(frozen=True)
class AllPath(HeadStrategy):
    """Amplify good heads and switch off bad ones.

    Attributes:
        gain: Factor of good heads' outputs, >= 0; 1 leaves them.
        bad_gain: Factor of bad heads' outputs, >= 0; 1 leaves them.
        good: Good heads, such as "16.29, 26.9" (head 29 of layer 16, head 9 of layer 26), or "fitted".
        bad: Bad heads, likewise; those that are good too are not bad.
        text_share: Share of the heads with the best, and of those with the worst fitted text scores, in [0, 1].
        image_share: Share of the heads with the best fitted image scores, in [0, 1]; 0 leaves out this path, and in a
            fit the test whether its scores are more than chance.
        rows: Positions at which outputs are scaled: "all", or "answer": the last of the prompt and all later ones.
        twin: 0: the strategy; a larger number: the seed of a random twin (as many other heads of each layer, good and
            bad).
    """

    name: ClassVar[str] = "allpath"
    claims: ClassVar[frozenset[str]] = frozenset({HEAD_GAINS})
    lists: ClassVar[tuple[str, ...]] = ("good", "bad")
    adjustable: ClassVar[frozenset[str]] = frozenset({"gain", "bad_gain", "good", "bad", "text_share", "image_share"})

    gain: float = by_model(2.0, low=0, tries=(1.2, 1.5, 2.0))
    bad_gain: float = by_model(0.0, low=0, tries=(0.0, 0.5, 1.0))
    good: str = heads_option()
    bad: str = heads_option()
    text_share: float = by_model(0.039, low=0, high=1, tries=(0.02, 0.039))
    image_share: float = by_model(0.049, low=0, high=1, tries=(0.01, 0.049))
    rows: str = rows_option()
    twin: int = twin_option()

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models whose pictures are no columns beside the text's."""
        return why_no_image_columns(adapter, "no head reads picture and text")

    def fit(self, adapter: Adapter, pairs: Sequence[Pair], seed: int) -> Fit:
        """Score the heads of both paths by true words, less hallucinated ones."""

        def logits(inputs: Inputs, text: DifferingWords) -> Tensor:
            first = [word.tokens[0] for word in text.words]
            return torch.stack([head_logit_gains(adapter, inputs, text.ids[: token + 1]) for token in first])

        def attention(inputs: Inputs, text: DifferingWords) -> Tensor:
            image = adapter.image_mask(inputs["input_ids"])[0]
            columns = torch.cat([image, image.new_zeros(len(text.ids))])
            return word_attention(adapter, inputs, text, columns)

        texts, images = measure_words(adapter, pairs, logits), measure_words(adapter, pairs, attention)
        numbers = {"text": texts.check("what heads add to the logits", seed)}
        if self.image_share > 0:
            numbers["image"] = images.check("the attention of heads to the picture", seed)
        return Fit({"text": -texts.difference(), "image": -images.difference()}, numbers)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Scale head outputs; without a picture return an empty session."""
        good, bad = self._select(adapter)
        gains = torch.ones(good.shape).masked_fill(bad, self.bad_gain).masked_fill(good, self.gain)
        if not has_picture(inputs) or (gains == 1).all():
            return Session()
        return Session(ops=[_ScaleHeads(gains, self.rows)])

    def _select(self, adapter: Adapter) -> tuple[Tensor, Tensor]:
        """Return the good heads and the bad ones, (layers, heads) bool each; none is both."""
        good, bad = self._listed(adapter, "good"), self._listed(adapter, "bad")
        bad = bad & ~good
        if not self.twin:
            return good, bad
        drawn = random_heads(good, self.twin, "good")
        return drawn, random_heads(bad, self.twin, "bad", ~drawn)

    def _listed(self, adapter: Adapter, option: str) -> Tensor:
        """Return the heads of one list, (layers, heads) bool."""
        spec = getattr(self, option)
        if spec != "fitted":
            return select_heads(adapter, self, option, spec)
        scores, among = self.learned(adapter).tensors, usable_heads(adapter)
        if option == "bad":
            return top_heads(-scores["text"], self.text_share, among)
        text = top_heads(scores["text"], self.text_share, among)
        return text | top_heads(scores["image"], self.image_share, usable_heads(adapter, whole=True))


class _ScaleHeads(Op):
    """Scales the outputs of good and of bad heads."""

    def __init__(self, gains: Tensor, rows: str) -> None:
        self.layers = frozenset((gains != 1).any(dim=1).nonzero()[:, 0].tolist())
        self._gains, self._rows = gains, rows
        self.first_row = FIRST_ROW[rows]

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        gains = self._gains[call.layer, :, None].to(output.device)
        return edit_rows(call, output, self._rows, lambda rows: rows * gains)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return the gain of each head."""
        acts = (self._gains != 1).any(dim=1, keepdim=True)
        return {"head gains": self._gains.masked_fill(~acts, torch.nan)}
