"""Full stops as summaries: do later sentences depend on them, as OPERA's idea of over-trust says (arXiv:2311.17911)?

Captions are read again with teacher forcing while all tokens of later sentences are kept from attending to the full
stops before them, in every layer; and again with one other token of the same sentence hidden in place of each full
stop, drawn at random. The figure is the share of the tokens of later sentences for which another token becomes most
likely, without full stops, minus that without random tokens. Near 0: full stops matter no more than other tokens, and a
column of attention on them says nothing about what the caption draws on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmhall.adapters import Adapter, Inputs
from mmhall.analysis import read_answer
from mmhall.answers import Answer
from mmhall.attention import Call, Op
from mmhall.benchmarks.diagnosis.figures import MECHANISMS, Figure, UnmeasuredError
from mmhall.benchmarks.rules.length import sentence_ends
from mmhall.results.statistics import Array, Resampler, ratio
from mmhall.words import token_spans, tokens_in_span

_MASKED = -1e9


@dataclass(frozen=True, slots=True)
class Hidden:
    """What hiding tokens of a caption does to the tokens of later sentences.

    Attributes:
        tokens: Number of tokens behind the first full stop, without the first of them: it is predicted at the stop.
        changed: How many of them another token is the most likely one for, without full stops, and without random
            tokens.
        lost: How much log-probability they lose, in nats, summed: without full stops, and without random tokens.
    """

    tokens: int = 0
    changed: tuple[int, int] = (0, 0)
    lost: tuple[float, float] = (0.0, 0.0)


class HideColumns(Op):
    """Hides tokens of an answer from later ones."""

    def __init__(self, prompt: int, columns: Sequence[Sequence[tuple[int, int]]]) -> None:
        """Choose the tokens.

        Args:
            prompt: Length of the prompts in positions, padding included.
            columns: For each answer, 0-based tokens to hide, each with the first token it is hidden from.
        """
        self._prompt, self._columns = prompt, columns

    def bias(self, call: Call) -> Tensor:
        """Mask them."""
        bias = torch.zeros(len(self._columns), 1, call.count, call.key.shape[2], device=call.device)
        for number, hidden in enumerate(self._columns):
            for column, first in hidden:
                at = self._prompt + column - call.offset
                if at >= 0:
                    bias[number, 0, max(0, self._prompt + first - call.start) :, at] = _MASKED
        return bias


def read_stops(adapter: Adapter, inputs: Inputs, answers: Sequence[Answer], names: Sequence[str]) -> list[Hidden]:
    """Read captions with full stops hidden, and with random tokens hidden.

    Args:
        adapter: The model.
        inputs: The prompts, a batch.
        answers: Their captions, none empty.
        names: Seed of the random tokens of each caption.
    """
    stops = [find_stops(adapter.tokenizer, answer.token_ids) for answer in answers]
    if not any(stops):
        return [Hidden() for _ in answers]
    words = [draw_words(places, name) for places, name in zip(stops, names, strict=True)]
    tokens = pad_sequence([torch.tensor(answer.token_ids) for answer in answers], batch_first=True)
    tokens = tokens.to(inputs["input_ids"].device)
    prompt, whole = inputs["input_ids"].shape[1], adapter.append_answer(inputs, tokens)
    with torch.inference_mode():
        plain, *hidden = (
            read_answer(adapter, whole, tokens.shape[1], ops).log_softmax(dim=-1)
            for ops in (
                [],
                [HideColumns(prompt, _from_next(stops, stops))],
                [HideColumns(prompt, _from_next(words, stops))],
            )
        )
    best, of_token = plain.argmax(dim=-1), plain.gather(2, tokens[..., None])[..., 0]
    changed = [other.argmax(dim=-1) != best for other in hidden]
    lost = [of_token - other.gather(2, tokens[..., None])[..., 0] for other in hidden]
    found = []
    for number, (places, answer) in enumerate(zip(stops, answers, strict=True)):
        later = slice(places[0] + 2 if places else len(answer.token_ids), len(answer.token_ids))
        found.append(
            Hidden(
                later.stop - later.start,
                (int(changed[0][number, later].sum()), int(changed[1][number, later].sum())),
                (float(lost[0][number, later].sum()), float(lost[1][number, later].sum())),
            )
        )
    return found


def find_stops(tokenizer: object, token_ids: Sequence[int]) -> list[int]:
    """Return the token that ends each sentence of an answer, 0-based, in order.

    Left out are sentences of one token, and one with fewer than two tokens behind it.
    """
    text, spans = token_spans(tokenizer, token_ids)
    ends = [tokens_in_span(spans, end - 1, end)[-1] for end in sentence_ends(text)]
    starts = [0, *(end + 1 for end in ends)]
    return [end for start, end in zip(starts, ends, strict=False) if start < end < len(token_ids) - 2]


def draw_words(stops: Sequence[int], name: str) -> list[int]:
    """Draw a token before each full stop, and behind the one before it.

    Args:
        stops: 0-based tokens, in order.
        name: Seed of the draws.
    """
    rng = random.Random(name)
    return [rng.randrange(start, stop) for start, stop in zip([0, *(s + 1 for s in stops)], stops, strict=False)]


def stops_figure(captions: Sequence[Hidden], draws: Resampler) -> Figure:
    """Return how much more the full stops matter than other tokens.

    Args:
        captions: What hiding tokens does to each caption.
        draws: Bootstrap draws of the captions.

    Raises:
        UnmeasuredError: No caption has a second sentence.
    """
    tokens = np.array([caption.tokens for caption in captions], np.float64)
    if not tokens.sum():
        raise UnmeasuredError("no caption has a second sentence")
    changed = np.array([caption.changed for caption in captions], np.float64).T
    lost = np.array([caption.lost for caption in captions], np.float64).sum(axis=0) / tokens.sum()
    shares = changed.sum(axis=1) / tokens.sum()
    return Figure(
        "stops_used",
        MECHANISMS,
        "tokens that hidden full stops change",
        draws.estimate_of(excess, [*changed, tokens]),
        note=f"{shares[0]:.1%} of the tokens of later sentences without the full stops before them, {shares[1]:.1%} "
        f"without as many other tokens; log-probability lost {lost[0]:.3f} and {lost[1]:.3f} nats per token",
    )


def excess(one: Array, other: Array, under: Array) -> Array:
    """Return the difference of two ratios; 3 of 10 less 1 of 10 is 0.2."""
    difference: Array = ratio(one, under) - ratio(other, under)
    return difference


def _from_next(columns: Sequence[Sequence[int]], stops: Sequence[Sequence[int]]) -> list[list[tuple[int, int]]]:
    """Pair tokens with the one behind the full stop of their sentence."""
    return [
        [(column, stop + 1) for column, stop in zip(hidden, places, strict=True)]
        for hidden, places in zip(columns, stops, strict=True)
    ]
