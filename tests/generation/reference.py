"""What the generation tests share: small pictures, tiny models with ends they reach, and slow references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import cycle
from typing import Any, TypeVar

import pytest
import torch
from _pytest.mark import ParameterSet
from PIL import Image
from torch import Tensor
from transformers import DynamicLayer, PreTrainedModel, ProcessorMixin, cache_utils

import mmhall
from mmhall.adapters import adapter_for
from mmhall.adapters._base import Adapter, Inputs, Request
from mmhall.generation._settings import Settings
from mmhall.strategies import Session
from mmhall.strategies._step import Step
from tests.jobs import run
from tests.zoo import REPRESENTATIVES, ZOO

FAMILIES = (*REPRESENTATIVES, *(name for name in ZOO if name not in REPRESENTATIVES))
EMPTY = getattr(cache_utils, "DummyLayer", DynamicLayer)  # of a layer that reads another one's keys; not in 5.17
LENGTH = 10
QUIET = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of GLM-4V's processor


Way = TypeVar("Way")


def in_turn(families: Sequence[str], ways: Sequence[Way]) -> list[ParameterSet]:
    """Pair the first family with every way and each other family with one: the ways take turns; the first is quick."""
    first, *others = families
    every = (*((first, way) for way in ways), *zip(others, cycle(ways)))
    return [pytest.param(*pair, marks=[pytest.mark.slow] if number else []) for number, pair in enumerate(every)]


def picture(width: int, height: int, cells: int) -> Image.Image:
    random = torch.Generator().manual_seed(width * height + cells)
    small = torch.randint(0, 256, (cells, cells, 3), generator=random, dtype=torch.uint8)
    return Image.fromarray(small.numpy()).resize((width, height), Image.Resampling.NEAREST)


REQUESTS = (
    Request("Is there a dog?", (picture(40, 40, 4),)),
    Request("Please describe this image in detail. What is on the left, and behind it?", (picture(64, 32, 8),)),
    Request("What?", (picture(30, 70, 6),)),
    Request("How many cups do you see?", (picture(48, 48, 16),)),
)


@cache
def theirs(name: str) -> PreTrainedModel:
    """A family's model as transformers made it, which mmhall never touches."""
    return built(name)[0]


@cache
def ours(name: str) -> Adapter:
    """A model of the same weights that mmhall drives, and whose answers end at `ends`."""
    adapter = endless(name)
    adapter.generator.generation_config.eos_token_id = list(ends(name))
    return adapter


@cache
def endless(name: str) -> Adapter:
    """What becomes `ours` once its ends are known."""
    return adapter_for(*built(name))


def built(name: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Build a model that never says a special token: a placeholder in an answer could not be read anew."""
    with torch.inference_mode(False):  # else other tests could not use the weights outside that mode
        model, processor = ZOO[name]()
        special = torch.tensor(list(processor.tokenizer.added_tokens_decoder))
    model.get_output_embeddings().register_forward_hook(lambda *call: call[2].index_fill(-1, special, -1e4))
    return model, processor


@cache
def ends(name: str) -> tuple[int, ...]:
    """Tokens that end an answer: some that the model says somewhere in the middle of its greedy answers."""
    adapter = endless(name)
    answers = [_generate(name, adapter.inputs([request]), max_new_tokens=10)[0] for request in REQUESTS]
    return tuple(sorted({answer[at] for answer, at in zip(answers, (3, 5, 7, 9), strict=True) if len(answer) > at}))


def generated(name: str, inputs: Inputs, **options: Any) -> list[tuple[int, ...]]:
    """What transformers' own `generate` says to a single prompt, a row for each answer, ends included."""
    stop = ends(name)
    rows = _generate(name, inputs, eos_token_id=list(stop) or None, **options)
    return [cut(row, stop) for row in rows]


def _generate(name: str, inputs: Inputs, **options: Any) -> list[list[int]]:
    model = theirs(name)
    if "pixel_values" not in inputs:  # of a BLIP, the model inside: the outer one wants a picture
        model = getattr(model, "language_model", model)
    rows = model.generate(**inputs, **{"do_sample": False, "pad_token_id": 0, **options})
    prompt = inputs["input_ids"]
    length = prompt.shape[1]
    return (rows[:, length:] if torch.equal(rows[:, :length], prompt.expand(len(rows), -1)) else rows).tolist()


def said(
    adapter: Adapter, inputs: Inputs, spec: str = "greedy", *, seed: int = 0, **settings: Any
) -> list[tuple[int, ...]]:
    """What mmhall says, a row for each answer, ends included."""
    config = Settings(**{"max_new_tokens": LENGTH, **settings}).resolved(adapter.generator)
    rows = run(adapter, inputs, mmhall.strategy(spec), config, seed).tolist()
    return [cut(row, adapter.generator.generation_config.eos_token_id) for row in rows]


def cut(row: Sequence[int], stop: Sequence[int]) -> tuple[int, ...]:
    """Leave out what follows the first end."""
    at = next((index for index, token in enumerate(row) if token in stop), len(row))
    return tuple(row[: at + 1])


def anew(adapter: Adapter, session: Session, inputs: Inputs, answer: Sequence[int]) -> Tensor:
    """Next-token scores after an answer: every branch's whole sequence read by itself, with no cache, (vocabulary,)."""
    read = []
    for branch in (inputs, *(branch.inputs for branch in session.branches)):
        longer = (
            adapter.append_answer(branch, torch.tensor([answer], dtype=torch.long)) if len(answer) else dict(branch)
        )
        with torch.inference_mode():
            logits = adapter.model_for(longer)(**longer, use_cache=False).logits[:, -1].float()
        read.append(logits.log_softmax(dim=-1))
    if session.combine is None:
        return read[0][0]
    return session.combine(Step(read[0], tuple(read[1:]), torch.tensor([answer], dtype=torch.long)))[0]


def separately(
    adapter: Adapter, inputs: Inputs, session: Session, choose: Callable[[Tensor], Tensor] = torch.argmax
) -> tuple[int, ...]:
    """Decode a single prompt one token at a time, reading everything anew."""
    answer: list[int] = []
    stop = adapter.generator.generation_config.eos_token_id
    while len(answer) < LENGTH and not (answer and answer[-1] in stop):
        answer.append(int(choose(anew(adapter, session, inputs, answer))))
    return tuple(answer)


def searched(
    adapter: Adapter,
    inputs: Inputs,
    session: Session,
    beams: int,
    *,
    length_penalty: float = 1.0,
    edit: Callable[[Sequence[int], Tensor], Tensor] = lambda answer, scores: scores,
) -> list[tuple[int, ...]]:
    """Search naively to the last step, with no early stop; hypotheses best first."""
    stop = adapter.generator.generation_config.eos_token_id
    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    done: list[tuple[tuple[int, ...], float]] = []
    for step in range(LENGTH):
        grown = []
        for answer, score in live:
            scores = edit(answer, anew(adapter, session, inputs, answer).log_softmax(dim=-1))
            best = scores.topk(min(len(scores), (1 + len(stop)) * beams))
            grown += [
                ((*answer, token), score + more)
                for more, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
        grown.sort(key=lambda pair: -pair[1])
        last = step == LENGTH - 1
        done += [pair for pair in grown[:beams] if last or pair[0][-1] in stop]
        live = [pair for pair in grown if pair[0][-1] not in stop][:beams]
    done.sort(key=lambda pair: -pair[1] / len(pair[0]) ** length_penalty)
    return [answer for answer, _ in done]
