"""Fit a strategy: let it learn from pairs of texts, and say in an artifact how that was done."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import torch

import mmhall
from mmhall.artifacts import Artifact
from mmhall.attention import Op
from mmhall.errors import OptionError
from mmhall.generation.reading import check_room, read_answer
from mmhall.learned import LearnedStrategy
from mmhall.model_facts import chat_template, described
from mmhall.pairs import USUAL, PairSet, uneven
from mmhall.requests import Images, Prompt, make_request
from mmhall.strategies import Strategy
from mmhall.strategies import strategy as make_strategy
from mmhall.words import text_tokens

if TYPE_CHECKING:
    from mmhall.adapters.base import Adapter
    from mmhall.lvlm import LVLM


def learner(strategy: str | Strategy) -> LearnedStrategy:
    """Build a strategy that can be fitted.

    Raises:
        OptionError: It learns nothing, or is of several parts, or names an artifact already.
        MmhallError: It does not exist, or an option is out of range.
    """
    method = make_strategy(strategy)
    if not isinstance(method, LearnedStrategy):
        raise OptionError("fit", "strategy", str(method), "a single strategy that learns from pairs of texts")
    if method.artifact is not None:
        raise OptionError("fit", "strategy", str(method), "written without artifact=..., which is made here")
    return method


def fit(lvlm: LVLM, strategy: str | Strategy, pairs: PairSet, seed: int = 0) -> Artifact:
    """Fit a strategy to a model.

    Args:
        lvlm: The model.
        strategy: As in `LVLM.generate`; one that learns.
        pairs: What to learn from.
        seed: Of whatever is drawn.

    Raises:
        OptionError: It learns nothing.
        FitError: The pairs show nothing to learn.
        MmhallError: The model cannot carry the strategy, or a picture or text is unusable.
    """
    adapter = lvlm.adapter
    method = Strategy.fitted(learner(strategy), adapter)  # whatever was fitted before
    assert isinstance(method, LearnedStrategy)
    remarks = [*pairs.remarks, *uneven(pairs, adapter.tokenizer)]
    if len(pairs.pairs) < USUAL:
        remarks.append(f"{len(pairs.pairs)} pairs are few: what is found on less than {USUAL} may be chance.")
    with torch.inference_mode():
        tensors, numbers = method.fit(adapter, pairs.pairs, seed)
    facts = {
        "options": str(method),
        "model": {
            **described(adapter, lvlm.identity()),
            "chat_template": chat_template(adapter),
            "processor": lvlm.loading.get("processor", {}),
        },
        "data": pairs.record(),
        "seed": seed,
        "date": str(datetime.now(timezone.utc).date()),
        "mmhall": mmhall.__version__,
        "numbers": dict(numbers),
        "remarks": remarks,
    }
    return Artifact(method.name, tensors, facts)


def read_text(adapter: Adapter, image: Images, prompt: Prompt, text: str, ops: Sequence[Op]) -> int:
    """Read a prompt and a text as its answer in one pass, ops watching.

    Args:
        adapter: The model.
        image: As in `LVLM.generate`.
        prompt: As in `LVLM.generate`.
        text: What is taken for the answer.
        ops: What to see on the way.

    Returns:
        How many tokens the text has: the last rows of the pass.

    Raises:
        PromptError: Prompt or text are unusable, or too long together.
        ImageError: The picture is.
    """
    inputs = adapter.inputs([make_request(image, prompt)])
    tokens = torch.tensor([text_tokens(adapter.tokenizer, text)], device=inputs["input_ids"].device)
    width = tokens.shape[1]
    check_room(adapter, inputs, width)
    read_answer(adapter, adapter.extended(inputs, tokens), width, ops)
    return width
