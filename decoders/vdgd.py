"""Visual description grounded decoding (VDGD).

Paper     Ghosh et al., ICLR 2025, arXiv:2405.15683; Sreyan88/VDGD.
Idea      Have the model describe the picture first, write the description into the prompt, and among the plausible next
          tokens prefer those that it had in mind at some token of the description.
Formula   P_j, j = 1 ... n: the distributions from which the description's tokens were chosen, its end included
          kept: z >= max z + log beta, and in the nucleus top_p of softmax(z / temperature)
          s(v) = max_j log P_j(v) (reduction "min": of the divergences -log P_j(v)), their mean or their sum over j
          p(v) = exp s(v) / sum over kept tokens; greedily the largest s, of equal ones that with the largest z
Defaults  beta 0.1, temperature 1, top_p 1, reduction "min": the greedy variant of the released code, which is nearest
          to the paper's words. Its sampled one is vdgd(beta=0, temperature=0.5, top_p=0.5) with do_sample=True.
          The wording of both prompts is ours.
Cost      One more answer, the description, before the first token (one for all questions of a batch about a picture, if
          it does not quote them); the prompt is longer by it. One vector of the size
          of the vocabulary for each prompt, and one row per token.
Compared  description: released code, a prompt that quotes the question, up to 1024 tokens; ours, a plain request, up to
            256 (text="... {question} ..." quotes the question)
          sampled: released code, besides the above, one variant with both cut-offs, whose 0.1 is of scores at
            temperature 0.5; ours cuts at the model's own scores
          scores: released code divides them by the size of the vocabulary, so that draws are nearly uniform among
            kept tokens; ours does not (compat=True does; greedy decoding is the same)
          memory: released code all logits of the description; ours a running maximum or sum: the same result
          speed: released code reads the whole prompt again for each token; ours has a cache
          baseline: not told in what this was written from; plain decoding has neither the description nor the cut-off
Differs   The model's own prediction matters only for which tokens are kept. A description also changes the prompt:
          ground=False is that alone, as a control. Descriptions are written greedily by the plain model, also where
          other strategies are composed with this one. Where the model describes with no word, the request is decoded as
          the plain model does, with a warning. Works with greedy, sampling and beams.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Batch, Inputs, Request, edit_question, has_picture
from mmhall.answers import DecodedTokens
from mmhall.errors import CompositionError, MmhallWarning
from mmhall.generation import answer_first, end_ids, keep_nucleus
from mmhall.options import by_model, option
from mmhall.strategies import (
    CONTRAST,
    AskingStrategy,
    Session,
    Step,
    StepRecord,
    contrast,
    other_pictures,
    twin_option,
)

TEXT = "Please describe this image in detail."
FRAME = "The image shows the following: {description}\n{question}"
_SUPPORT, _DESCRIBED, _PASSES = "vdgd support", "vdgd described", "vdgd passes"  # in `Batch.found`
_IMPOSSIBLE = -1e4  # replaces log 0, so that scores stay finite


@dataclass(frozen=True)
class VDGD(AskingStrategy):
    """Prefer tokens that the model had in mind while it described the picture.

    Attributes:
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
        temperature: Divides the logits for the nucleus, > 0.
        top_p: Kept tokens are in the smallest set with this probability, in (0, 1]; 1 keeps all.
        reduction: How divergences from the description's distributions are joined: "min", "mean" or "sum".
        tokens: Longest description; 0: none, the plain model.
        text: The prompt that asks for it; "{question}" in it is the question.
        frame: The question with the description, "{question}" and "{description}".
        ground: Whether tokens are scored by the description; False: it is written into the prompt only.
        compat: Whether scores are divided by the size of the vocabulary, as in the released code.
        twin: 0: the strategy; a larger number: the seed of a random twin (another picture is described).
    """

    name: ClassVar[str] = "vdgd"
    claims: ClassVar[frozenset[str]] = frozenset({CONTRAST, "the wording of the prompt"})
    controls: ClassVar = ({"ground": False},)

    beta: float = by_model(0.1, low=0, high=1, tries=(0.05, 0.1, 0.3, 0.5))
    temperature: float = option(1.0, holds=lambda value: value > 0, expected="a number > 0")
    top_p: float = option(1.0, low=0, high=1, holds=lambda value: value > 0, expected="a number in (0, 1]")
    reduction: str = option("min", choices=("min", "mean", "sum"))
    tokens: int = option(256, low=0)
    text: str = option(TEXT, holds=lambda text: bool(text.strip()), expected="a text of at least one word")
    frame: str = option(
        FRAME,
        holds=lambda frame: "{question}" in frame and "{description}" in frame,
        expected='a text with "{question}" and "{description}"',
    )
    ground: bool = option(True)
    compat: bool = option(False)
    twin: int = twin_option()

    def ask_first(self, adapter: Adapter, inputs: Batch) -> Batch:
        """Have the model describe the pictures, and write the descriptions into the prompts."""
        if self.tokens == 0 or not has_picture(inputs) or _DESCRIBED in inputs.found:
            return inputs
        prompts = [self._ask(request) for request in inputs.requests]
        keys = [(tuple(map(id, prompt.images)), prompt.prompt) for prompt in prompts]
        distinct = dict(zip(keys, prompts, strict=True))  # a picture is described once for all questions about it
        asked: Inputs = adapter.inputs(list(distinct.values()))
        asked = other_pictures(adapter, asked, self.twin) if self.twin else asked
        ends = end_ids(adapter)
        listener = Listener(self.reduction, ends) if self.ground else None
        rows = answer_first(adapter, asked, self.tokens, Session(combine=listener), self.name).tolist()
        order = [list(distinct).index(key) for key in keys]
        texts = [DecodedTokens.from_row(rows[at], adapter.tokenizer, ends, ()).text for at in order]
        for number in (number for number, text in enumerate(texts, start=1) if not text):
            where = f" of prompt {number} of {len(texts)}" if len(texts) > 1 else ""
            warnings.warn(
                f"vdgd: the description{where} is empty, so that the plain model is decoded; ask with another text",
                MmhallWarning,
                stacklevel=2,
            )
        pairs = zip(inputs.requests, texts, strict=True)
        described = adapter.inputs([self._tell(request, text) if text else request for request, text in pairs])
        described.found = {
            **inputs.found,
            _DESCRIBED: torch.tensor([bool(text) for text in texts]),
            _PASSES: torch.full((len(texts),), len(rows[0])),
            **({} if listener is None else {_SUPPORT: listener.support()[order]}),
        }
        return described

    def _ask(self, request: Request) -> Request:
        return edit_question(request, lambda question: self.text.replace("{question}", question))

    def _tell(self, request: Request, description: str) -> Request:
        before, _, after = self.frame.partition("{description}")

        def write(question: str) -> str:
            return description.join(part.replace("{question}", question) for part in (before, after))

        return edit_question(request, write)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Score tokens by the descriptions; without a picture, or a description, return an empty session.

        Raises:
            CompositionError: The model was not asked about these inputs first, or they come from another processor.
        """
        if self.tokens == 0 or not has_picture(inputs):
            return Session()
        if not isinstance(inputs, Batch):
            raise CompositionError(
                "vdgd: it has the model describe the pictures and writes the prompt again, and inputs made elsewhere "
                "hold only its tokens; use LVLM.generate"
            )
        if _DESCRIBED not in inputs.found:
            raise CompositionError(
                "vdgd: nothing was described for these inputs; make them with strategy.ask_first(adapter, inputs)"
            )
        described, passes = inputs.found[_DESCRIBED], int(inputs.found[_PASSES].max())
        grounds = self.ground and bool(described.any())
        combine = Ground(self, inputs.found[_SUPPORT], described) if grounds else None
        return Session(combine=combine, prepared_passes=passes)


class Listener:
    """Follows the distributions of descriptions as they are written; changes no score.

    It holds one number for each token of the vocabulary, whatever the length of the description.
    """

    def __init__(self, reduction: str, ends: list[int]) -> None:
        """Start before the first token.

        Args:
            reduction: As in `VDGD`.
            ends: Ids of the tokens that end a description.
        """
        self._reduction, self._ends = reduction, ends
        self._joined: Tensor | None = None
        self._count: Tensor | None = None

    def __call__(self, step: Step) -> Tensor:
        """Take in the distributions of one step, except of rows that have ended before it."""
        logs = step.main.clamp_min(_IMPOSSIBLE)
        if self._joined is None or self._count is None:
            self._joined, self._count = logs.clone(), torch.ones_like(logs[:, :1])
            return step.main
        ended = torch.isin(step.said, torch.tensor(self._ends, device=step.said.device))
        runs = ~ended.any(dim=1, keepdim=True)
        rows = slice(None) if step.owners is None else step.owners  # those of the descriptions that are not ended
        before = self._joined[rows]
        joined = torch.maximum(before, logs) if self._reduction == "min" else before + logs
        self._joined[rows] = torch.where(runs, joined, before)
        self._count[rows] += runs
        return step.main

    def support(self) -> Tensor:
        """Return how much the descriptions support each token, (prompts, vocabulary), a log-probability <= 0.

        For the distributions (0.6, 0.3, 0.1) and (0.2, 0.2, 0.6): "min" gives the logs of (0.6, 0.3, 0.6), "mean"
        those of (0.3464, 0.2449, 0.2449), "sum" those of (0.12, 0.06, 0.06).
        """
        assert self._joined is not None
        assert self._count is not None
        return self._joined / self._count if self._reduction == "mean" else self._joined


@dataclass(frozen=True, slots=True)
class Ground:
    """Scores plausible tokens by the support of the descriptions.

    Attributes:
        options: The strategy.
        support: As `Listener.support` returns it, (prompts, vocabulary).
        described: Prompts that have a description, (prompts,) bool; others are decoded as they are.
        best: Support of the best token at each step, as a probability.
    """

    options: VDGD
    support: Tensor
    described: Tensor
    best: StepRecord = field(default_factory=StepRecord)

    def __call__(self, step: Step) -> Tensor:
        """Return scores, (rows, vocabulary)."""
        options, support = self.options, step.each(self.support)
        kept = contrast(step.main, step.main, 0.0, options.beta) > -math.inf
        if options.top_p < 1:
            kept &= keep_nucleus(step.main / options.temperature, options.top_p) > -math.inf
        scores = ground(step.main, support, kept, support.shape[-1] if options.compat else 1)
        self.best.add(step, support.gather(-1, scores.argmax(dim=-1, keepdim=True)).exp())
        return torch.where(step.each(self.described)[:, None], scores, step.main)

    def level(self, step: Step) -> Tensor:
        """Return the level of the scores, (rows, 1): of log-probabilities, and of logits without a description."""
        described = step.each(self.described)[:, None]
        return step.levels[0].masked_fill(described, 0.0)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return for each token how much the description supports the best one, in [0, 1]."""
        return {"support": self.best.by_token()[:, :, None]}


def ground(main: Tensor, support: Tensor, kept: Tensor, divisor: int = 1) -> Tensor:
    """Score kept tokens by their support; of the best ones, that with the largest `main` is first.

    Args:
        main: Log-probabilities of the model, (N, V).
        support: Log-probabilities, (N, V).
        kept: Tokens that are kept, (N, V) bool, at least one in each row.
        divisor: Divides the support.

    Returns:
        Log-probabilities over the kept tokens, (N, V); -inf for all others.
    """
    scores = (support / divisor).masked_fill(~kept, -math.inf).log_softmax(dim=-1)
    best = scores.amax(dim=-1, keepdim=True)
    first = main.masked_fill(scores < best, -math.inf).argmax(dim=-1, keepdim=True)
    return scores.scatter(-1, first, torch.nextafter(best, torch.full_like(best, math.inf)))
