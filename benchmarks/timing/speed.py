"""What reading, steering, branching and searching cost, as ratios to transformers' own `generate`.

A random LLaVA answers one prompt again and again: plain `generate` and every variant take turns in one
process, so that whatever else the machine does falls on all of them. A ratio is taken within a turn;
the median and the range over the turns are shown. The first token (vision tower and prompt) and later
steps are timed apart. Weights are random: decoding costs the same whatever they are.

A strategy that searches is set against transformers' beam search with as many beams. Neither gives tokens
as it goes, so that a step counts as done when its scores are there.
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
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers.generation import BaseStreamer

from mmhall.adapters import Adapter, adapter_for
from mmhall.analysis import AttentionProbe
from mmhall.attention import Call, Columns, Exit, Op, Visit
from mmhall.decoders import STRATEGIES
from mmhall.generation import Job, Recipe, Settings, decode, plan_batch, run
from mmhall.strategies import Session, Step, Strategy, strategy as make_strategy

PLAIN, EAGER, BEAMS = "plain generate", "eager, output_attentions", "beam search, 5 beams"
IMAGE_TOKENS, _TEXT_TOKENS, IMAGE_ID, _VOCABULARY = 576, 44, 3, 32000
_KINDS, _WIDE = 7, 5


@dataclass(frozen=True, slots=True)
class Size:
    """A model to time.

    Attributes:
        layers: Decoder layers.
        hidden: Width; heads are 64 or, from 4096 on, 128 wide.
        dtype: Of the weights.
    """

    layers: int
    hidden: int
    dtype: torch.dtype


_ACTIVE = {"var": "var(sink_dims=(0, 1), tau=3.0)"}  # random weights make no massive dimensions to be found
_PARTS = ("pai(gamma=1.0)",)
UNTIMED = frozenset({"cgd"})  # it needs a second model, whose cost is not this one's
TURNS, NEW_TOKENS = 7, 64
SMALL, LARGE = Size(8, 512, torch.float32), Size(32, 4096, torch.bfloat16)  # what a CPU can bear; 7B


@dataclass(frozen=True, slots=True)
class Cost:
    """What one variant costs.

    Attributes:
        name: The variant.
        over: What it is set against.
        first: Time to the first token over that one's, one ratio a turn.
        step: Time of a later token over that one's, one ratio a turn.
        memory: Peak memory over that one's; None where it cannot be read.
        seconds: Median time to the first token and of a later one, in seconds.
    """

    name: str
    over: str
    first: tuple[float, ...]
    step: tuple[float, ...]
    memory: float | None
    seconds: tuple[float, float]


def timed() -> list[Strategy]:
    """Return the strategies to time: every one that needs no other model, and parts that cost less by themselves."""
    specs = [_ACTIVE.get(name, name) for name in STRATEGIES.names() if name not in UNTIMED]
    return [make_strategy(spec) for spec in (*specs, *_PARTS)]


def measure(
    size: Size,
    device: str,
    turns: int = TURNS,
    new_tokens: int = NEW_TOKENS,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Cost]:
    """Time every variant.

    Args:
        size: Of the model.
        device: "cpu" or "cuda".
        turns: How often each variant counts; one more run warms up.
        new_tokens: Tokens of an answer, >= 3.
        progress: Told after each run.
    """
    model = random_llava(size, device)
    twins = _twin(model, "sdpa"), _twin(model, "eager")
    adapter = adapter_for(model)
    methods = timed()
    variants = _variants(adapter, *twins, methods, new_tokens)
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
    searches = [str(method) for method in methods if method.beams > 1]
    return [_cost(name, BEAMS if name in searches else PLAIN, times, peaks) for name in variants]


def _variants(
    adapter: Adapter, own: PreTrainedModel, eager: PreTrainedModel, methods: Sequence[Strategy], new_tokens: int
) -> dict[str, Callable[..., Any]]:
    """Return what to time, by name; each is called with a `_Watch` as `streamer`.

    Args:
        adapter: The model through mmhall.
        own: The same through transformers.
        eager: The same with eager attention.
        methods: Strategies.
        new_tokens: Tokens of an answer.
    """
    inputs = _inputs(adapter.model)
    settings = Settings(max_new_tokens=new_tokens)
    config = settings.resolved(adapter.model)
    config.eos_token_id = None
    asked = {**inputs, "generation_config": config}
    shown = copy.deepcopy(config)
    shown.update(output_attentions=True, return_dict_in_generate=True)

    def asked_for(make: Callable[[], Session], streamer: BaseStreamer) -> None:
        run(Job(adapter, inputs, make(), config, [], streamer=streamer))

    def chained(method: Strategy, streamer: BaseStreamer) -> None:
        recipe = Recipe(method.fitted(adapter), {}, settings, config)
        run(recipe.job(adapter, inputs, streamer=streamer))

    wide = copy.deepcopy(config)
    wide.update(num_beams=_WIDE, eos_token_id=[_VOCABULARY])  # it never ends

    def searched(method: Strategy, streamer: _Watch) -> None:
        with torch.inference_mode():
            session = method.fitted(adapter).prepare(adapter, inputs)
            main = plan_batch(adapter, inputs, session.ops, wide)
            main.prepared.processors.append(streamer)
            decode(Job(adapter, inputs, session, wide, []), main)

    return {
        PLAIN: lambda streamer: own.generate(**asked, streamer=streamer),
        EAGER: lambda streamer: eager.generate(**inputs, generation_config=shown, streamer=streamer),
        **{name: partial(asked_for, make) for name, make in _sessions(adapter, inputs).items()},
        **{str(method): partial(chained, method) for method in methods if method.beams == 1},
        BEAMS: lambda streamer: own.generate(
            **inputs, generation_config=wide, logits_processor=LogitsProcessorList([streamer])
        ),
        **{str(method): partial(searched, method) for method in methods if method.beams > 1},
    }


def random_llava(size: Size, device: str) -> LlavaForConditionalGeneration:
    """Build a LLaVA with random weights: a small vision tower of 24 x 24 patches before a Llama."""
    torch.manual_seed(0)
    heads = size.hidden // (128 if size.hidden >= LARGE.hidden else 64)
    vision = CLIPVisionConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=336,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=size.hidden,
        intermediate_size=size.hidden * 11008 // 4096,
        num_hidden_layers=size.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE_ID)
    with torch.device(device):
        model = LlavaForConditionalGeneration._from_config(config, dtype=size.dtype)
    model.generation_config.pad_token_id = 0
    return model.eval()


def told(size: Size) -> str:
    """Say what was decoded."""
    kind = str(size.dtype).removeprefix("torch.")
    return (
        f"random LLaVA of {size.layers} layers, hidden {size.hidden}, {kind}, "
        f"{IMAGE_TOKENS + _TEXT_TOKENS} prompt tokens of which {IMAGE_TOKENS} image, {NEW_TOKENS} new tokens"
    )


def runs() -> int:
    """Return how many runs `measure` reports."""
    return (3 + _KINDS + len(timed())) * (TURNS + 1)


def machine(device: str) -> str:
    """Say what was measured on: processor, cores, versions."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    import transformers

    return (
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, transformers {transformers.__version__}"
    )


def _inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    text = torch.arange(10, 10 + _TEXT_TOKENS)
    ids = torch.cat([text[:8], torch.full((IMAGE_TOKENS,), IMAGE_ID), text[8:]])[None]
    pixels = torch.randn(1, 3, 336, 336, generator=torch.Generator().manual_seed(0))
    return {
        "input_ids": ids.to(model.device),
        "attention_mask": torch.ones_like(ids).to(model.device),
        "pixel_values": pixels.to(model.device, model.dtype),
    }


def _twin(model: PreTrainedModel, attention: str) -> PreTrainedModel:
    """Return a copy that shares the weights but not the attention."""
    shared = {id(part): part for part in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    twin.set_attn_implementation(attention)
    return twin


class _Bias(Op):
    """Adds to the scores of image columns, in all rows."""

    def __init__(self, strength: Columns) -> None:
        self.strength = strength

    def bias(self, call: Call) -> Tensor:
        return self.strength(call)


class _Newest(Op):
    """Edits the newest row, by so much in each column."""

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


def _sessions(adapter: Adapter, inputs: dict[str, Tensor]) -> dict[str, Callable[[], Session]]:
    """Return sessions by what they ask for: an op of every kind, in all layers and heads, on the image columns."""
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
    """Notes when each token arrives."""

    def __init__(self, device: str) -> None:
        self._cuda, self._length = device == "cuda", 0
        self._marks = [self._now()]

    def put(self, value: Tensor) -> None:
        """Note a token; what holds more is the prompt."""
        if value.numel() == 1:
            self._marks.append(self._now())

    def end(self) -> None:
        """Nothing is held back."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Note a step of a search, as a logits processor; some let it see the beams one after the other."""
        if input_ids.shape[1] > self._length:
            self._length = input_ids.shape[1]
            self._marks.append(self._now())
        return scores

    def times(self) -> tuple[float, float]:
        """Return seconds to the first token, and the mean of the later ones."""
        start, first, last = self._marks[0], self._marks[1], self._marks[-1]
        return first - start, (last - first) / (len(self._marks) - 2)

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


@contextmanager
def _peak(device: str, peaks: list[int]) -> Iterator[None]:
    """Append the peak memory of a run in bytes: the GPU's, or where Linux tells it the process's resident set."""
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
    own, plain = times[name], times[over]
    return Cost(
        name=name,
        over=over,
        first=tuple(mine[0] / theirs[0] for mine, theirs in zip(own, plain, strict=True)),
        step=tuple(mine[1] / theirs[1] for mine, theirs in zip(own, plain, strict=True)),
        memory=statistics.median(peaks[name]) / statistics.median(peaks[over]) if peaks[over] else None,
        seconds=(statistics.median(t[0] for t in own), statistics.median(t[1] for t in own)),
    )


def table(costs: Sequence[Cost]) -> list[tuple[str, ...]]:
    """Write costs as rows of cells, the header first: median ratio and range."""

    def ratio(values: Sequence[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"

    rows: list[tuple[str, ...]] = [("VARIANT", "FIRST TOKEN", "LATER STEP", "PEAK MEMORY", "OVER")]
    for cost in costs:
        memory = "-" if cost.memory is None else f"{cost.memory:.3f}"
        rows.append((cost.name, ratio(cost.first), ratio(cost.step), memory, cost.over))
    return rows
