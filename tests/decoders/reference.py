"""Decoding as slow and plain as can be: one prompt at a time, every score from complete eager passes, no cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

import mmhall
from mmhall.adapters import adapter_for
from mmhall.adapters._base import Adapter, Inputs, Request
from mmhall.generation._settings import Settings
from mmhall.strategies._step import Step
from tests.attention.reference import Eager, Edit
from tests.generation.reference import FAMILIES as FAMILIES, QUIET as QUIET, picture
from tests.jobs import decode, run
from tests.zoo import ZOO

NEW = 4
REQUESTS = (
    Request("Is there a dog on the dog bed?", (picture(40, 40, 4),)),
    Request("Please describe this image in detail. What is on the left, and behind it?", (picture(64, 32, 8),)),
)
Scores = Callable[[Sequence[int]], Tensor]
"""Takes an answer so far; returns the logits of its next token, (vocabulary,)."""


class Slow:
    """A model that mmhall drives, whose answers never end, and its eager copy.

    Attributes:
        adapter: Drives the model.
        eager: The copy.
    """

    def __init__(self, model, processor):
        special = torch.tensor(list(processor.tokenizer.added_tokens_decoder))
        model.get_output_embeddings().register_forward_hook(lambda *call: call[2].index_fill(-1, special, -1e4))
        model.generation_config.eos_token_id = None
        self.adapter: Adapter = adapter_for(model, processor)
        self.eager = Eager(self.adapter)

    @property
    def attending(self) -> list[int]:
        """Layers that attend to text."""
        return [layer for layer, kind in enumerate(self.adapter.kinds) if kind not in ("linear", "cross")]

    def read(self, inputs: Inputs, **edits: Edit) -> Tensor:
        """Read a whole prompt; return the logits at its last position, (vocabulary,)."""
        assert len(inputs["input_ids"]) == 1
        return self.eager.logits(inputs, **edits)[0, -1].float()

    def maps(self, inputs: Inputs) -> list[Tensor]:
        """Attention of every layer, (H, position, column) each; nothing of layers that do not attend."""
        self.read(inputs)
        return [held[0][0] if held else torch.empty(0) for held in self.eager.maps]

    def longer(self, inputs: Inputs, answer: Sequence[int]) -> Inputs:
        return self.adapter.append_answer(inputs, torch.tensor([answer], dtype=torch.long)) if len(answer) else inputs


@cache
def slow(name: str) -> Slow:
    return Slow(*ZOO[name]())


def greedily(scores: Scores, length: int = NEW) -> tuple[int, ...]:
    answer: list[int] = []
    while len(answer) < length:
        answer.append(int(scores(answer).argmax()))
    return tuple(answer)


def drawn(scores: Scores, seed: int, length: int = NEW) -> tuple[int, ...]:
    generator, answer = torch.Generator().manual_seed(seed), []
    while len(answer) < length:
        answer.append(int(torch.multinomial(scores(answer).softmax(dim=-1), 1, generator=generator)))
    return tuple(answer)


def searched(scores: Scores, beams: int, length: int = NEW) -> list[tuple[int, ...]]:
    """Search with beams through answers that never end, best first."""
    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    for _ in range(length):
        grown = []
        for answer, score in live:
            best = scores(answer).log_softmax(dim=-1).topk(beams)
            pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
            grown += [((*answer, token), score + more) for more, token in pairs]
        live = sorted(grown, key=lambda pair: -pair[1])[:beams]
    return [answer for answer, _ in live]


def settings(adapter: Adapter, **more):
    return Settings(**{"max_new_tokens": NEW, **more}).resolved(adapter.generator)


def said(adapter: Adapter, inputs: Inputs, spec: str, seed: int = 0, **more) -> list[tuple[int, ...]]:
    """What mmhall says to a batch."""
    return list(map(tuple, run(adapter, inputs, mmhall.strategy(spec), settings(adapter, **more), seed).tolist()))


def scored(adapter: Adapter, inputs: Inputs, spec: str, answers: Sequence[Sequence[int]]) -> Tensor:
    """The scores by which mmhall would choose each token of given answers, (batch, length, vocabulary)."""
    seen, wanted = [], torch.tensor(answers)

    def force(step: Step) -> Tensor:
        seen.append(step.main)
        return torch.nn.functional.one_hot(wanted[:, step.t], step.main.shape[-1]).float()

    with torch.inference_mode():
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, inputs)
        config = settings(adapter, max_new_tokens=wanted.shape[1])
        got = decode(adapter, inputs, dataclasses.replace(session, combine=force), config, [0] * len(wanted))
    assert torch.equal(got, wanted)
    return torch.stack(seen, dim=1)


def check(model: Slow, spec: str, scores: Callable[[Slow, Request], Scores], requests=REQUESTS) -> None:
    """Check that a left-padded batch says and scores what the slow way does, prompt by prompt."""
    each = [scores(model, request) for request in requests]
    answers = [greedily(one) for one in each]
    inputs = model.adapter.inputs(requests)
    assert said(model.adapter, inputs, spec) == answers
    wanted = [
        torch.stack([one(answer[:at]).log_softmax(dim=-1) for at in range(NEW)])
        for one, answer in zip(each, answers, strict=True)
    ]
    got = scored(model.adapter, inputs, spec, answers)
    torch.testing.assert_close(got, torch.stack(wanted), rtol=1e-5, atol=3e-4)
