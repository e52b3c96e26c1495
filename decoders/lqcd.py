"""Leading query contrastive decoding (LQCD).

Paper     "Towards analyzing and mitigating sycophancy in large vision-language models", arXiv:2408.11261 (no code).
Idea      A hint in the question leads a model to answer what it suggests. Ask the question without the hint, and
          subtract what the hint makes more likely.
Formula   s = (1 + alpha) z_n - alpha z_l, kept where z_n >= max z_n + log beta; z_n after the neutral query, z_l after
          the leading one, as it was asked
          scaler "shift": alpha s_q in place of alpha, s_q = 1/2 sum |p_n - p_l| at the first token, in [0, 1]
Defaults  alpha 1, beta 0.1: not confirmed by the paper, but those of related contrasts. neutral "rule", scaler "none".
Cost      2 rows per token instead of 1, in one pass, and one more prefill, where a query is leading; otherwise none.
          neutral "model" has the model write up to 64 tokens first, without the picture.
Compared  neutral query: paper rewritten by a language model; ours, neutral="model", by the model itself, in our
            wording; the default rule, which takes out leading sentences and tags, is ours; or a text of your own
          scaler: paper a strength by how leading a query is, of which we know no formula; ours "shift", which
            measures how far the hint moves the first token; "none" is the paper's first version
          baseline: paper the models' own decoding of the leading query
Differs   The neutral query is the one that is answered, and other strategies of a composition act on it alone. A query
          in which the rule finds no hint is decoded plainly, to the last bit. alpha=0 with beta=0 answers the neutral
          query plainly: a control of what the contrast adds. Only the last text of a conversation is rewritten; a
          sentence on how to answer stays as it is, and so do options of a multiple choice, each on a line of its own
          behind a capital letter ("A. a cup"). A sentence that a question refers back to is taken out, too: of "I can
          see two cups. What colour is the left one?" the question is left. A trace shows the neutral query among its
          notes. Prompts without a picture are not changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Batch, Inputs, Request, edit_question, has_picture
from mmhall.answers import DecodedTokens
from mmhall.decoders._neutral import is_format, neutralise, split_sentences
from mmhall.errors import CompositionError, MmhallWarning
from mmhall.generation import answer_first, end_ids
from mmhall.options import by_model, option
from mmhall.strategies import (
    CONTRAST,
    AskingStrategy,
    Branch,
    Session,
    Step,
    StepRecord,
    contrast,
    neutral_text,
    twin_option,
)

REWRITE = (
    "Rewrite this question so that it does not suggest an answer. Leave out opinions, hints and claims, and keep what "
    "is asked. Write the question only.\n{question}"
)
_LEADING, _PASSES = "lqcd leading", "lqcd passes"  # in `Batch.found`
_STRENGTH = "lqcd strength"  # in memory
_LONGEST = 64  # tokens of a rewritten query
_SHORTEST = 8  # tokens of a twin's neutral text


@dataclass(frozen=True)
class LQCD(AskingStrategy):
    """Answer the neutral form of a leading query, contrasted with the leading one.

    Attributes:
        alpha: Contrast strength, >= 0; 0 keeps the scores of the neutral query.
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
        neutral: The neutral query: by "rule", rewritten by the "model", or a text of its own, in which "{question}"
            stands for the query by rule.
        scaler: What scales alpha for each query: "none", or "shift", how far the hint moves the first token (ours).
        twin: 0: the strategy; a larger number: the seed of a random twin (a neutral text in place of the hint).
    """

    name: ClassVar[str] = "lqcd"
    claims: ClassVar[frozenset[str]] = frozenset({CONTRAST, "the wording of the prompt"})
    controls: ClassVar = ({"alpha": 0.0, "beta": 0.0},)

    alpha: float = by_model(1.0, low=0, tries=(0.25, 0.5, 1.0, 2.0, 4.0))
    beta: float = option(0.1, low=0, high=1)
    neutral: str = option("rule", holds=lambda text: bool(text.strip()), expected='"rule", "model" or a query')
    scaler: str = option("none", choices=("none", "shift"))
    twin: int = twin_option()

    def ask_first(self, adapter: Adapter, inputs: Batch) -> Batch:
        """Write the neutral queries into the prompts, and keep the leading ones."""
        if not has_picture(inputs) or _LEADING in inputs.found:
            return inputs
        passes, neutral = 0, [self._by_text(_query_of(request)) for request in inputs.requests]
        if self.neutral == "model":
            passes, neutral = _rewritten(adapter, [_query_of(request) for request in inputs.requests])
        requests = [_with_query(*pair) for pair in zip(inputs.requests, neutral, strict=True)]
        same = all(one is other for one, other in zip(requests, inputs.requests, strict=True))
        asked = Batch(dict(inputs), inputs.singles, inputs.requests) if same else adapter.inputs(requests)
        asked.found = {**inputs.found, _LEADING: tuple(inputs.requests), _PASSES: torch.full((len(requests),), passes)}
        return asked

    def _by_text(self, query: str) -> str:
        return neutralise(query) if self.neutral == "rule" else self.neutral.replace("{question}", neutralise(query))

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Add the leading queries as a branch; without a picture or a hint return a session that changes nothing.

        Raises:
            CompositionError: The neutral queries were not written into these inputs, or they come from another
                processor.
        """
        if not has_picture(inputs):
            return Session()
        if not isinstance(inputs, Batch):
            raise CompositionError(
                "lqcd: it writes the question again, and inputs made elsewhere hold only its tokens; use LVLM.generate"
            )
        if _LEADING not in inputs.found:
            if self.alpha == 0 and self.beta == 0:
                return Session()
            raise CompositionError(
                "lqcd: these inputs hold the queries as they were asked; make them with "
                "strategy.ask_first(adapter, inputs)"
            )
        return self._session(adapter, inputs, inputs.found[_LEADING])

    def _session(self, adapter: Adapter, inputs: Batch, leading: Sequence[Request]) -> Session:
        """Return the session of neutral queries and those that were asked."""
        led = torch.tensor([one is not other for one, other in zip(inputs.requests, leading, strict=True)])
        more: dict[str, Any] = {"prepared_passes": int(inputs.found[_PASSES].max())}
        if len(leading) == 1:
            found = _query_of(inputs.requests[0]) if led.any() else "no hint was found; the query is asked as it is"
            more["notes"] = {"neutral query": found}
        if not led.any() or (self.alpha == 0 and self.beta == 0):
            return Session(**more)
        against = leading
        if self.twin:
            against = [self._twin_of(adapter, *pair) for pair in zip(inputs.requests, leading, strict=True)]
        branches = [Branch(adapter.inputs(against))] if self.alpha else []
        return Session(branches=branches, combine=AgainstLead(self, led), **more)

    def _twin_of(self, adapter: Adapter, neutral: Request, leading: Request) -> Request:
        """Return the neutral query behind a text without a hint, in all about as long as the leading query."""
        if neutral is leading:
            return neutral
        ids, shorter = (
            adapter.tokenizer(_query_of(one), add_special_tokens=False)["input_ids"] for one in (leading, neutral)
        )
        size = adapter.tokenizer.decode(ids[: max(_SHORTEST, len(ids) - len(shorter))])
        before = neutral_text(adapter.tokenizer, size, self.twin)
        return edit_question(neutral, lambda query: f"{before} {query}")


@dataclass(frozen=True, slots=True)
class AgainstLead:
    """Subtracts the prediction of the leading queries from that of the neutral ones.

    Attributes:
        options: The strategy.
        led: Prompts that are leading, (prompts,) bool; others are decoded as they are.
        strengths: Strength of each step, for findings.
    """

    options: LQCD
    led: Tensor
    strengths: StepRecord = field(default_factory=StepRecord)

    def __call__(self, step: Step) -> Tensor:
        """Return scores, (rows, vocabulary)."""
        strength = self._strength(step)
        self.strengths.add(step, strength)
        scores = contrast(step.main, step.branches[0] if step.branches else step.main, strength, self.options.beta)
        return torch.where(step.each(self.led)[:, None], scores, step.main)

    def level(self, step: Step) -> Tensor:
        """Return the level of the contrast of logits, (rows, 1)."""
        main, *others = step.levels
        strength = self._strength(step)
        scores = (1 + strength) * main - strength * others[0] if others else main
        return torch.where(step.each(self.led)[:, None], scores, main)

    def _strength(self, step: Step) -> Tensor:
        """Return the strength of each row, (rows, 1), which is kept from the first token on."""
        if self.options.scaler == "none" or not step.branches:
            return torch.full_like(step.main[:, :1], self.options.alpha)
        if step.t == 0:
            step.memory[_STRENGTH] = self.options.alpha * shift(step.main, step.branches[0])
        return step.memory[_STRENGTH]

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return the strength at each token where a scaler has chosen it."""
        return {} if self.options.scaler == "none" else {"contrast strength": self.strengths.by_token()[:, :, None]}


def shift(neutral: Tensor, leading: Tensor) -> Tensor:
    """Return how far a hint moves a prediction: the total variation distance, (N, 1), in [0, 1].

    From (0.7, 0.2, 0.1) to (0.4, 0.5, 0.1) it is 0.3.

    Args:
        neutral: Log-probabilities, (N, V).
        leading: Log-probabilities, (N, V).
    """
    return (neutral.exp() - leading.exp()).abs().sum(dim=-1, keepdim=True) / 2


def _query_of(request: Request) -> str:
    """Return the text of a request that is rewritten: the last text of its last message."""
    return next(iter(reversed(request.conversation.turns[-1].texts)), "")


def _with_query(request: Request, query: str) -> Request:
    """Return a request with another query; the same request if it is the same query."""
    return request if query == _query_of(request) else edit_question(request, lambda _: query)


def _rewritten(adapter: Adapter, queries: Sequence[str]) -> tuple[int, list[str]]:
    """Have the model rewrite queries, but not how to answer them or options; return the number of passes, and texts."""
    pieces = [split_sentences(query) for query in queries]
    asked = ["".join(piece for piece in parts if not is_format(piece)).strip() for parts in pieces]
    prompts = [REWRITE.replace("{question}", text or query) for text, query in zip(asked, queries, strict=True)]
    rows = answer_first(adapter, adapter.inputs(list(map(Request, prompts))), _LONGEST, Session(), LQCD.name).tolist()
    ends, texts = end_ids(adapter), list[str]()
    for number, (row, query, parts) in enumerate(zip(rows, queries, pieces, strict=True), start=1):
        written = DecodedTokens.from_row(row, adapter.tokenizer, ends, ()).text.strip().partition("\n")[0].strip(' "')
        if not written:
            where = f" of prompt {number} of {len(rows)}" if len(rows) > 1 else ""
            warnings.warn(
                f'lqcd: the model rewrote the query{where} to nothing, so it is asked as it is; use neutral="rule"',
                MmhallWarning,
                stacklevel=2,
            )
        formats = "".join(piece for piece in parts if is_format(piece)).strip()
        gap = query[: query.rfind(formats)][-1:] if formats else ""
        texts.append(f"{written}{gap if gap.isspace() else ' ' * bool(formats)}{formats}" if written else query)
    return len(rows[0]), texts
