"""Fit a strategy to a model on pairs of texts or on questions, and record the fit in an artifact."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import torch

import mmhall
from mmhall.analysis import check_room, read_answer
from mmhall.attention import Op
from mmhall.errors import FitError, OptionError
from mmhall.generation import Images, Prompt, make_request
from mmhall.models import chat_template, describe_model
from mmhall.strategies import (
    STRATEGIES,
    LearnedStrategy,
    PairSet,
    QuestionSet,
    Strategy,
    strategy as make_strategy,
)
from mmhall.strategies.artifacts import Artifact
from mmhall.words import tokenize_answer

if TYPE_CHECKING:
    from mmhall.adapters import Adapter
    from mmhall.lvlm import LVLM


def make_learner(strategy: str | Strategy) -> LearnedStrategy:
    """Build a strategy that can be fitted.

    Raises:
        OptionError: The strategy cannot be fitted, is a composition, or names an artifact already.
        MmhallError: There is no such strategy, or an option is out of range.
    """
    method = make_strategy(strategy)
    if not isinstance(method, LearnedStrategy):
        installed = f"(installed: {', '.join(_learner_names()) or 'none, see docs/fitting.md'})"
        raise OptionError("fit", "strategy", str(method), f"a single strategy that learns from data {installed}")
    if method.artifact is not None:
        raise OptionError("fit", "strategy", str(method), "written without artifact=..., which is made here")
    return method


def _learner_names() -> list[str]:
    """Return the names of the strategies that can be fitted."""
    strategies = STRATEGIES
    return [name for name in strategies.names() if issubclass(strategies.load(name), LearnedStrategy)]


def fit(lvlm: LVLM, strategy: str | Strategy, pairs: PairSet | QuestionSet, seed: int = 0) -> Artifact:
    """Fit a strategy to a model.

    Args:
        lvlm: The model.
        strategy: As in `LVLM.generate`; a `LearnedStrategy`.
        pairs: The pairs or questions to learn from, as the strategy's `learns_from` names them.
        seed: Seed of random draws.

    Raises:
        OptionError: The strategy cannot be fitted, or not on such data.
        FitError: Nothing can be learned from the data, or a number of the fit cannot be written as JSON.
        MmhallError: The model does not support the strategy, or a picture or text is unusable.
    """
    adapter = lvlm.adapter
    method = Strategy.fitted(make_learner(strategy), adapter)  # without an artifact fitted before
    assert isinstance(method, LearnedStrategy)
    if pairs.unit != method.learns_from:
        raise OptionError("fit", "pairs", pairs.unit, f"{method.learns_from}, from which {method.name} learns")
    remarks = [*pairs.remarks, *pairs.find_imbalance(adapter.tokenizer)]
    if len(pairs.samples) < pairs.recommended:
        few = f"1 {pairs.unit[:-1]} is" if len(pairs.samples) == 1 else f"{len(pairs.samples)} {pairs.unit} are"
        remarks.append(f"{few} few: what is found on less than {pairs.recommended} may be chance.")
    with torch.inference_mode():
        tensors, numbers = method.fit(adapter, pairs.samples, seed)
    facts = {
        "options": str(method),
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
    tokens = torch.tensor([tokenize_answer(adapter.tokenizer, text)], device=inputs["input_ids"].device)
    width = tokens.shape[1]
    check_room(adapter, inputs, width)
    read_answer(adapter, adapter.append_answer(inputs, tokens), width, ops)
    return width
