"""The plan of a reproduction as lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from mmhall.benchmarks.reproduce.downloads import Download
from mmhall.benchmarks.reproduce.memory import Widths
from mmhall.benchmarks.reproduce.pins import GB
from mmhall.benchmarks.reproduce.plan import TEXT_TOKENS, StepPlan
from mmhall.benchmarks.reproduce.protocol import Protocol, Shape

_WIDTH = 100
_SCALES = ((3600.0, "h"), (60.0, "min"))


def format_plan(
    protocol: Protocol,
    plans: Sequence[StepPlan],
    needed: Sequence[Download],
    shape: Shape,
    widths: Widths,
    batch_size: int,
) -> list[str]:
    """Format a plan.

    Args:
        protocol: The protocol.
        plans: Its steps.
        needed: What is downloaded.
        shape: Size of the model.
        widths: Bytes of a value.
        batch_size: Items decoded together.
    """
    lines = [f"protocol {protocol.name}, of {protocol.model}", ""]
    lines += ["from the hub:", *(line for one in needed for line in _wrapped(str(one)))]
    lines[-1] += "" if needed else " nothing"
    for plan in plans:
        lines += ["", *_step(plan)]
    return [*lines, "", *_sum(plans), *_memory(plans, shape, widths, batch_size)]


def duration(seconds: float) -> str:
    """Format a duration with two digits or more.

    >>> duration(0.21), duration(75), duration(5400)
    ('0.2 s', '1.2 min', '1.5 h')
    """
    return next((f"{seconds / size:.1f} {unit}" for size, unit in _SCALES if seconds >= size), f"{seconds:.1f} s")


def _step(plan: StepPlan) -> Iterator[str]:
    yield f"step {plan.step.name}"
    if plan.missing:
        yield from _wrapped(f"cannot run: {plan.missing}")
        return
    for part in plan.parts:
        items = f"{part.items} items{'' if part.counted else ' (published number)'}"
        tokens = f"usually {part.usual} tokens, at most {part.benchmark.max_new_tokens}"
        yield from _wrapped(f"{part.benchmark}: {items}, {tokens}")
    for remark in dict.fromkeys(remark for part in plan.parts for remark in part.remarks):
        yield from _wrapped(f"differs: {remark}")
    for arm in plan.arms:
        if arm.refused:
            yield from _wrapped(f"{arm.strategy}: not run: {arm.refused}", "    ")
            continue
        passes = f"{arm.token_passes} pass{'' if arm.token_passes == 1 else 'es'} of {arm.token_rows} rows a token"
        cost = f"{passes}{'' if arm.exact else ' at most, and further passes'}, {arm.prompt_passes} over the prompt"
        each = [part.seconds.get(arm.strategy) for part in plan.parts]
        spent = [value for value in each if value is not None]
        time = f", about {duration(sum(spent))}" if spent and len(spent) == len(each) else ""
        yield from _wrapped(f"{arm.strategy}: {cost}{time}", "    ")
    seconds = "" if plan.seconds is None else f", about {duration(plan.seconds)}"
    yield f"  {plan.answers} answers, {plan.token_rows} rows of tokens{seconds}"


def _sum(plans: Sequence[StepPlan]) -> Iterator[str]:
    able = [plan for plan in plans if not plan.missing]
    answers, rows = sum(plan.answers for plan in able), sum(plan.token_rows for plan in able)
    yield from _wrapped(f"together: {answers} answers, {rows} rows of tokens", "")
    if able and all(plan.seconds is not None for plan in able):
        yield from _wrapped(
            f"time: about {duration(sum(plan.seconds or 0 for plan in able))} for answers of usual length, from short "
            "batches measured now, beside what else this machine does; searches may take longer",
            "",
        )
    else:
        why = "the model is not on this machine, or a step cannot be measured"
        yield from _wrapped(f"time: not measured: {why}; a row of a token is one token through the decoder", "")


def _memory(plans: Sequence[StepPlan], shape: Shape, widths: Widths, batch_size: int) -> Iterator[str]:
    weights = shape.parameters * widths.weight
    row = shape.cache_bytes(1, widths.cache)
    formula = f"2 x {shape.layers} layers x {shape.kv_heads} heads x {shape.head_width} values x {widths.cache} bytes"
    caches = {plan.step.name: plan.cache_bytes(shape, batch_size, widths.cache) for plan in plans if not plan.missing}
    counted = f"{shape.parameters / 1e6:.1f} million values of {widths.weight:g} bytes"
    yield from _wrapped(f"memory: weights {_size(weights)} ({counted})", "")
    yield from _wrapped(f"keys and values {row} bytes a token and row: {formula} ({widths.dtype})")
    if caches:
        step = max(caches, key=lambda name: caches[name])
        prompt = f"{shape.image_tokens} image tokens, {TEXT_TOKENS} of text, the longest answer"
        yield from _wrapped(f"at most {_size(caches[step])} for a batch of {batch_size} in step {step} ({prompt})")
        yield from _wrapped(
            f"together {_size(weights + caches[step])}, without activations; without room, a batch is halved"
        )


def _size(count: float) -> str:
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{count / 1e6:.1f} MB"


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    """Break a text into lines; a line that goes on is indented further."""
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ", break_long_words=False)
