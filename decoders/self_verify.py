"""Best of several answers by the model's own yes/no answers, a strong plain baseline.

Paper     None of its own: best of n by self-verification, as it is used beside mitigation methods.
Idea      Draw several answers, ask the model whether each object that an answer names is in the picture, and keep the
          answer whose objects it confirms most.
Formula   candidates: greedy decoding, and `samples` draws from softmax(z / temperature) over the nucleus top_p
          p(object) = P(yes) / (P(yes) + P(no)) at the first token after "Is there a dog in the image?"
          score: mean of p over the distinct objects of an answer, or their product; 0 where it names none
          the answer with the highest score; of equal ones the first, greedy before samples
Defaults  5 samples, temperature 1, top_p 0.9, the mean, COCO's eighty objects and their words.
Cost      samples + 1 rows per token, in one pass, and one short prompt for each object that any candidate names.
Differs   The mean favours answers that name few objects, so compare at equal recall. Questions are asked of the plain
          model. Draws are seeded for each sample: a batch draws the same as single prompts. The generation setting
          `num_beams` overrides the number of candidates, samples + 1. Without a picture decoding is greedy.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Batch, Inputs, Request, has_picture
from mmhall.answers import DecodedTokens
from mmhall.errors import CompositionError
from mmhall.generation import (
    Ask,
    Decoding,
    Feed,
    PromptSearch,
    Steps,
    TokenSampler,
    check_scores,
    greedy_search,
    keep_nucleus,
    run_searches,
)
from mmhall.objects import Vocabulary, object_vocabulary, question_about
from mmhall.options import option
from mmhall.strategies import SEARCH, Session, Strategy, why_no_yes_no, yes_no_tokens

_QUESTIONS = 8  # read together for each prompt of a batch, about as many rows as candidates


@dataclass(frozen=True)
class SelfVerify(Strategy):
    """Draw several answers, and keep the one whose objects the model itself confirms.

    Attributes:
        samples: Number of draws beside greedy decoding, >= 0; 0: greedy alone.
        temperature: Divides logits before a draw, > 0.
        top_p: Draws come from the smallest set of tokens with this probability, in (0, 1].
        score: How the confirmations of an answer's objects are joined: "mean" or "product".
        objects: Names of the objects to ask about; (): COCO's eighty.
        seed: Seed of the draws.
    """

    name: ClassVar[str] = "self-verify"
    searches: ClassVar[bool] = True
    claims: ClassVar[frozenset[str]] = frozenset({SEARCH})

    samples: int = option(5, low=0)
    temperature: float = option(1.0, holds=lambda value: value > 0, expected="a number > 0")
    top_p: float = option(0.9, low=0, high=1, holds=lambda value: value > 0, expected="a number in (0, 1]")
    score: str = option("mean", choices=("mean", "product"))
    objects: tuple[str, ...] = option(
        (),
        holds=lambda names: all(isinstance(name, str) and name.strip() for name in names),
        expected='a tuple of names such as ("dog", "cat")',
    )
    seed: int = option(0, low=0, high=2**63 - 1)

    @property
    def beams(self) -> int:  # type: ignore[override]
        """The number of candidates."""
        return self.samples + 1

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models whose tokenizer does not tell yes and no apart."""
        return why_no_yes_no(adapter)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Return a session with the search; without a picture one that decodes greedily.

        Raises:
            CompositionError: The inputs hold no pictures to ask about.
        """
        if self.samples == 0:
            return Session()
        if not has_picture(inputs):
            return Session(search=greedy_search)
        if not isinstance(inputs, Batch):
            raise CompositionError(
                "self-verify: it asks questions about the pictures, and inputs made elsewhere hold only what the "
                "model's processor made of them; use LVLM.generate"
            )
        return Session(search=partial(_search, self, inputs.requests))


def _search(options: SelfVerify, requests: Sequence[Request], decoding: Decoding) -> Tensor:
    """Search for the answers to all prompts (`Session.search`)."""
    vocabulary, confirm = object_vocabulary(options.objects), partial(confirm_objects, decoding, requests)
    return run_searches(
        decoding, [Verified(options, vocabulary, confirm, decoding, prompt) for prompt in range(len(requests))]
    )


def confirm_objects(
    decoding: Decoding, requests: Sequence[Request], asked: Sequence[tuple[int, Sequence[str]]]
) -> list[dict[str, float]]:
    """Return the model's probability of yes for each object, against no.

    Args:
        decoding: The batch.
        requests: Its prompts with their pictures.
        asked: 0-based prompts of the batch, each with the objects to ask about.

    Returns:
        For each of `asked` the probability of each object.
    """
    adapter, confirmed = decoding.job.adapter, [dict[str, float]() for _ in asked]
    tokens, together = yes_no_tokens(adapter), _QUESTIONS * len(requests)
    questions = [(at, prompt, name) for at, (prompt, names) in enumerate(asked) for name in names]
    for start in range(0, len(questions), together):
        part = questions[start : start + together]
        inputs = adapter.inputs([Request(question_about(name), requests[prompt].images) for _, prompt, name in part])
        scores = decoding.open(inputs).scores()
        for (at, _, name), probability in zip(part, tokens.margin(scores).sigmoid().tolist(), strict=True):
            confirmed[at][name] = probability
    return confirmed


class Verified(PromptSearch):
    """The search for one prompt."""

    def __init__(
        self,
        options: SelfVerify,
        vocabulary: Vocabulary,
        confirm: Callable[[Sequence[Any]], Sequence[Any]],
        decoding: Decoding,
        prompt: int,
    ) -> None:
        """Start at the end of a prompt.

        Args:
            options: Options of the search.
            vocabulary: Finds the objects of an answer.
            confirm: Asks about the objects of all searches, `confirm_objects`.
            decoding: The batch.
            prompt: 0-based index of the prompt in the batch.
        """
        super().__init__(decoding, prompt)
        self._options, self._vocabulary, self._confirm = options, vocabulary, confirm

    def run(self) -> Steps:
        """Return the best candidates, best first, (length,) each."""
        candidates = yield from self.write(self.decoding.job.config.num_beams)
        named = [self.objects_of(candidate) for candidate in candidates]
        distinct = list(dict.fromkeys(name for names in named for name in names))
        confirmed = yield Ask(self._confirm, (self.prompt, distinct))
        scores = [score_objects([confirmed[name] for name in names], self._options.score) for names in named]
        order = sorted(range(len(candidates)), key=lambda at: -scores[at])
        self.end(candidates[order[0]])
        return [torch.tensor(candidates[at], device=self.device) for at in order[: self.count]]

    def write(self, count: int) -> Steps:
        """Decode candidates side by side: the first greedily, the others by draws; return their tokens."""
        prepared, device = self.decoding.prepared, self.device
        prompts, length = prepared.input_ids.shape
        rows = yield self.resume([()] * count)
        sampler = TokenSampler([sample_seed(self._options.seed, number) for number in range(count)], device)
        ids, ended = prepared.input_ids[self.prompt].expand(count, -1), dict[int, tuple[int, ...]]()
        live = torch.arange(count, device=device)  # the candidates that go on, greedy decoding first
        while True:
            scores = prepared.processed_alone(self.prompt, ids, rows.scores())
            check_scores(scores, ids.shape[1] - length, prompts=prompts, prompt=self.prompt)
            chosen = sampler(keep_nucleus(scores / self._options.temperature, self._options.top_p), live)
            chosen[live == 0] = scores[live == 0].argmax(dim=-1)
            ids = torch.cat([ids, chosen[:, None]], dim=1)
            ends = prepared.criteria(ids, scores)
            ended |= {
                number: tuple(row[length:].tolist()) for number, row in zip(live[ends].tolist(), ids[ends], strict=True)
            }
            (left,) = (~ends).nonzero(as_tuple=True)
            if not len(left):
                return [ended[number] for number in range(count)]
            yield Feed(rows, chosen[left], left)
            live, ids = live[left], ids[left]

    def objects_of(self, candidate: Sequence[int]) -> list[str]:
        """Return the distinct objects that an answer names, in order."""
        job, prepared = self.decoding.job, self.decoding.prepared
        decoded = DecodedTokens.from_row(
            list(candidate), job.adapter.tokenizer, prepared.ends, job.config.stop_strings or ()
        )
        return list(dict.fromkeys(mention.name for mention in self._vocabulary.mentions(decoded.text)))


def score_objects(probabilities: Sequence[float], score: str = "mean") -> float:
    """Join the probabilities of an answer's objects; 0 without any.

    Of 0.9, 0.8, 0.3 the mean is 0.6667 and the product 0.216; of 0.9, 0.7 they are 0.8 and 0.63.
    """
    if not probabilities:
        return 0.0
    return math.prod(probabilities) if score == "product" else sum(probabilities) / len(probabilities)


def sample_seed(seed: int, number: int) -> int:
    """Return the seed of the draws of one sample."""
    return random.Random(f"{seed} sample {number}").getrandbits(63)
