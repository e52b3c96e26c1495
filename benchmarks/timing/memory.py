"""Predicted and measured memory of decoding: python -m mmhall.benchmarks.timing.memory [STRATEGY ...].

A random LLaVA answers batches of prompts, each answer as long as it may be. What a budget of memory predicts for them
from one prompt of their kind, of the same length or a shorter one, is compared with the most that the process then
took beside the model: on a GPU the allocator's peak, on Linux the resident set, with memory that goes back to the
system as soon as it is freed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from mmhall.adapters import Adapter
from mmhall.benchmarks.timing.model import LARGE, SMALL, fit_randomly, noise, random_adapter
from mmhall.generation import (
    Budget,
    Forecast,
    Images,
    Prompt,
    Recipe,
    Samples,
    make_recipe,
    make_requests,
    queue,
    refill,
)
from mmhall.strategies import strategy

STRATEGIES = ("greedy", "vcd", "pai", "vhr", "kvsmooth", "dola", "beam", "opera")
HEAD = (
    "| strategy | prompts | positions | measured at | new tokens | predicted, MB | taken, MB | ratio |\n"
    + "|---" * 8
    + "|"
)
_ENDLESS = 2**50  # bytes of a budget that holds everything
_THRESHOLD, _TRIM, _LEAST = -3, -1, 2**16  # mallopt: memory of so many bytes goes back to the system when it is freed


@dataclass(frozen=True, slots=True)
class Case:
    """Batches of one kind.

    Attributes:
        picture: Whether there is a picture, of 576 tokens.
        known: Words of the prompt that is measured.
        words: Words of the prompts that are predicted from it.
        new: Tokens of each answer.
        counts: Numbers of prompts.
    """

    picture: bool
    known: int
    words: int
    new: int
    counts: tuple[int, ...] = (1, 8)


CASES = (
    Case(True, 0, 16, 12),
    Case(True, 300, 380, 12),
    Case(False, 10, 10, 256),
)


@dataclass(frozen=True, slots=True)
class Peak:
    """The memory of a batch, beside the model.

    Attributes:
        strategy: The strategy.
        count: Number of prompts.
        known: Positions of the prompt that was measured.
        length: Positions of each prompt.
        new: Tokens of each answer.
        predicted: Bytes, before the batch was read.
        measured: Bytes.
    """

    strategy: str
    count: int
    known: int
    length: int
    new: int
    predicted: int
    measured: int


def peaks(adapter: Adapter, spec: str, case: Case) -> Iterator[Peak]:
    """Predict and measure batches of prompts with a strategy; answers must not end by themselves."""
    recipe = make_recipe(adapter, spec, {"max_new_tokens": case.new})
    known: Samples = {}
    _answer(adapter, recipe, known, _prompts(case, case.known, 1))
    (sample,) = known.values()
    forecast = Forecast(Budget(1, memory=_ENDLESS), known, case.new)
    for count in case.counts:
        prompts = _prompts(case, case.words, count)
        length = int(adapter.inputs(make_requests(prompts[:1]))["input_ids"].shape[1])
        predicted = forecast.predict(sample, [length] * count)
        measured = _measure(adapter.device, partial(_answer, adapter, recipe, known, prompts))
        yield Peak(spec, count, sample.length, length, case.new, predicted, measured)


def give_back_at_once() -> None:
    """Let this process give the memory of tensors back to the system as soon as it is freed (Linux)."""
    for option in (_THRESHOLD, _TRIM):
        ctypes.CDLL(None).mallopt(option, _LEAST)


def row(one: Peak) -> str:
    """Format a peak as a line of a table in Markdown, below `HEAD`."""
    size = f"{one.predicted / 1e6:.0f} | {one.measured / 1e6:.0f} | {one.predicted / one.measured:.2f}"
    return f"| `{one.strategy}` | {one.count} | {one.length} | {one.known} | {one.new} | {size} |"


def _prompts(case: Case, words: int, count: int) -> list[tuple[Images, Prompt]]:
    text = "Describe" + " dog" * words
    return [(noise(number) if case.picture else None, text) for number in range(count)]


def _answer(adapter: Adapter, recipe: Recipe, samples: Samples, prompts: list[tuple[Images, Prompt]]) -> None:
    """Answer prompts together; the first of a kind is measured, and added to the samples."""
    count = len(prompts)
    budget = Budget(count, memory=_ENDLESS)
    for done in refill(adapter, recipe, queue(prompts, None, count), budget, samples=samples):
        if done.error is not None:
            raise done.error


def _measure(device: torch.device, work: Callable[[], None]) -> int:
    """Return the bytes that some work takes at most, beside those that were taken before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is resident now
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("strategies", nargs="*", default=STRATEGIES)
    chosen = parser.parse_args().strategies
    if not torch.cuda.is_available():
        if sys.platform != "linux":
            sys.exit("the memory of a process is measured on Linux only, or on a GPU")
        give_back_at_once()
    size, device = (LARGE, "cuda") if torch.cuda.is_available() else (SMALL, "cpu")
    adapter = random_adapter(size, device)
    adapter.generator.generation_config.eos_token_id = None
    fit_randomly(adapter, [strategy(spec) for spec in chosen])
    ratios = []
    print(HEAD)
    for peak in (peak for spec in chosen for case in CASES for peak in peaks(adapter, spec, case)):
        print(row(peak), flush=True)
        ratios.append(peak.predicted / peak.measured)
    print(f"\npredicted over taken: {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
