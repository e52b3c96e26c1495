"""Values of a model at the words in which the two texts of pairs differ: true and hallucinated objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter, Inputs
from mmhall.analysis._teacher_forcing import check_room, read_answer
from mmhall.attention import Call, Columns, Op
from mmhall.errors import FitError
from mmhall.generation import make_request
from mmhall.strategies import DifferingWords, Pair, differing_words, shuffled_range


@dataclass(frozen=True)
class WordValues:
    """Values measured at the words in which the texts of pairs differ.

    Attributes:
        faithful: At words of faithful texts, which name true objects, (words, ...) float32.
        hallucinated: At words of hallucinated texts, (words, ...).
        differences: Mean of each pair's faithful words minus that of its hallucinated ones, (pairs, ...).
    """

    faithful: Tensor
    hallucinated: Tensor
    differences: Tensor

    def difference(self) -> Tensor:
        """Return the mean over all hallucinated words minus that over all faithful ones."""
        return self.hallucinated.mean(dim=0) - self.faithful.mean(dim=0)

    def check(self, what: str, seed: int) -> dict[str, Any]:
        """Check that the two kinds of words differ by more than chance; return the numbers of the test.

        Args:
            what: What was measured, for the message.
            seed: Seed of the exchanged labels.

        Raises:
            FitError: With labels exchanged at random the mean difference is as large.
        """
        test = shuffled_range(self.differences, seed)
        if not test.outside:
            raise FitError(
                f"{what} does not tell true from hallucinated words: the mean difference has norm {test.norm:.4g}, and "
                f"with shuffled labels up to {test.high:.4g}; give more pairs, or texts that differ more"
            )
        return {**test.record(), "true words": len(self.faithful), "hallucinated words": len(self.hallucinated)}


def measure_words(
    adapter: Adapter, pairs: Sequence[Pair], measure: Callable[[Inputs, DifferingWords], Tensor]
) -> WordValues:
    """Measure something at the words in which the two texts of each pair differ.

    Args:
        adapter: The model.
        pairs: The pairs; those whose texts differ in no content word are left out.
        measure: Takes the prompt of a pair and one of its texts; returns a value for each of its words, (words, ...).

    Raises:
        FitError: No pair is left.
    """
    values: list[tuple[Tensor, Tensor]] = []
    for pair in pairs:
        texts = differing_words(pair, adapter.tokenizer)
        if not all(text.words for text in texts):
            continue
        inputs = adapter.inputs([make_request(pair.picture, pair.prompt)])
        check_room(adapter, inputs, max(len(text.ids) for text in texts))
        faithful, hallucinated = (measure(inputs, text).float().cpu() for text in texts)
        values.append((faithful, hallucinated))
    if not values:
        raise FitError("the texts of no pair differ in a content word after the first; give texts that name objects")
    faithful, hallucinated = (torch.cat(parts) for parts in zip(*values, strict=True))
    differences = torch.stack([one.mean(dim=0) - other.mean(dim=0) for one, other in values])
    return WordValues(faithful, hallucinated, differences)


class _Masses(Op):
    """Sums the attention of some rows to some columns in every layer of one prompt."""

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        self._rows, self._columns = rows, Columns(columns[None].float())
        self.sums: dict[int, Tensor] = {}

    def rows(self, call: Call) -> LongTensor:
        return call.rows_at(self._rows)

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        if len(rows) == len(self._rows):
            self.sums[call.layer] = (probs * self._columns(call)).sum(dim=-1)[0].T


def word_attention(adapter: Adapter, inputs: Inputs, text: DifferingWords, columns: Tensor) -> Tensor:
    """Return the attention of each word's last token to some columns, (words, layers, heads) float32.

    It is 0 in layers without self-attention, and in those that read only the newest row of a prompt.

    Args:
        adapter: The model.
        inputs: The prompt.
        text: A text of a pair.
        columns: The columns, (prompt and text,) bool.
    """
    length = inputs["input_ids"].shape[1]
    masses = _Masses(torch.tensor([length + word.tokens[-1] for word in text.words]), columns)
    tokens = torch.tensor([text.ids], device=inputs["input_ids"].device)
    read_answer(adapter, adapter.append_answer(inputs, tokens), len(text.ids), [masses])
    attention = torch.zeros(len(text.words), len(adapter.layers), adapter.heads)
    for layer, values in masses.sums.items():
        attention[:, layer] = values.cpu()
    return attention
