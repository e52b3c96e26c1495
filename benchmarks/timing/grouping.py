"""Timing of the shared prefix: questions about one picture, answered together and each alone.

The speed benchmark's model is asked six questions about each of two pictures in one batch, as POPE asks,
with and without a shared prefix, in turns within one process. Every turn has new pictures, so that no features are kept
from the turn before. Answers are two tokens: a word and the end. On a CPU the time of the process is measured, so that
other work on the machine counts little.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mmhall.adapters import Adapter, Batch, Request
from mmhall.benchmarks.timing.model import IMAGE_TOKENS, Size, noise, random_adapter
from mmhall.generation import Recipe, Settings, run
from mmhall.strategies import strategy

STRATEGIES = ("greedy", "vcd", "vdd", "gift", "pai", "vaf", "vhr")
TURNS, PICTURES, _NEW = 7, 2, 2
_NAMES = ("dog", "traffic light", "big red car", "cat", "dining table", "small blue bird")  # one to three tokens
_ASKED = "Is there a {} in the image? Please answer this question with yes or no, in one word only, and nothing else."


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
    gains = []
    for spec in STRATEGIES:
        seconds: dict[bool, list[float]] = {True: [], False: []}
        same = True
        for turn in range(turns + 1):
            inputs, answers = questions(adapter, turn), list[list[list[int]]]()
            for share in (True, False) if turn % 2 else (False, True):
                began = _now(device)
                answers.append(_answer(adapter, inputs, spec, share=share))
                if turn:
                    seconds[share].append(_now(device) - began)
                progress(1)
            same &= answers[0] == answers[1]
        ratios = tuple(alone / together for together, alone in zip(seconds[True], seconds[False], strict=True))
        gains.append(Gain(spec, ratios, same))
    adapter.close()
    return gains


def runs() -> int:
    """Return the number of runs that `measure` reports."""
    return 2 * len(STRATEGIES) * (TURNS + 1)


def questions(adapter: Adapter, seed: int = 0) -> Batch:
    """Make a batch of questions about pictures of noise, drawn from a seed."""
    pictures = [noise(seed * PICTURES + number) for number in range(PICTURES)]
    return adapter.inputs([Request(_ASKED.format(name), (picture,)) for picture in pictures for name in _NAMES])


def describe_questions() -> str:
    """Describe the questions."""
    return (
        f"{len(_NAMES)} questions about each of {PICTURES} pictures in one batch, {IMAGE_TOKENS} image tokens, "
        f"31 to 33 text tokens, {_NEW} new ones"
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
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()
