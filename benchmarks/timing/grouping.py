"""Timing of the shared prefix: questions about one picture, answered together and each alone.

The speed benchmark's model is asked six questions about each of two pictures in one batch, as POPE asks,
with and without a shared prefix, in turns within one process. Answers are two tokens: a word and the end.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from mmhall.adapters import Adapter, Batch, Request
from mmhall.benchmarks.timing.model import IMAGE_TOKENS, Size, random_adapter
from mmhall.generation import Recipe, Settings, run
from mmhall.strategies import strategy

STRATEGIES = ("greedy", "vcd", "vdd")
TURNS, PICTURES, QUESTIONS = 7, 2, 6
_BEGINNING, _NAME, _ENDING, _NEW = 12, 3, 24, 2  # tokens before the object's name, at most in it, and behind


@dataclass(frozen=True, slots=True)
class Gain:
    """The gain of a strategy.

    Attributes:
        name: The strategy.
        ratios: Items per second together over items per second alone, one ratio per turn.
        same: Whether all answers were equal.
    """

    name: str
    ratios: tuple[float, ...]
    same: bool


def measure(
    size: Size, device: str, turns: int = TURNS, progress: Callable[[int], None] = lambda _: None
) -> list[Gain]:
    """Time every strategy with and without the shared prefix.

    Args:
        size: Size of the model.
        device: "cpu" or "cuda".
        turns: Number of timed runs of each kind, after one run to warm up.
        progress: Called after each run.
    """
    adapter = random_adapter(size, device)
    inputs = questions(adapter)
    gains = []
    for spec in STRATEGIES:
        seconds: dict[bool, list[float]] = {True: [], False: []}
        answers: dict[bool, list[list[int]]] = {}
        for turn in range(turns + 1):
            for share in (True, False) if turn % 2 else (False, True):
                began = _now(device)
                answers[share] = _answer(adapter, inputs, spec, share=share)
                if turn:
                    seconds[share].append(_now(device) - began)
                progress(1)
        ratios = tuple(alone / together for together, alone in zip(seconds[True], seconds[False], strict=True))
        gains.append(Gain(spec, ratios, answers[True] == answers[False]))
    adapter.close()
    return gains


def runs() -> int:
    """Return the number of runs that `measure` reports."""
    return 2 * len(STRATEGIES) * (TURNS + 1)


def questions(adapter: Adapter) -> Batch:
    """Make a batch of questions: a common start with the picture, an object's name, a common end."""
    random = torch.Generator().manual_seed(0)
    dtype, device = adapter.model.dtype, adapter.device
    singles: list[dict[str, Tensor]] = []
    requests = []
    words = torch.arange(10, 10 + _BEGINNING + _ENDING)
    image = torch.full((IMAGE_TOKENS,), adapter.image_token_id)
    for _ in range(PICTURES):
        pixels = torch.randn(1, 3, 336, 336, generator=random).to(device, dtype)
        picture = Image.new("RGB", (1, 1))
        for question in range(QUESTIONS):
            name = torch.randint(100, 20_000, (1 + question % _NAME,), generator=random)
            ids = torch.cat([words[:6], image, words[6:_BEGINNING], name, words[_BEGINNING:]])[None].to(device)
            singles.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels})
            requests.append(Request("?", (picture,)))
    return Batch(adapter.stack(singles), singles, requests)


def describe_questions() -> str:
    """Describe the questions."""
    return (
        f"{QUESTIONS} questions about each of {PICTURES} pictures in one batch, {IMAGE_TOKENS} image tokens, "
        f"{_BEGINNING + _ENDING + 1} to {_BEGINNING + _ENDING + _NAME} text tokens, {_NEW} new ones"
    )


def table(gains: Sequence[Gain]) -> list[tuple[str, ...]]:
    """Format gains as rows of cells, the header first: median ratio and range."""
    rows: list[tuple[str, ...]] = [("STRATEGY", "ITEMS PER SECOND, TOGETHER OVER ALONE", "SAME ANSWERS")]
    for gain in gains:
        spread = f"{statistics.median(gain.ratios):.2f} ({min(gain.ratios):.2f}-{max(gain.ratios):.2f})"
        rows.append((gain.name, spread, "yes" if gain.same else "no"))
    return rows


def _answer(adapter: Adapter, inputs: Batch, spec: str, *, share: bool) -> list[list[int]]:
    recipe = Recipe.fit(adapter, strategy(spec), Settings(max_new_tokens=_NEW))
    recipe.config.eos_token_id = None
    answers: list[list[int]] = run(recipe.job(adapter, inputs, share=share)).tolist()
    return answers


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
