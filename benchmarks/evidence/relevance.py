"""Uncertainty of captions, weighted by relevance (SAR, arXiv:2307.01379), and their agreement with samples.

Token      `weighted`: share of the token in the caption's relevance, times -log p, times the number of tokens, so that
           captions of any length compare; the mean over the tokens is tokenSAR.
Caption    `sentence`: SAR of the caption among samples of the model, with tokenSAR as energy and t = 0.001. The paper
           takes the mean over all answers, since it judges a question; here the caption itself is judged.
Agreement  Of a sentence of the caption, mean over samples of its similarity to the sample's most similar sentence.
Named      Share of samples that name an object; ours.
Relevance  1 - similarity of the answer with and without a token, and similarity, by one of
             a model that the user names, or the overlap of content words (`mmhall.similarity`): of question and answer
               for tokens, of sentences or captions alone for samples. The released code removes every occurrence of
               the token's string; here the token alone is removed.
             "states": cosine between means of the model's own last states over the tokens of a text (ours).
Cost       A pass over the caption; for each sample an answer, drawn at temperature 1, and a pass over it. With a
           named model also a comparison for each token of caption and samples, and for each pair of sentences.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from mmhall.adapters import Request
from mmhall.analysis import answer_sar, fit_answers, read_answer, relevance_shares, token_sar
from mmhall.attention import Op, Visit
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.data.vocabulary import Mention
from mmhall.benchmarks.evidence.mentions import tokens_of
from mmhall.benchmarks.rules.length import sentence_ends
from mmhall.benchmarks.rules.thoughts import blank_thoughts
from mmhall.clip import has_word
from mmhall.images import open_image
from mmhall.similarity import Similarity, load_similarity
from mmhall.words import decode_answer

if TYPE_CHECKING:
    from mmhall.answers import Answer
    from mmhall.lvlm import LVLM

STATES = "states"
Question = tuple[Item, Path | None]


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """An answer, or one of its sentences, as the plain model reads it.

    Attributes:
        question: The prompt.
        text: The text.
        ids: Its tokens.
        logprobs: Log-probability of each token, in nats.
        states: States of each token, (tokens, hidden size) float32; without rows if they are not needed.
    """

    question: str
    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    states: Tensor

    def part(self, text: str, tokens: Sequence[int]) -> Text:
        """Return some of its tokens, 0-based, with their text."""
        at = list(tokens)
        states = self.states[at] if len(self.states) else self.states
        return Text(self.question, text, tuple(self.ids[t] for t in at), tuple(self.logprobs[t] for t in at), states)


class Relevance(Protocol):
    """Compares texts, and tells how much each token of one matters."""

    def of_tokens(self, text: Text) -> list[float]:
        """Return the relevance of each token, in [0, 1]."""
        ...

    def similar(self, pairs: Sequence[tuple[Text, Text]]) -> list[float]:
        """Return the similarity of pairs, in [0, 1]."""
        ...


@dataclass(frozen=True, slots=True)
class ByText:
    """Relevance by a similarity of texts.

    Attributes:
        similarity: The similarity.
        tokenizer: Tokenizer of the model whose answers are read.
    """

    similarity: Similarity
    tokenizer: Any

    def of_tokens(self, text: Text) -> list[float]:
        """Compare question and answer with the same without each token."""
        rest = [text.ids[:at] + text.ids[at + 1 :] for at in range(len(text.ids))]
        whole, *shorter = (self._joined(text.question, ids) for ids in (text.ids, *rest))
        known = dict(zip(shorter, self.similarity.compare([(whole, one) for one in shorter]), strict=True))
        return [1 - known[one] if one != whole else 0.0 for one in shorter]

    def similar(self, pairs: Sequence[tuple[Text, Text]]) -> list[float]:
        """Compare the texts without the question."""
        return self.similarity.compare([(one.text, other.text) for one, other in pairs])

    def _joined(self, question: str, ids: Sequence[int]) -> str:
        return f"{question} {decode_answer(self.tokenizer, ids).strip()}"


class ByStates:
    """Relevance by the states of the model that answers (ours)."""

    def of_tokens(self, text: Text) -> list[float]:
        """Compare the mean of the states with that without each token; a single token is all that matters."""
        count = len(text.states)
        if count < 2:
            return [1.0] * count
        rest = (text.states.sum(dim=0, keepdim=True) - text.states) / (count - 1)
        distances: list[float] = (1 - _cosines(rest, text.states.mean(dim=0, keepdim=True))).clamp(0, 1).tolist()
        return distances

    def similar(self, pairs: Sequence[tuple[Text, Text]]) -> list[float]:
        """Compare the means of the states."""
        return [float(_cosines(*(side.states.mean(dim=0) for side in pair)).clamp(0, 1)) for pair in pairs]


def load_relevance(name: str, lvlm: LVLM) -> Relevance:
    """Return a relevance by its name: "states", or a name of `mmhall.similarity`.

    Raises:
        ModelError: There is none of that name, or it cannot be loaded.
    """
    if name == STATES:
        return ByStates()
    return ByText(load_similarity(name, lvlm.adapter.device), lvlm.adapter.tokenizer)


@dataclass(frozen=True, slots=True)
class Relevant:
    """The uncertainty of one caption; see the module.

    Attributes:
        weighted: Of each token.
        sentence: Of the caption; None without samples.
        agreement: Start, end and agreement of each sentence; () without samples.
        named: Object to the share of samples that name it; None without samples.
    """

    weighted: tuple[float, ...]
    sentence: float | None
    agreement: tuple[tuple[int, int, float], ...]
    named: Mapping[str, float] | None

    def agreement_at(self, start: int) -> float | None:
        """Return the agreement of the sentence that holds a character."""
        return next((value for first, end, value in self.agreement if first <= start < end), None)

    def named_again(self, name: str) -> float | None:
        """Return the share of samples that name an object."""
        return None if self.named is None else self.named.get(name, 0.0)


def read_captions(
    lvlm: LVLM,
    relevance: Relevance,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    find: Callable[[Item, str], Iterable[str]],
    count: int = 0,
    max_new_tokens: int = 128,
) -> list[Relevant]:
    """Read captions, and samples beside them.

    Args:
        lvlm: The model.
        relevance: Compares texts.
        questions: Items with their pictures.
        answers: The caption of each item, of at least one token.
        find: Finds the names of objects in a caption.
        count: Number of samples of each item, >= 0.
        max_new_tokens: Limit of tokens of a sample.
    """
    states = isinstance(relevance, ByStates)
    captions = read_texts(lvlm, questions, answers, states=states)
    drawn: list[list[tuple[Answer, Text]]] = [[] for _ in answers]
    for number in range(count):
        samples = draw_samples(lvlm, questions, number, max_new_tokens)
        said = [at for at, sample in enumerate(samples) if sample.token_ids]
        chosen = [questions[at] for at in said], [samples[at] for at in said]
        for at, text in zip(said, read_texts(lvlm, *chosen, states=states), strict=True):
            drawn[at].append((samples[at], text))
    tokenizer = lvlm.adapter.tokenizer
    found = []
    for (item, _), answer, caption, beside in zip(questions, answers, captions, drawn, strict=True):
        energy, weighted = _energy(relevance, caption)
        named = [set(find(item, sample.text)) for sample, _ in beside]
        others = [sentences_of(tokenizer, *sample) for sample in beside]
        spans = sentences_of(tokenizer, answer, caption)
        found.append(
            Relevant(
                weighted,
                _sentence(relevance, energy, caption, [text for _, text in beside]) if count else None,
                tuple((s, e, _agreement(relevance, text, others, count)) for s, e, text in spans) if count else (),
                {name: sum(name in one for one in named) / count for name in set().union(*named)} if count else None,
            )
        )
    return found


def read_texts(
    lvlm: LVLM, questions: Sequence[Question], answers: Sequence[Answer], *, states: bool = False
) -> list[Text]:
    """Read answers with the plain model: log-probabilities, and states if they are asked for.

    Args:
        lvlm: The model.
        questions: Items with their pictures.
        answers: The answers, of at least one token.
        states: Whether to keep the states of the last layer that reads every token.
    """
    if not answers:
        return []
    adapter, ids = lvlm.adapter, [answer.token_ids for answer in answers]
    inputs = adapter.inputs([Request(i.prompt, (open_image(p),) if p else ()) for i, p in questions])
    tokens, probe = fit_answers(adapter, inputs, ids), _LastStates()
    width = tokens.shape[1]
    with torch.inference_mode():
        logits = read_answer(adapter, adapter.append_answer(inputs, tokens), width, [probe] if states else [])
        logprobs = logits.log_softmax(dim=-1).gather(2, tokens[:, :, None])[:, :, 0]
    rows = probe.states[:, -width:].float().cpu() if states else torch.zeros(len(ids), 0, 0)
    return [
        Text(item.prompt, answer.text, one, tuple(logprobs[row, : len(one)].tolist()), rows[row, : len(one)])
        for row, ((item, _), answer, one) in enumerate(zip(questions, answers, ids, strict=True))
    ]


def draw_samples(lvlm: LVLM, questions: Sequence[Question], number: int, max_new_tokens: int) -> list[Answer]:
    """Draw one answer of the plain model to each question, with a seed of its own, at temperature 1.

    Args:
        lvlm: The model.
        questions: Items with their pictures.
        number: Number of the sample, which its seeds depend on.
        max_new_tokens: Limit of its tokens.
    """
    seeds = [random.Random(f"{item.id} sample {number}").getrandbits(31) for item, _ in questions]
    requests = [(path, item.prompt) for item, path in questions]
    settings: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    return lvlm.generate_batch(requests, seeds=seeds, max_new_tokens=max_new_tokens, **settings)


def sentences_of(tokenizer: Any, answer: Answer, text: Text) -> list[tuple[int, int, Text]]:
    """Return first character, character after the last one, and tokens of each sentence of an answer."""
    written = blank_thoughts(answer.text)
    edges = [0, *sentence_ends(written), len(written)]
    spans = [(s, e) for s, e in pairwise(edges) if has_word(written[s:e])]
    places = tokens_of(tokenizer, answer, [Mention("", start, end) for start, end in spans])
    return [
        (start, end, text.part(written[start:end].strip(), tokens))
        for (start, end), tokens in zip(spans, places, strict=True)
        if tokens
    ]


class _LastStates(Op):
    """Keeps the input of the last layer that reads every row."""

    def __init__(self) -> None:
        self.states = torch.zeros(0, 0, 0)

    def see_states(self, visit: Visit) -> None:
        if visit.start == 0:
            self.states = visit.states


def _energy(relevance: Relevance, text: Text) -> tuple[float, tuple[float, ...]]:
    """Return tokenSAR, and what each token adds to it, times their number."""
    relevances, count = relevance.of_tokens(text), len(text.ids)
    shares = relevance_shares(relevances)
    weighted = tuple(-count * share * logprob for share, logprob in zip(shares, text.logprobs, strict=True))
    return token_sar(relevances, text.logprobs), weighted


def _sentence(relevance: Relevance, energy: float, caption: Text, samples: Sequence[Text]) -> float:
    """Return SAR of a caption among samples."""
    others = [_energy(relevance, sample)[0] for sample in samples]
    return answer_sar(energy, others, relevance.similar([(caption, sample) for sample in samples]))


def _agreement(
    relevance: Relevance, sentence: Text, samples: Sequence[Sequence[tuple[int, int, Text]]], count: int
) -> float:
    """Return the mean over samples of the largest similarity to one of their sentences; of empty samples 0."""
    best = [max(relevance.similar([(sentence, other) for *_, other in sample])) for sample in samples if sample]
    return sum(best) / count


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(one.float(), other.float(), dim=-1)
