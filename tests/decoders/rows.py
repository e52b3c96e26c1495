"""VAR, PAI and VAF written out, one weight at a time; and models that read a single prompt eagerly by these formulas.

Nothing is cached or batched: a prompt and its answer are read as one sequence with full attention maps. A row is edited
because of where it stands (behind the picture, at the end of the prompt or in the answer), so that one reading holds
every step of decoding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import mmhall
from mmhall.adapters import adapter_for
from mmhall.adapters._base import Adapter, Inputs, Request
from mmhall.generation._settings import Settings
from mmhall.strategies import Session
from mmhall.strategies._step import Step
from tests.attention.reference import Eager
from tests.generation.reference import FAMILIES, REQUESTS, built
from tests.jobs import opened, prepared, run

IN_SEQUENCE = tuple(name for name in FAMILIES if name != "mllama")
SINKS = "sink_dims=(3, 7), tau=1.3, mass=0.05, rho=0.35"  # random models have no massive dimensions: any two do
NEW = 4
UNSEEN = -1e30  # masked scores are below
UNSAID = -1e3  # tokens that `built` keeps out of answers are below


class Reader:
    """A copy of a model that reads one prompt with its answer, eagerly.

    Attributes:
        image: Image positions.
        length: Tokens of the prompt.
        states: What entered each layer, (T, hidden size).
        chosen: Layer, head and row of each edit that `var` has made.
        passed: Those it has passed over in layers with sinks.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter, self.eager = adapter, Eager(adapter)
        self.image, self.length = list[int](), 0
        self.states = dict[int, Tensor]()
        self.chosen, self.passed = list[tuple[int, int, int]](), list[tuple[int, int, int]]()
        layers = {}
        for part in self.eager.model.modules():
            if hasattr(part, "eager"):
                layers.setdefault(part.eager[1], part)  # a layer comes before its parts
        for index, layer in layers.items():
            layer.register_forward_pre_hook(partial(self._note, index), with_kwargs=True)

    def logits(self, inputs: Inputs, answer: Sequence[int] = (), **edits: Callable[..., Tensor]) -> Tensor:
        """Return what is predicted at the end of the prompt and at each token of the answer, (1 + answer, V)."""
        self.begin(inputs)
        longer = self.adapter.append_answer(inputs, torch.tensor([list(answer)], dtype=torch.long))
        return self.read(longer, edits)[0, self.length - 1 :].float()

    def begin(self, inputs: Inputs) -> None:
        """Take a single prompt, on which rows and columns depend from now on."""
        assert len(inputs["input_ids"]) == 1
        assert inputs["attention_mask"].all()
        self.image = self.adapter.image_mask(inputs["input_ids"])[0].nonzero()[:, 0].tolist()
        self.length = inputs["input_ids"].shape[1]

    def read(self, longer: Inputs, edits: dict[str, Callable[..., Tensor]]) -> Tensor:
        """Return the logits of every position of the prompt with an answer behind it, (1, T, V)."""
        bound = {what: partial(edit, self) for what, edit in edits.items()}
        return self.eager.logits({**longer, "use_cache": False}, **bound)

    def behind(self, tensor: Tensor) -> range:
        """Rows after the last image position, those of the answer included."""
        return range(self.image[-1] + 1, tensor.shape[2])

    def _note(self, index, layer, args, kwargs):
        (self.states[index],) = args[0] if args else kwargs["hidden_states"]


class Instead:
    """Stands in for an adapter in the naive searches: whatever has a picture is read by a reader with edits."""

    def __init__(self, reader: Reader, inputs: Inputs, **edits: Callable[..., Tensor]) -> None:
        reader.begin(inputs)
        self.generator, self.append_answer = reader.adapter.generator, reader.adapter.append_answer
        self._reader, self._edits = reader, edits

    def model_for(self, longer: Inputs) -> Callable[..., Any]:
        if "pixel_values" not in longer:
            return self._reader.adapter.model_for(longer)
        return lambda **_: SimpleNamespace(logits=self._reader.read(longer, self._edits))


def massive(states: Tensor, dims: Sequence[int]) -> Tensor:
    """The largest of some dimensions in units of the root mean square, (T, hidden size) to (T,)."""
    size = ((states**2).mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    return (states / size)[:, list(dims)].abs().max(dim=-1).values


def var(reader, layer, probs, *, layers, keep=0.4, rho=0.35, mass=0.05, tau=1.3, dims=(3, 7), rows="all"):
    """Sinks keep a share of their weight; the rest of it goes to the other image columns, by what they have."""
    if layer not in layers:
        return probs
    found = massive(reader.states[layer][: reader.length], dims) >= tau
    sinks = found.nonzero()[:, 0].tolist()
    rest = [k for k in reader.image if k not in sinks]
    if len(rest) in (0, len(reader.image)):
        return probs
    edited = probs.clone()
    every = reader.behind(probs) if rows == "all" else range(reader.length - 1, probs.shape[2])
    for head, row in product(range(probs.shape[1]), every):
        weights = probs[0, head, row]
        picture, others = weights[reader.image].sum(), weights[rest].sum()
        if picture < mass or others == 0 or others / picture < rho:
            reader.passed.append((layer, head, row))
            continue
        reader.chosen.append((layer, head, row))
        edited[0, head, row, sinks] = keep * weights[sinks]
        edited[0, head, row, rest] = weights[rest] + (1 - keep) * weights[sinks].sum() * weights[rest] / others
    return edited


def pai(reader, layer, scores, *, layers, alpha=0.5):
    """The newest row's scores of image columns grow by a share of their size."""
    if layer not in layers:
        return scores
    edited = scores.clone()
    for head, row in product(range(scores.shape[1]), range(reader.length - 1, scores.shape[2])):
        own = scores[0, head, row, reader.image]
        edited[0, head, row, reader.image] = torch.where(own > UNSEEN, own + alpha * own.abs(), own)
    return edited


def guided(main: Tensor, other: Tensor, gamma: float, beta: float = 0.1) -> Tensor:
    """PAI's scores of one step, (V,), from logits with and without the picture."""
    main, other = main.log_softmax(-1), other.log_softmax(-1)
    if gamma == 1:
        return main
    scores = gamma * (main - other) + other
    cut = main.max() + (math.log(beta) if beta else -math.inf)
    return torch.where(main < cut, -math.inf, scores)


def vaf(reader, layer, scores, *, layers, alpha=0.15, beta=0.05, heads="all"):
    """Behind the picture, scores of its columns are multiplied, and those of the columns before it."""
    if layer not in layers:
        return scores
    edited, probs = scores.clone(), scores.softmax(-1)
    for row in reader.behind(scores):
        shares = probs[0, :, row, reader.image].sum(-1).tolist()
        best = sorted(range(len(shares)), key=lambda head: -shares[head])[: len(shares) // 2]
        for head in range(len(shares)) if heads == "all" else best:
            for columns, gain in ((reader.image, 1 + alpha), (list(range(reader.image[0])), 1 - beta)):
                own = scores[0, head, row, columns]
                edited[0, head, row, columns] = torch.where(own > UNSEEN, gain * own, own)
    return edited


@cache
def family(name: str) -> tuple[Adapter, Reader]:
    """A family's model, which never ends an answer, and the copy that reads eagerly."""
    adapter = adapter_for(*built(name))
    return adapter, Reader(adapter)


@cache
def halved() -> Adapter:
    """The model of the first family in bfloat16."""
    model, processor = built("llava")
    return adapter_for(model.to(torch.bfloat16), processor)


def check_half(active: str, neutral: str, artifacts: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Check that a strategy decodes in bfloat16, and that neutral options say what greedy says."""
    adapter = halved()
    adapter.artifacts = artifacts
    batch = adapter.inputs(REQUESTS[:2])
    plain = written(adapter, batch, "greedy")
    assert torch.equal(written(adapter, batch, neutral), plain)
    inputs, session = prepared(adapter, batch, mmhall.strategy(active))
    steered, usual = scored(adapter, inputs, session, plain), scored(adapter, batch, Session(), plain)
    assert not steered.isnan().any()
    assert steered.amax(dim=-1).isfinite().all()
    assert not torch.equal(steered, usual)


def check_candidates(spec: str) -> None:
    """Check that a search goes on from one of several tokens read side by side as if it had read no other."""
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[:2])
    session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch)
    config = Settings(max_new_tokens=NEW).resolved(adapter.generator)
    with torch.inference_mode():
        _, rows = opened(adapter, batch, replace(session, search=lambda decoding: None), config)
        tokens, chosen = rows.scores().topk(3).indices, torch.tensor([2, 1])
        alone = rows.taken(torch.arange(2))
        alone.step(tokens[torch.arange(2), chosen])
        rows.split(tokens)
        rows.keep(torch.arange(2), chosen)
        torch.testing.assert_close(rows.scores(), alone.scores(), rtol=1e-5, atol=1e-4)


def written(adapter: Adapter, inputs: Inputs, spec: str) -> Tensor:
    """What mmhall writes, (B, NEW)."""
    return run(adapter, inputs, mmhall.strategy(spec), Settings(max_new_tokens=NEW).resolved(adapter.generator), 0)


def scored(adapter: Adapter, inputs: Inputs, session: Session, answers: Tensor) -> Tensor:
    """The scores from which mmhall chooses each token of given answers, (B, NEW, V)."""
    config, steps = Settings(max_new_tokens=NEW).resolved(adapter.generator), []

    def note(step: Step) -> Tensor:
        steps.append(step.main if session.combine is None else session.combine(step))
        return step.main

    with torch.inference_mode():
        _, rows = opened(adapter, inputs, replace(session, combine=note), config)
        for tokens in answers.T:
            rows.scores()
            rows.step(tokens)
    return torch.stack(steps, dim=1)


def check(
    name: str,
    spec: str,
    reference: Callable[[Adapter, Reader, Request, list[int]], Tensor],
    requests: Sequence[Request] = REQUESTS[:2],
) -> None:
    """Compare a batch of uneven prompts with the reference of each by itself, tokens and scores.

    Args:
        name: The family.
        spec: The strategy.
        reference: Returns every step's scores, (NEW, V), of a request with a given answer.
        requests: Two or more.
    """
    adapter, reader = family(name)
    batch, moved = adapter.inputs(requests), []
    assert batch["attention_mask"].sum(1).unique().numel() == len(requests)
    answers = written(adapter, batch, spec)
    scores = scored(adapter, *prepared(adapter, batch, mmhall.strategy(spec)), answers)
    for index, (request, answer) in enumerate(zip(requests, answers.tolist(), strict=True)):
        wanted = reference(adapter, reader, request, answer)
        assert wanted.argmax(-1).tolist() == answer
        torch.testing.assert_close(*(part.clamp_min(UNSAID) for part in (scores[index], wanted)), rtol=1e-5, atol=3e-4)
        plain = reader.logits(adapter.inputs([request]), answer[:-1]).log_softmax(-1)
        moved.append(float((wanted.softmax(-1) - plain.softmax(-1)).abs().max()))
    assert max(moved) > 1e-3, moved
