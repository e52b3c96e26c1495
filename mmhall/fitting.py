"""Fit a strategy to a model on pairs of texts, and record the fit in an artifact."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import torch
from torch import LongTensor, Tensor

import mmhall
from mmhall.analysis import check_room, read_answer
from mmhall.attention import Call, Columns, Op
from mmhall.errors import FitError, OptionError
from mmhall.generation import Images, Prompt, make_request
from mmhall.models import chat_template, describe_model
from mmhall.strategies import (
    RECOMMENDED_PAIRS,
    STRATEGIES,
    DifferingWords,
    LearnedStrategy,
    Pair,
    PairSet,
    ReadOutputs,
    Strategy,
    differing_words,
    find_imbalance,
    shuffled_range,
    strategy as make_strategy,
)
from mmhall.strategies.artifacts import Artifact
from mmhall.words import tokenize_answer

if TYPE_CHECKING:
    from mmhall.adapters import Adapter, Inputs
    from mmhall.lvlm import LVLM


def make_learner(strategy: str | Strategy) -> LearnedStrategy:
    """Build a strategy that can be fitted.

    Raises:
        OptionError: The strategy cannot be fitted, is a composition, or holds what is to be fitted.
        MmhallError: There is no such strategy, or an option is out of range.
    """
    method = make_strategy(strategy)
    if not isinstance(method, LearnedStrategy):
        installed = f"(installed: {', '.join(_learner_names()) or 'none, see docs/fitting.md'})"
        raise OptionError(
            "fit", "strategy", str(method), f"a single strategy that learns from pairs of texts {installed}"
        )
    if method.artifact is not None:
        raise OptionError("fit", "strategy", str(method), "written without artifact=..., which is made here")
    return method.for_fit()


def _learner_names() -> list[str]:
    """Return the names of the strategies that can be fitted."""
    strategies = STRATEGIES
    return [name for name in strategies.names() if issubclass(strategies.load(name), LearnedStrategy)]


def fit(lvlm: LVLM, strategy: str | Strategy, pairs: PairSet, seed: int = 0) -> Artifact:
    """Fit a strategy to a model.

    Args:
        lvlm: The model.
        strategy: As in `LVLM.generate`; a `LearnedStrategy`.
        pairs: The pairs to learn from.
        seed: Seed of random draws.

    Raises:
        OptionError: The strategy cannot be fitted.
        FitError: Nothing can be learned from the pairs, or a number of the fit cannot be written as JSON.
        MmhallError: The model does not support the strategy, or a picture or text is unusable.
    """
    adapter = lvlm.adapter
    method = Strategy.fitted(make_learner(strategy), adapter)  # without an artifact fitted before
    assert isinstance(method, LearnedStrategy)
    remarks = [*pairs.remarks, *find_imbalance(pairs, adapter.tokenizer)]
    if len(pairs.pairs) < RECOMMENDED_PAIRS:
        count = "1 pair is" if len(pairs.pairs) == 1 else f"{len(pairs.pairs)} pairs are"
        remarks.append(f"{count} few: what is found on less than {RECOMMENDED_PAIRS} may be chance.")
    with torch.inference_mode():
        tensors, numbers, chosen = method.fit(adapter, pairs.pairs, seed)
    facts = {
        "options": str(method),
        "chosen": dict(chosen),
        "model": {
            **describe_model(adapter, lvlm.identity()),
            "chat_template": chat_template(adapter),
            "processor": lvlm.loading.get("processor", {}),
        },
        "data": pairs.record(),
        "seed": seed,
        "date": str(datetime.now(timezone.utc).date()),
        "mmhall": mmhall.__version__,
        "numbers": {key: _writable(method.name, key, value) for key, value in numbers.items()},
        "remarks": remarks,
    }
    return Artifact(method.name, tensors, facts)


def _writable(strategy: str, key: str, value: Any) -> Any:
    """Return a number of a fit as JSON reads it back.

    Raises:
        FitError: JSON cannot write it.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise FitError(
            f"{strategy}: its number {key!r} cannot be written as JSON ({error}); return finite numbers, texts, lists "
            "and mappings from `fit`"
        ) from error


def read_text(adapter: Adapter, image: Images, prompt: Prompt, text: str, ops: Sequence[Op]) -> int:
    """Read a prompt and an answer in one pass, with ops.

    Args:
        adapter: The model.
        image: As in `LVLM.generate`.
        prompt: As in `LVLM.generate`.
        text: The answer.
        ops: Ops that read the pass.

    Returns:
        Number of tokens of the answer: the last rows of the pass.

    Raises:
        PromptError: Prompt or text are unusable, or too long together.
        ImageError: The picture is unusable.
    """
    inputs = adapter.inputs([make_request(image, prompt)])
    ids = tokenize_answer(adapter.tokenizer, text)
    check_room(adapter, inputs, len(ids))
    read_ids(adapter, inputs, ids, ops)
    return len(ids)


def read_states(adapter: Adapter, image: Images, prompt: Prompt, text: str, rows: str = "last") -> Tensor:
    """Read a prompt and an answer, and return the outputs of all layers, (layers, D) float32.

    Args:
        adapter: The model.
        image: As in `LVLM.generate`; None: without a picture.
        prompt: As in `LVLM.generate`.
        text: The answer.
        rows: "last": the last token of the answer; "text": the mean over its tokens; "all": over prompt and answer.
            Layers that share the keys of earlier layers may read only the newest row.

    Raises:
        MmhallError: As in `read_text`.
    """
    width = len(tokenize_answer(adapter.tokenizer, text))
    outputs = ReadOutputs({"last": 1, "text": width, "all": None}[rows])
    read_text(adapter, image, prompt, text, [outputs])
    return outputs.states(len(adapter.layers))[:, 0]


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
    read_ids(adapter, inputs, text.ids, [masses])
    attention = torch.zeros(len(text.words), len(adapter.layers), adapter.heads)
    for layer, values in masses.sums.items():
        attention[:, layer] = values.cpu()
    return attention


def read_ids(adapter: Adapter, inputs: Inputs, ids: Sequence[int], ops: Sequence[Op]) -> None:
    """Read one prompt and an answer in one pass, with ops that read it.

    Args:
        adapter: The model.
        inputs: The prompt.
        ids: Tokens of the answer.
        ops: Ops that read the pass; the answer is its last rows.
    """
    tokens = torch.tensor([list(ids)], device=inputs["input_ids"].device)
    read_answer(adapter, adapter.append_answer(inputs, tokens), len(ids), ops)
