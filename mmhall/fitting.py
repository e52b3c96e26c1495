"""Fit a strategy to a model on pairs of texts or on questions, and record the fit in an artifact."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

import mmhall
from mmhall.analysis import check_room, first_answers, read_answer, score_with
from mmhall.attention import Op
from mmhall.errors import FitError, OptionError
from mmhall.generation import Images, Prompt, make_request
from mmhall.models import chat_template, describe_model
from mmhall.results.statistics import Array, Resampler, ratio
from mmhall.strategies import (
    STRATEGIES,
    LearnedStrategy,
    Pair,
    PairSet,
    Question,
    QuestionSet,
    ReadOutputs,
    Strategy,
    strategy as make_strategy,
)
from mmhall.strategies.artifacts import Artifact
from mmhall.words import tokenize_answer

if TYPE_CHECKING:
    from mmhall.adapters import Adapter
    from mmhall.lvlm import LVLM

Data: TypeAlias = "PairSet | QuestionSet"
Samples: TypeAlias = "Sequence[Pair] | Sequence[Question]"
HELD_OUT = 5  # one in so many samples is held out of the fit
_SCORED = 4  # samples in a batch
_IMPOSSIBLE = -100.0  # nats, of a token that a strategy rules out


def make_learner(strategy: str | Strategy) -> LearnedStrategy:
    """Build a strategy that can be fitted.

    Raises:
        OptionError: The strategy cannot be fitted, is a composition, or holds what is to be fitted.
        MmhallError: There is no such strategy, or an option is out of range.
    """
    method = make_strategy(strategy)
    if not isinstance(method, LearnedStrategy):
        installed = f"(installed: {', '.join(_learner_names()) or 'none, see docs/fitting.md'})"
        raise OptionError("fit", "strategy", str(method), f"a single strategy that learns from data {installed}")
    if method.artifact is not None:
        raise OptionError("fit", "strategy", str(method), "written without artifact=..., which is made here")
    return method.for_fit()


def _learner_names() -> list[str]:
    """Return the names of the strategies that can be fitted."""
    strategies = STRATEGIES
    return [name for name in strategies.names() if issubclass(strategies.load(name), LearnedStrategy)]


def fit(lvlm: LVLM, strategy: str | Strategy, data: Data, seed: int = 0) -> Artifact:
    """Fit a strategy to a model.

    Args:
        lvlm: The model.
        strategy: As in `LVLM.generate`; a `LearnedStrategy`.
        data: The pairs or questions to learn from, as the strategy's `learns_from` names them. Every fifth is held out,
            and the fit is tested on it.
        seed: Seed of random draws.

    Raises:
        OptionError: The strategy cannot be fitted, or not on such data.
        FitError: Nothing can be learned from the data, or a number of the fit cannot be written as JSON.
        MmhallError: The model does not support the strategy, or a picture or text is unusable.
    """
    adapter = lvlm.adapter
    method = Strategy.fitted(make_learner(strategy), adapter)  # without an artifact fitted before
    assert isinstance(method, LearnedStrategy)
    if data.unit != method.learns_from:
        raise OptionError("fit", "data", data.unit, f"{method.learns_from}, from which {method.name} learns")
    remarks = [*data.remarks, *data.find_imbalance(adapter.tokenizer)]
    data, held_out = hold_out(data)
    if len(data.samples) < data.recommended:
        few = f"1 {data.unit[:-1]} is" if len(data.samples) == 1 else f"{len(data.samples)} {data.unit} are"
        remarks.append(f"{few} few: what is found on less than {data.recommended} may be chance.")
    with torch.inference_mode():
        tensors, numbers, chosen = method.fit(adapter, data.samples, seed)
    method = replace(method, **chosen)
    facts = {
        "options": str(method),
        "chosen": dict(chosen),
        "model": {
            **describe_model(adapter, lvlm.identity()),
            "chat_template": chat_template(adapter),
            "processor": lvlm.loading.get("processor", {}),
        },
        "data": data.record(),
        "seed": seed,
        "date": str(datetime.now(timezone.utc).date()),
        "mmhall": mmhall.__version__,
        "numbers": {key: _writable(method.name, key, value) for key, value in numbers.items()},
        "remarks": remarks,
    }
    artifact = Artifact(method.name, tensors, facts)
    if not held_out:
        return artifact
    return replace(artifact, facts={**facts, "held_out": score_held_out(adapter, method, artifact, held_out)})


def hold_out(data: Data) -> tuple[Data, Samples]:
    """Split off every fifth sample, on which a fit is tested; of fewer than five, none."""
    rest = tuple(sample for number, sample in enumerate(data.samples, 1) if number % HELD_OUT)
    split: dict[str, Any] = {data.unit: rest}
    return replace(data, **split), data.samples[HELD_OUT - 1 :: HELD_OUT]


def score_held_out(adapter: Adapter, method: Strategy, artifact: Artifact, samples: Samples) -> dict[str, Any]:
    """Test a fitted strategy on pairs or questions that its fit has not seen.

    The margin of a pair is the mean log-probability of the faithful text's tokens minus that of the hallucinated
    text's; of a question, the log-odds of the right answer against the other. A token that the strategy rules out
    counts as -100 nats.

    Args:
        adapter: The model.
        method: The strategy, with the options of the fit.
        artifact: Its artifact.
        samples: The pairs or questions.

    Returns:
        "samples", their number and "ids"; the share of samples with a margin above 0, "right", by the "plain" model,
        with the "strategy" and with its random "twin", if it has one; and the mean "change" of the margin from the
        plain model, with "low" and "high", the ends of its 95 % interval over pictures.
    """
    own = copy.copy(adapter)  # the model as it is, with this artifact
    own.artifacts = {**adapter.artifacts, artifact.strategy: artifact}
    ways = {"plain": make_strategy("greedy"), "strategy": method}
    if "twin" in method.options():
        ways["twin"] = replace(method, twin=1)  # type: ignore[call-arg]
    margins = {way: _margins(own, samples, used) for way, used in ways.items()}
    resampler, count = Resampler([sample.id for sample in samples]), np.ones(len(samples))
    report: dict[str, Any] = {"samples": len(samples), "ids": [sample.id for sample in samples]}
    for way, margin in margins.items():
        report[way] = {"right": float((margin > 0).mean())}
        if way != "plain":
            change = resampler.estimate_of(ratio, [margin - margins["plain"], count])
            report[way] |= {"change": change.value, "low": change.low, "high": change.high}
    return report


def _margins(adapter: Adapter, samples: Samples, method: Strategy) -> Array:
    """Return by how many nats the right text or answer is likelier than the other, (samples,)."""
    margins: list[float] = []
    for start in range(0, len(samples), _SCORED):
        part = samples[start : start + _SCORED]
        pairs = [sample for sample in part if isinstance(sample, Pair)]
        questions = [sample for sample in part if isinstance(sample, Question)]
        if pairs:
            margins += _pair_margins(adapter, pairs, method)
        else:
            margins += first_answers(adapter, questions, [method], _IMPOSSIBLE).margins[0].tolist()
    return np.array(margins)


def _pair_margins(adapter: Adapter, pairs: Sequence[Pair], method: Strategy) -> list[float]:
    texts = [(pair, text) for pair in pairs for text in (pair.faithful, pair.hallucinated)]
    inputs = adapter.inputs([make_request(pair.picture, pair.prompt) for pair, _ in texts])
    answers = [tokenize_answer(adapter.tokenizer, text) for _, text in texts]
    scores = score_with(adapter, inputs, answers, method)
    means = [float(np.maximum(tokens, _IMPOSSIBLE).mean()) for tokens in scores]
    return [faithful - hallucinated for faithful, hallucinated in zip(means[::2], means[1::2], strict=True)]


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
    tokens = torch.tensor([tokenize_answer(adapter.tokenizer, text)], device=inputs["input_ids"].device)
    width = tokens.shape[1]
    check_room(adapter, inputs, width)
    read_answer(adapter, adapter.append_answer(inputs, tokens), width, ops)
    return width


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
