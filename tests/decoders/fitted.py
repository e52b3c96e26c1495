"""Artifacts of every strategy that is fitted to a model, for the tiny random models: fitted once for each model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mmhall.adapters import Adapter
from mmhall.attention import SELF_ATTENTION
from mmhall.decoders import STRATEGIES
from mmhall.strategies import LearnedStrategy, Pair, Question, Strategy, strategy, usable_heads
from mmhall.strategies.artifacts import Artifact
from tests.generation.reference import REQUESTS

SEED = 28  # none of its shuffles of 4 to 8 labels leaves all as they are
FITTED = {"revis": "revis(layer='1')", "sig": "sig(each=False)"}
"""Options of a fit, by strategy, where its defaults do not suit models that are random or have three layers."""

HEADS = {"act": (("gains", 0),), "zerotuning": (("up", 0), ("down", 1))}
"""Tensors of strategies whose fits ask questions for each head, and which half of the heads gains: 0, 2, .. or 1, 3, ..

Their own tests fit them: in a random model it may be that no head gains.
"""

ALIKE = {"adaiat", "adhh", "allpath"}
"""Strategies whose fits read single words: what these do in a random model depends on all that stands before them."""


def made_pairs(count: int = 6, *, alike: bool = False) -> list[Pair]:
    """Texts that always differ in the same way, so that a random model, too, tells them apart.

    Args:
        count: Number of pairs.
        alike: Whether all pairs are the same.
    """
    pictures = [request.images[0] for request in REQUESTS[: 1 if alike else None]]
    texts = [f"In picture {0 if alike else number} there is a {{}}" for number in range(count)]
    return [
        Pair(str(number), pictures[number % len(pictures)], "Describe it.", text.format("dog"), text.format("cat"))
        for number, text in enumerate(texts)
    ]


def made_questions(count: int = 6) -> list[Question]:
    """Questions about the same pictures; yes is right for every second one."""
    pictures = [request.images[0] for request in REQUESTS]
    return [
        Question(str(number), pictures[number % len(pictures)], f"Are there {number} dogs?", number % 2 == 0)
        for number in range(count)
    ]


def learners() -> list[str]:
    """Names of the registered strategies that are fitted."""
    return [name for name in STRATEGIES.names() if issubclass(STRATEGIES.load(name), LearnedStrategy)]


def fitted_artifact(adapter: Adapter, spec: str, seed: int = SEED) -> Artifact:
    """Fit a strategy to a model on `made_pairs` or `made_questions`."""
    method = Strategy.fitted(strategy(spec), adapter)
    asks = method.learns_from == "questions"
    samples = made_questions() if asks else made_pairs(alike=method.name in ALIKE)
    with torch.inference_mode():
        tensors, numbers, chosen = method.fit(adapter, samples, seed)
    return made_artifact(method, tensors, seed=seed, numbers=numbers, chosen=chosen)


def artifact_of_heads(adapter: Adapter, name: str) -> Artifact:
    """Make the artifact of a strategy of `HEADS`: every second head gains."""
    among = usable_heads(adapter, SELF_ATTENTION, whole=True)
    odd = torch.arange(adapter.heads) % 2
    tensors = {tensor: torch.where(odd == half, 1.0, -1.0) * among for tensor, half in HEADS[name]}
    method = Strategy.fitted(strategy(name), adapter)
    return made_artifact(method, tensors, chosen={"rate": 2.0} if name == "zerotuning" else {})


def made_artifact(method: Strategy, tensors: Mapping[str, Tensor], **facts: Any) -> Artifact:
    """Make an artifact from the tensors of a fit."""
    data = {"source": "made pairs", "digest": "0" * 16, "pairs": 6}
    return Artifact(method.name, tensors, {"options": str(method), "data": data, "seed": SEED, **facts})


def with_blank_artifacts(adapter: Adapter) -> Adapter:
    """Give a model artifacts that hold nothing, for tests that look at options only."""
    methods = map(strategy, learners())
    adapter.artifacts = {method.name: made_artifact(method, {"nothing": torch.zeros(1)}) for method in methods}
    return adapter


def with_artifacts(adapter: Adapter) -> Adapter:
    """Fit every registered strategy that the model can carry, once, and give the model the artifacts."""
    adapter.artifacts = dict(_artifacts(adapter))
    return adapter


@cache
def _artifacts(adapter: Adapter) -> Mapping[str, Artifact]:
    methods = {name: strategy(FITTED.get(name, name)) for name in learners()}
    carried = {name: str(method) for name, method in methods.items() if method.refusal(adapter) is None}
    return {
        name: artifact_of_heads(adapter, name) if name in HEADS else fitted_artifact(adapter, spec)
        for name, spec in carried.items()
    }
