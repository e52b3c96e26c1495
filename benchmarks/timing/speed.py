"""Timing of strategies and their building blocks, as ratios to transformers' own `generate`.

A random LLaVA answers one prompt repeatedly: plain `generate` and every variant take turns in one
process, so that other load of the machine affects all of them. A ratio is taken within a turn;
the median and the range over the turns are shown. The first token (vision tower and prompt) and later
steps are timed separately.

A strategy that searches is compared with transformers' beam search with as many beams. Neither gives tokens
one by one, so that a step ends when its scores are known.
"""

from __future__ import annotations

import copy
import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import LongTensor, Tensor
from transformers import LogitsProcessorList, PreTrainedModel
from transformers.generation import BaseStreamer

from mmhall.adapters import Adapter, Batch
from mmhall.analysis import AttentionProbe
from mmhall.attention import Call, Columns, Exit, Op, Visit
from mmhall.benchmarks.timing.model import VOCABULARY, Size, fit_randomly, plain_copy, random_adapter, timed_request
from mmhall.decoders import STRATEGIES
from mmhall.errors import OptionError
from mmhall.generation import Job, Recipe, Settings, decode, plan_batch, run
from mmhall.strategies import Session, Step, Strategy, strategy as make_strategy

PLAIN, EAGER, BEAMS = "plain generate", "eager, output_attentions", "beam search, 5 beams"
_KINDS, _WIDE = 7, 5
_ACTIVE = {  # random weights have no massive dimensions, and nothing to find in single heads
    "var": "var(sink_dims=(0, 1), tau=3.0)",
    "adhh": "adhh(heads='0.0, 1.1')",
    "allpath": "allpath(good='0.0, 1.1', bad='1.0')",
    "act": "act(heads='0.0, 1.1')",
    "zerotuning": "zerotuning(rate=2.0)",
    "revis": "revis(layer='1')",
    "yes-shift": "yes-shift(shift=0.9)",
}
_PARTS = ("pai(gamma=1.0)",)
UNTIMED = frozenset({"cgd", "halc", "self-verify", "pine"})  # need another model, further questions or pictures
TURNS, NEW_TOKENS = 7, 64


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one variant.

    Attributes:
        name: Name of the variant.
        over: Name of the reference.
        first: Time to the first token over the reference's, one ratio per turn.
        step: Time of a later token over the reference's, one ratio per turn.
        memory: Peak memory over the reference's; None if unknown.
        seconds: Median time to the first token and of a later token, in seconds.
    """

    name: str
    over: str
    first: tuple[float, ...]
    step: tuple[float, ...]
    memory: float | None
    seconds: tuple[float, float]


def strategies_to_time() -> list[Strategy]:
    """Return the strategies to time: all that need no other model, and cheaper parts of them."""
    specs = [_ACTIVE.get(name, name) for name in STRATEGIES.names() if name not in UNTIMED]
    return [make_strategy(spec) for spec in (*specs, *_PARTS)]


def make_timed(spec: str) -> Strategy:
    """Build a strategy to time.

    Raises:
        OptionError: It needs a second model, or its search cannot be timed by tokens.
        MmhallError: There is no such strategy, or an option is out of range.
    """
    method = make_strategy(spec)
    if method.name in UNTIMED:
        raise OptionError(
            "speed", "strategy", spec, "one that needs no second model or picture and decodes token by token"
        )
    return method


def measure(
    size: Size,
    device: str,
    methods: Sequence[Strategy] | None = None,
    turns: int = TURNS,
    new_tokens: int = NEW_TOKENS,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Cost]:
    """Time every variant.

    Args:
        size: Size of the model.
        device: "cpu" or "cuda".
        methods: Strategies to time, against plain `generate` alone; None: `strategies_to_time` and all building blocks.
        turns: Number of timed runs of each variant, after one run to warm up.
        new_tokens: Number of tokens of an answer, >= 3.
        progress: Called after each run; see `runs`.
    """
    adapter = random_adapter(size, device)
    copies = plain_copy(adapter.model, "sdpa"), plain_copy(adapter.model, "eager")
    chosen = strategies_to_time() if methods is None else methods
    fit_randomly(adapter, chosen)
    variants = _variants(adapter, *copies, chosen, new_tokens)
    if methods is not None:
        variants = {name: variants[name] for name in (*_references(methods), *map(str, methods))}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    peaks: dict[str, list[int]] = {name: [] for name in variants}
    for turn in range(turns + 1):
        names = list(variants)
        for name in (*names[turn % len(names) :], *names[: turn % len(names)]):  # each has each place in its turn
            watch = _Watch(device)
            with _peak(device, peaks[name]):
                variants[name](streamer=watch)
            if turn:
                times[name].append(watch.times())
            progress(1)
    adapter.close()
    searched = [str(method) for method in chosen if method.beams > 1]
    return [_cost(name, BEAMS if name in searched else PLAIN, times, peaks) for name in variants]


def _variants(
    adapter: Adapter, own: PreTrainedModel, eager: PreTrainedModel, methods: Sequence[Strategy], new_tokens: int
) -> dict[str, Callable[..., Any]]:
    """Return the variants by name, as functions of a `_Watch` as `streamer`.

    Args:
        adapter: The model in mmhall.
        own: The same model in transformers.
        eager: The same model with eager attention.
        methods: Strategies to time.
        new_tokens: Number of tokens of an answer.
    """
    inputs = timed_request(adapter)
    settings = Settings(max_new_tokens=new_tokens)
    config = settings.resolved(adapter.model)
    config.eos_token_id = None
    arguments = {**inputs, "generation_config": config}
    with_attentions = copy.deepcopy(config)
    with_attentions.update(output_attentions=True, return_dict_in_generate=True)

    def decode_session(make: Callable[[], Session], streamer: BaseStreamer) -> None:
        run(Job(adapter, inputs, make(), config, [], streamer=streamer))

    def decode_strategy(method: Strategy, streamer: BaseStreamer) -> None:
        recipe = Recipe(method.fitted(adapter), {}, settings, config)
        run(recipe.job(adapter, inputs, streamer=streamer))

    beam_config = copy.deepcopy(config)
    beam_config.update(num_beams=_WIDE, eos_token_id=[VOCABULARY])  # it never ends

    def decode_search(method: Strategy, streamer: _Watch) -> None:
        with torch.inference_mode():
            session = method.fitted(adapter).prepare(adapter, inputs)
            main = plan_batch(adapter, inputs, session.ops, beam_config)
            main.prepared.processors.append(streamer)
            decode(Job(adapter, inputs, session, beam_config, []), main)

    return {
        PLAIN: lambda streamer: own.generate(**arguments, streamer=streamer),
        EAGER: lambda streamer: eager.generate(**inputs, generation_config=with_attentions, streamer=streamer),
        **{name: partial(decode_session, make) for name, make in _sessions(adapter, inputs).items()},
        **{str(method): partial(decode_strategy, method) for method in methods if method.beams == 1},
        BEAMS: lambda streamer: own.generate(
            **inputs, generation_config=beam_config, logits_processor=LogitsProcessorList([streamer])
        ),
        **{str(method): partial(decode_search, method) for method in methods if method.beams > 1},
    }


def _references(methods: Sequence[Strategy]) -> list[str]:
    """Return the names of the references that strategies are compared with."""
    return [PLAIN, *([BEAMS] if any(method.beams > 1 for method in methods) else [])]


def runs(methods: Sequence[Strategy] | None = None, turns: int = TURNS) -> int:
    """Return the number of runs that `measure` reports."""
    variants = 3 + _KINDS + len(strategies_to_time()) if methods is None else len(_references(methods)) + len(methods)
    return variants * (turns + 1)


def machine(device: str) -> str:
    """Describe the machine: processor, threads, versions."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    import transformers

    return (
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, transformers {transformers.__version__}"
    )


class _Bias(Op):
    """An op that adds to the scores of image columns, in all rows."""

    def __init__(self, strength: Columns) -> None:
        self.strength = strength

    def bias(self, call: Call) -> Tensor:
        return self.strength(call)


class _Newest(Op):
    """An op that edits the newest row, with a strength for each column."""

    writes = True

    def __init__(self, strength: Columns) -> None:
        self.strength = strength

    def rows(self, call: Call) -> LongTensor:
        return call.newest


class _Scores(_Newest):
    def edit_scores(self, call: Call, rows: LongTensor, scores: Tensor) -> Tensor:
        return torch.addcmul(scores, scores.abs(), self.strength(call))


class _Weights(_Newest):
    def edit_probs(self, call: Call, rows: LongTensor, probs: Tensor) -> Tensor:
        edited = torch.addcmul(probs, probs, self.strength(call))
        return edited / edited.sum(dim=-1, keepdim=True)


class _Heads(Op):
    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        return output * 0.9


class _Outputs(Op):
    sites = frozenset({"out"})

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        return states * 0.99


def _sessions(adapter: Adapter, inputs: Batch) -> dict[str, Callable[[], Session]]:
    """Return sessions by name: an op of every kind, in all layers and heads, on the image columns."""
    image = adapter.image_mask(inputs["input_ids"])
    places = image[0].nonzero()[:, 0]
    layers, heads = range(len(adapter.layers)), range(adapter.heads)
    exits = [Exit(layer) for layer in list(layers)[-5:-1]]

    def strength() -> Columns:
        return Columns(0.2 * image.float())

    def lean(step: Step) -> Tensor:
        return step.main - 0.1 * step.exits[exits[0]]

    return {
        "probe of the newest row": lambda: Session([AttentionProbe(adapter, places, layers, heads)]),
        "bias on image columns": lambda: Session([_Bias(strength())]),
        "edited scores of the newest row": lambda: Session([_Scores(strength())]),
        "edited weights of the newest row": lambda: Session([_Weights(strength())]),
        "scaled heads": lambda: Session([_Heads()]),
        "scaled states that leave a layer": lambda: Session([_Outputs()]),
        "exits of four layers": lambda: Session(exits=exits, combine=lean),
    }


class _Watch(BaseStreamer):
    """A streamer that records the time of each token."""

    def __init__(self, device: str) -> None:
        self._cuda, self._length = device == "cuda", 0
        self._marks = [self._now()]

    def put(self, value: Tensor) -> None:
        """Record the time of a token; larger tensors are the prompt."""
        if value.numel() == 1:
            self._marks.append(self._now())

    def end(self) -> None:
        """Do nothing: no token is buffered."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Record a step of a search, as a logits processor; it may be called once for each beam."""
        if input_ids.shape[1] > self._length:
            self._length = input_ids.shape[1]
            self._marks.append(self._now())
        return scores

    def times(self) -> tuple[float, float]:
        """Return the seconds to the first token, and the mean seconds of later tokens."""
        start, first, last = self._marks[0], self._marks[1], self._marks[-1]
        return first - start, (last - first) / (len(self._marks) - 2)

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


@contextmanager
def _peak(device: str, peaks: list[int]) -> Iterator[None]:
    """Append the peak memory of a run in bytes: the GPU's, or on Linux the process's resident set."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif reset.exists():
        reset.write_text("5")
    yield
    if device == "cuda":
        peaks.append(torch.cuda.max_memory_allocated())
    elif reset.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        peaks.append(int(line.split()[1]) * 1024)


def _cost(name: str, over: str, times: dict[str, list[tuple[float, float]]], peaks: dict[str, list[int]]) -> Cost:
    variant, reference = times[name], times[over]
    return Cost(
        name=name,
        over=over,
        first=tuple(
            times_own[0] / times_reference[0] for times_own, times_reference in zip(variant, reference, strict=True)
        ),
        step=tuple(
            times_own[1] / times_reference[1] for times_own, times_reference in zip(variant, reference, strict=True)
        ),
        memory=statistics.median(peaks[name]) / statistics.median(peaks[over]) if peaks[over] else None,
        seconds=(statistics.median(t[0] for t in variant), statistics.median(t[1] for t in variant)),
    )


def table(costs: Sequence[Cost]) -> list[tuple[str, ...]]:
    """Format costs as rows of cells, the header first: median ratio and range, and tokens per second of later steps."""

    def ratio(values: Sequence[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"

    rows: list[tuple[str, ...]] = [("VARIANT", "FIRST TOKEN", "LATER STEP", "TOKENS/S", "PEAK MEMORY", "OVER")]
    for cost in costs:
        memory = "-" if cost.memory is None else f"{cost.memory:.3f}"
        rows.append((cost.name, ratio(cost.first), ratio(cost.step), f"{1 / cost.seconds[1]:.1f}", memory, cost.over))
    return rows
