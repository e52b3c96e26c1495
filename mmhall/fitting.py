"""Fit a strategy to a model on pairs of texts, and record the fit in an artifact."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import mmhall
from mmhall.analysis import check_room, read_answer, score_with
from mmhall.attention import Op
from mmhall.errors import FitError, OptionError
from mmhall.generation import Images, Prompt, make_request
from mmhall.models import chat_template, describe_model
from mmhall.results.statistics import Array, Resampler
from mmhall.strategies import (
    RECOMMENDED_PAIRS,
    STRATEGIES,
    LearnedStrategy,
    Pair,
    PairSet,
    ReadOutputs,
    Strategy,
    find_imbalance,
    strategy as make_strategy,
)
from mmhall.strategies.artifacts import Artifact
from mmhall.words import tokenize_answer

if TYPE_CHECKING:
    from mmhall.adapters import Adapter
    from mmhall.lvlm import LVLM

HELD_OUT = 5  # one in so many pairs is held out of the fit
_SCORED = 4  # pairs in a batch
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
    pairs, held_out = hold_out(pairs)
    if len(pairs.pairs) < RECOMMENDED_PAIRS:
        count = "1 pair is" if len(pairs.pairs) == 1 else f"{len(pairs.pairs)} pairs are"
        remarks.append(f"{count} few: what is found on less than {RECOMMENDED_PAIRS} may be chance.")
    with torch.inference_mode():
        tensors, numbers, chosen = method.fit(adapter, pairs.pairs, seed)
    method = replace(method, **chosen)
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
    artifact = Artifact(method.name, tensors, facts)
    if not held_out:
        return artifact
    return replace(artifact, facts={**facts, "held_out": score_held_out(adapter, method, artifact, held_out)})


def hold_out(pairs: PairSet) -> tuple[PairSet, tuple[Pair, ...]]:
    """Split off every fifth pair, on which a fit is tested; of fewer than five, none."""
    held_out = pairs.pairs[HELD_OUT - 1 :: HELD_OUT]
    rest = tuple(pair for number, pair in enumerate(pairs.pairs, 1) if number % HELD_OUT)
    return replace(pairs, pairs=rest), held_out


def score_held_out(adapter: Adapter, method: Strategy, artifact: Artifact, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Test a fitted strategy on pairs that its fit has not seen.

    The margin of a pair is the mean log-probability of the faithful text's tokens minus that of the hallucinated
    text's. A token that the strategy rules out counts as -100 nats.

    Args:
        adapter: The model.
        method: The strategy, with the options of the fit.
        artifact: Its artifact.
        pairs: The pairs.

    Returns:
        "pairs", their number and "ids"; the share of pairs with a margin above 0, "faithful", by the "plain" model,
        with the "strategy" and with its random "twin", if it has one; and the mean "change" of the margin from the
        plain model, with "low" and "high", the ends of its 95 % interval over pictures.
    """
    own = copy.copy(adapter)  # the model as it is, with this artifact
    own.artifacts = {**adapter.artifacts, artifact.strategy: artifact}
    ways = {"plain": make_strategy("greedy"), "strategy": method}
    if "twin" in method.options():
        ways["twin"] = replace(method, twin=1)  # type: ignore[call-arg]
    margins = {way: _margins(own, pairs, used) for way, used in ways.items()}
    resampler, count = Resampler([pair.id for pair in pairs]), np.ones(len(pairs))
    report: dict[str, Any] = {"pairs": len(pairs), "ids": [pair.id for pair in pairs]}
    for way, margin in margins.items():
        report[way] = {"faithful": float((margin > 0).mean())}
        if way != "plain":
            change = resampler.estimate(margin - margins["plain"], count)
            report[way] |= {"change": change.value, "low": change.low, "high": change.high}
    return report


def _margins(adapter: Adapter, pairs: Sequence[Pair], method: Strategy) -> Array:
    """Return by how many nats a token of each faithful text is likelier than one of the hallucinated text, (pairs,)."""
    means: list[float] = []
    for start in range(0, len(pairs), _SCORED):
        texts = [(pair, text) for pair in pairs[start : start + _SCORED] for text in (pair.faithful, pair.hallucinated)]
        inputs = adapter.inputs([make_request(pair.picture, pair.prompt) for pair, _ in texts])
        answers = [tokenize_answer(adapter.tokenizer, text) for _, text in texts]
        scores = score_with(adapter, inputs, answers, method)
        means += [float(np.maximum(tokens, _IMPOSSIBLE).mean()) for tokens in scores]
    faithful, hallucinated = np.array(means).reshape(-1, 2).T
    difference: Array = faithful - hallucinated
    return difference


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
