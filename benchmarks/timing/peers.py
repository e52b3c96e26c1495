"""Timing of whole requests: mmhall beside transformers' own `generate`, and beside other toolkits that are installed.

A random LLaVA answers the same prompts by mmhall and by a rival, from pictures and text to the text of the answers.
Both take turns in one process; a ratio is taken within a turn. The tokens of both are compared: where they differ, the
work does.

`RIVALS` names the toolkits by their modules. Those that are not installed are not timed, and named.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from itertools import zip_longest
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from mmhall.benchmarks.timing.model import VOCABULARY, Size, plain_copy, random_llava, timed_prompts
from mmhall.benchmarks.timing.speed import NEW_TOKENS, TURNS
from mmhall.lvlm import LVLM

Tokens = list[list[int]]  # new tokens of each answer
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """What a rival is asked.

    Attributes:
        model: A plain transformers model with SDPA.
        processor: Its processor.
        pictures: A picture for each prompt.
        texts: The prompts, as the chat template writes them.
        new_tokens: Tokens of each answer; the model never ends one.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    pictures: list[Image.Image]
    texts: list[str]
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Rival:
    """A way to do the work of a strategy without mmhall.

    Attributes:
        name: What it is, with its options.
        strategy: The strategy of mmhall that does the same work.
        prepare: Returns a function that answers the prompts.
        prompts: Number of prompts, answered in one batch.
        alike: Whether its tokens are those of the strategy; False: another method, timed for its cost alone.
    """

    name: str
    strategy: str
    prepare: Callable[[Asked], Callable[[], Tokens]]
    prompts: int = 1
    alike: bool = True


@dataclass(frozen=True, slots=True)
class Comparison:
    """The time of mmhall over that of a rival.

    Attributes:
        strategy: The strategy of mmhall.
        rival: The rival's name.
        prompts: Number of prompts.
        time: Ratio of wall times, one for each turn.
        cpu_time: Ratio of CPU times of the process, one for each turn.
        seconds: Median wall time of mmhall and of the rival.
        tokens: New tokens of all answers.
        differing: How many of them differ; None: the rival is another method.
    """

    strategy: str
    rival: str
    prompts: int
    time: tuple[float, ...]
    cpu_time: tuple[float, ...]
    seconds: tuple[float, float]
    tokens: int
    differing: int | None


def measure(
    size: Size,
    device: str,
    turns: int = TURNS,
    new_tokens: int = NEW_TOKENS,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Comparison]:
    """Time mmhall beside every rival that is installed.

    Args:
        size: Size of the model.
        device: "cpu" or "cuda".
        turns: Number of timed turns, after one to warm up.
        new_tokens: Number of tokens of an answer.
        progress: Called after each turn of each rival; see `runs`.
    """
    model, processor = random_llava(size, device)
    model.generation_config.eos_token_id = VOCABULARY  # it never ends
    plain = plain_copy(model, "sdpa")
    lvlm = LVLM(model, processor)
    comparisons = []
    for rival in installed():
        pictures, questions = zip(*timed_prompts(rival.prompts), strict=True)
        texts = [_templated(processor, question) for question in questions]
        asked = Asked(plain, processor, list(pictures), texts, new_tokens)
        comparisons.append(_compare(lvlm, rival, asked, turns, progress))
    lvlm.adapter.close()
    return comparisons


def installed() -> list[Rival]:
    """Return the rivals that are installed."""
    return [rival for module, rivals in RIVALS.items() if find_spec(module) for rival in rivals]


def runs(turns: int = TURNS) -> int:
    """Return the number of turns that `measure` reports."""
    return len(installed()) * (turns + 1)


def describe_toolkits() -> str:
    """Name each toolkit with its version, or as not installed."""
    return ", ".join(f"{name} {version(name)}" if find_spec(name) else f"{name} not installed" for name in RIVALS)


def table(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """Format comparisons as rows of cells, the header first: median ratio and range."""

    def ratio(values: Sequence[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"

    rows: list[tuple[str, ...]] = [("MMHALL", "BESIDE", "PROMPTS", "TIME", "CPU TIME", "SECONDS", "TOKENS")]
    for one in comparisons:
        alike = "same" if one.differing == 0 else f"{one.differing} of {one.tokens} differ"
        seconds = " / ".join(f"{each:.2f}" for each in one.seconds)
        outcome = "another method" if one.differing is None else alike
        rows.append((one.strategy, one.rival, str(one.prompts), ratio(one.time), ratio(one.cpu_time), seconds, outcome))
    return rows


def count_differing(answers: Tokens, others: Tokens) -> int:
    """Count the places at which answers have different tokens; a missing token differs."""
    pairs = zip_longest(answers, others, fillvalue=list[int]())
    return sum(a != b for answer, other in pairs for a, b in zip_longest(answer, other))


def _compare(lvlm: LVLM, rival: Rival, asked: Asked, turns: int, progress: Callable[[int], None]) -> Comparison:
    requests, device = timed_prompts(rival.prompts), lvlm.adapter.device.type

    def answer() -> Tokens:
        answers = lvlm.generate_batch(requests, rival.strategy, max_new_tokens=asked.new_tokens)
        return [list(each.token_ids) for each in answers]

    sides = (answer, rival.prepare(asked))
    times: tuple[list[_Time], list[_Time]] = [], []
    tokens: list[Tokens] = [[], []]
    for turn in range(turns + 1):
        for side in (0, 1) if turn % 2 else (1, 0):
            began = _now(device)
            tokens[side] = sides[side]()
            ended = _now(device)
            if turn:
                times[side].append((ended[0] - began[0], ended[1] - began[1]))
        progress(1)
    wall, cpu = (tuple(own[clock] / other[clock] for own, other in zip(*times, strict=True)) for clock in (0, 1))
    own, other = (statistics.median(seconds for seconds, _ in side) for side in times)
    differing = count_differing(*tokens) if rival.alike else None
    count = sum(map(len, tokens[0]))
    return Comparison(rival.strategy, rival.name, rival.prompts, wall, cpu, (own, other), count, differing)


_Time = tuple[float, float]  # wall time and CPU time of the process, in seconds


def _now(device: str) -> _Time:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def _templated(processor: ProcessorMixin, question: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text: str = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return text


def _generate(asked: Asked, **settings: Any) -> Callable[[], Tokens]:
    """Answer by transformers' `generate`."""
    model, processor = asked.model, asked.processor

    def answer() -> Tokens:
        inputs = processor(
            images=asked.pictures, text=asked.texts, return_tensors="pt", padding=True, padding_side="left"
        ).to(model.device, model.dtype)
        ids = model.generate(**inputs, max_new_tokens=asked.new_tokens, do_sample=False, **settings)
        new = ids[:, inputs["input_ids"].shape[1] :]
        processor.batch_decode(new, skip_special_tokens=True)
        tokens: Tokens = new.tolist()
        return tokens

    return answer


class _Tokenizer:
    """The tokenizer for mitigv: it keeps the tokens, which mitigv does not return, and has no end mark."""

    eos_token_id = pad_token_id = None

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self.tokens = tokenizer, list[list[int]]()

    def batch_decode(self, ids: Tensor, **settings: Any) -> list[str]:
        self.tokens = ids.tolist()
        return list(self._tokenizer.batch_decode(ids, **settings))


def _mitigv(asked: Asked, algorithm: str, **options: Any) -> Callable[[], Tokens]:
    """Answer one prompt by an algorithm of mitigv."""
    mitigv, tokenizer = import_module("mitigv"), _Tokenizer(asked.processor.tokenizer)
    processor = mitigv.LlavaProcessor(asked.processor)
    processor.tokenizer = tokenizer
    mitigator = mitigv.build_mitigator(algorithm, asked.model, processor, **options)

    def answer() -> Tokens:
        mitigator(asked.pictures[0], asked.texts[0], max_new_tokens=asked.new_tokens)
        return tokenizer.tokens

    return answer


_BEAMS = partial(_generate, num_beams=5)
RIVALS: Mapping[str, tuple[Rival, ...]] = MappingProxyType(
    {
        "transformers": (
            Rival("generate", "greedy", _generate),
            Rival("generate", "greedy", _generate, prompts=_BATCH),
            Rival("generate(num_beams=5)", "beam", _BEAMS),
            Rival("generate(num_beams=5)", "opera", _BEAMS, alike=False),
        ),
        "mitigv": (
            Rival("mitigv vcd", "vcd(draw='seed')", partial(_mitigv, algorithm="vcd", seed=0)),
            Rival("mitigv m3id", "m3id(start=1)", partial(_mitigv, algorithm="m3id")),
        ),
    }
)
"""The rivals, by the module of their toolkit.

Options are such that both sides do the same work: mitigv draws the noise of VCD from a seed alone, and counts the first
token of M3ID as 1. Its PAI does not read the KV cache of transformers 5.24, and its OPERA scores and goes back by other
rules: these are not timed.
"""
