"""Domain-context calibration: the prior among choices under random words of the domain.

Paper     Fei et al., "Mitigating label biases for in-context learning", arXiv:2305.19148. Published for language models
          and text classification; for questions about pictures it is ours.
Idea      A question of random words of the domain asks nothing, so what the model answers is its prior. Empty or
          meaningless questions miss the part of the prior that the words of the domain bring about.
Formula   prior = mean over n prompts of P(choice | prompt), normalised over the choices; the question, or a part of it,
          is replaced by as many random words of the domain; then as `mmhall.calibrate`, which divides by it
Defaults  20 prompts, as in the paper. Words: the names of COCO's eighty objects.
Cost      As many prefills as there are prompts, each with the picture unless `picture=False`.
Compared  length: paper the mean length of the data set's texts; ours the length of the part that is replaced
          words: paper random words of the data set's texts; ours those given, by default names of objects
          picture: not in the paper; ours that of the request, or none
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Batch, Inputs, Request, edit_question
from mmhall.closed._likelihood import Scorer
from mmhall.errors import ModelError
from mmhall.objects.coco_words import SYNONYMS
from mmhall.options import Configured, check_known, option, parse


@dataclass(frozen=True, slots=True)
class DomainContext(Configured):
    """The prior under random words of the domain, for `calibrate` of `LVLM.choose`; as text "words(part='cup')".

    Attributes:
        part: What is replaced: a text in every question, such as the object that is asked for; "": the whole question.
        words: Words of the domain; empty: names of COCO's eighty objects.
        count: Number of prompts, >= 1.
        picture: Whether the prompts have the picture of the request; otherwise none.
        seed: Seed of the words.
    """

    name: ClassVar[str] = "words"

    part: str = ""
    words: tuple[str, ...] = option(
        (),
        holds=lambda words: all(isinstance(word, str) and word.strip() for word in words),
        expected="a tuple of words",
    )
    count: int = option(20, low=1, high=10_000)
    picture: bool = True
    seed: int = option(0, low=0, high=2**63 - 1)

    def prior(self, adapter: Adapter, inputs: Inputs, scorer: Scorer) -> Tensor:
        """Return the mean probability of each choice over the prompts, (batch, choices) float64.

        Raises:
            ModelError: The questions are unknown, as the inputs come from another processor.
            OptionError: A question does not contain `part`.
            PromptError: A prompt is longer than the model's context.
        """
        if not isinstance(inputs, Batch):
            raise ModelError("calibration by words needs the questions; make the inputs with adapter.inputs(requests)")
        texts = [self.texts(_question(request)) for request in inputs.requests]
        total = torch.zeros(())
        for at in range(self.count):
            requests = [self._replaced(request, own[at]) for request, own in zip(inputs.requests, texts, strict=True)]
            batch = adapter.inputs(requests)
            scores = scorer(adapter, batch if self.picture else adapter.without_image(batch))
            total = total + scores.softmax(dim=-1).nan_to_num(0.0)  # no choice among the likeliest tokens
        return total / self.count

    def texts(self, question: str) -> list[str]:
        """Return what replaces the part of a question in each prompt."""
        words = self.words or tuple(SYNONYMS)
        length = len((self.part or question).split())
        drawn = torch.randint(len(words), (self.count, length), generator=torch.Generator().manual_seed(self.seed))
        return [" ".join(words[index] for index in row) for row in drawn.tolist()]

    def _replaced(self, request: Request, text: str) -> Request:
        """Return a request with the part of its question replaced."""
        if not self.part:
            return edit_question(request, lambda _: text)
        self.check("part", self.part in _question(request), f"a text in every question, such as {_question(request)!r}")
        return edit_question(request, lambda question: question.replace(self.part, text))


def read_domain_context(text: str) -> DomainContext | None:
    """Parse a text such as "words" or "words(part='cup', picture=False)"; None: it names something else.

    Raises:
        UnknownNameError: There is no such option.
        OptionError: The text begins with the name, and an option is unusable.
    """
    if re.match(rf"\s*{DomainContext.name}\s*(\(|$)", text) is None:
        return None
    _, options = parse(text, "calibrate")
    check_known(DomainContext, options)
    return DomainContext(**options)


def _question(request: Request) -> str:
    """Return the text of a request that is asked last."""
    found: list[str] = []

    def note(text: str) -> str:
        found.append(text)
        return text

    edit_question(request, note)
    return found[0]
