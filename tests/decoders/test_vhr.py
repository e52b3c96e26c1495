"""VHR against its definition, layer by layer in complete passes; and what must hold whatever the model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

import mmhall
from mmhall.adapters.base import Request
from mmhall.attention import Op
from mmhall.decoders.vhr import seeing
from mmhall.generation.run import decode, prepared, run
from tests.decoders.reference import (
    FAMILIES,
    NEW,
    QUIET,
    REQUESTS,
    Slow,
    check,
    check_on,
    drawn,
    said,
    searched,
    settings,
    slow,
)

pytestmark = QUIET


@dataclass(frozen=True)
class Options:
    """How the reference is asked for what `spec` asks mmhall for."""

    spec: str
    alpha: float
    layers: Callable[[range], Sequence[int]] = lambda every: every
    positions: str = "all"
    scale_text: bool = True
    squared: bool = False
    ddof: int = 0

    def chosen(self, model: Slow) -> list[int]:
        named = self.layers(range(len(model.adapter.kinds)))
        return [layer for layer in sorted(named) if layer in model.attending]


OPTIONS = (
    Options("vhr(layers=':')", 2.0),
    Options("vhr(alpha=0.5, layers='1:', positions='last')", 0.5, lambda every: every[1:], "last"),
    Options("vhr(alpha=3, layers='0, 2:', scale_text=False)", 3.0, lambda every: (0, *every[2:]), scale_text=False),
    Options("vhr(alpha=1.5, layers='0:', positions='last', scale_text=False)", 1.5, positions="last", scale_text=False),
    Options("vhr(alpha=0, layers=':', squared=True, ddof=1)", 0.0, squared=True, ddof=1),
)


def seeing_by_hand(pictured: Tensor, bare: Tensor, squared: bool = False, ddof: int = 0) -> list[bool]:
    """Choose the heads of one prompt, whose outputs are (H, D); what rounding makes of a distance of 0 counts 0."""
    deviation = statistics.stdev if ddof else statistics.pstdev

    def high(values: list[float]) -> list[bool]:
        return [value > statistics.fmean(values) + deviation(values) for value in values]

    distances = [math.dist(*pair) for pair in zip(pictured.tolist(), bare.tolist(), strict=True)]
    sizes = [math.hypot(*head) for head in bare.tolist()]
    distances = [0.0 if far < 1e-4 * size else far for far, size in zip(distances, sizes, strict=True)]
    distances = [distance**2 if squared else distance for distance in distances]
    surges = [sum(value**2 for value in head) for head in bare.tolist()]
    outliers = [far and loud for far, loud in zip(high(distances), high(surges), strict=True)]
    counted = [0.0 if out else distance for out, distance in zip(outliers, distances, strict=True)]
    return [value > statistics.median(counted) for value in counted]


def reinforced(gains: dict[int, Tensor], first: int):
    """Multiply the head outputs of some layers from a position on."""

    def edit(layer: int, output: Tensor) -> Tensor:
        if layer not in gains:
            return output
        return torch.cat([output[:, :first], output[:, first:] * gains[layer][:, None]], dim=1)

    return edit


def heads_at(model: Slow, inputs, layer: int, gains: dict[int, Tensor], positions: str) -> Tensor:
    """Head outputs of a layer at the last position, (H, D), with the layers before it reinforced."""
    first = inputs["input_ids"].shape[1] - 1 if positions == "last" else 0
    change, kept = reinforced(gains, first), {}

    def edit(at: int, output: Tensor) -> Tensor:
        kept[at] = output[0, -1].clone()
        return change(at, output)

    model.read(inputs, output=edit)
    return kept[layer]


def slow_gains(model: Slow, inputs, options: Options) -> dict[int, Tensor]:
    """Find the gains of each chosen layer, (H,), by two complete passes for every layer."""
    bare, gains = model.adapter.without_image(inputs), {}
    for layer in options.chosen(model):
        with_ = heads_at(model, inputs, layer, gains, options.positions)
        without = heads_at(model, bare, layer, gains if options.scale_text else {}, options.positions)
        seen = seeing_by_hand(with_, without, options.squared, options.ddof)
        gains[layer] = torch.tensor([options.alpha if each else 1.0 for each in seen])
    return gains


def vhr(options: Options):
    """Scores of answers, as `check` wants them."""

    def of(model: Slow, request: Request):
        inputs = model.adapter.inputs([request])
        gains = slow_gains(model, inputs, options)
        first = inputs["input_ids"].shape[1] - 1 if options.positions == "last" else 0

        @cache
        def after(answer: tuple[int, ...]) -> Tensor:
            return model.read(model.longer(inputs, answer), output=reinforced(gains, first))

        return lambda answer: after(tuple(answer))

    return of


def gains_of(model: Slow, requests, spec: str, **more) -> dict[int, Tensor]:
    """The gains that mmhall finds, (prompts, H) by layer."""
    adapter = model.adapter
    inputs = adapter.inputs(requests)
    with torch.inference_mode():
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, inputs)
        config = settings(adapter, **more)
        decode(adapter, prepared(adapter, inputs, config), session, config, [0] * len(requests))
    return session.ops[0].gains


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options.spec)
def test_it_says_what_complete_passes_layer_by_layer_say(name, options):
    check(name, options.spec, vhr(options))


@pytest.mark.parametrize("name", FAMILIES)
def test_beams_and_draws_say_what_complete_passes_say(name):
    model, options = slow(name), OPTIONS[0]
    inputs = model.adapter.inputs(REQUESTS)
    each = [vhr(options)(model, request) for request in REQUESTS]
    beams = said(model.adapter, inputs, options.spec, num_beams=3, num_return_sequences=2)
    assert beams == [answer for one in each for answer in searched(one, 3)[:2]]
    draws = said(model.adapter, inputs, options.spec, seed=7, do_sample=True)
    assert draws == [drawn(one, 7) for one in each]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_chosen_heads_are_those_of_the_slow_way(name):
    model, options = slow(name), OPTIONS[0]
    got = gains_of(model, REQUESTS, options.spec)
    wanted = [slow_gains(model, model.adapter.inputs([request]), options) for request in REQUESTS]
    assert {layer: values.tolist() for layer, values in got.items()} == {
        layer: [one[layer].tolist() for one in wanted] for layer in model.attending
    }
    assert all(1 <= (row > 1).sum() <= model.adapter.heads // 2 for values in got.values() for row in values)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("heads", [3, 4, 5, 12, 32])
def test_heads_are_chosen_as_by_hand(heads, squared, ddof):
    """Outputs of very uneven size, so that some are outliers."""
    generator = torch.Generator().manual_seed(heads)
    sizes = torch.rand(2, 200, heads, 1, generator=generator).pow(-1.5)
    pictured, bare = torch.randn(2, 200, heads, 6, generator=generator) * sizes
    got = seeing(pictured, bare, squared, ddof).tolist()
    assert got == [seeing_by_hand(*pair, squared, ddof) for pair in zip(pictured, bare, strict=True)]
    assert all(sum(row) <= heads // 2 for row in got)


def outputs(distances, norms):
    """Head outputs of one prompt: along one axis without the picture, with it as far away as asked."""
    bare = torch.tensor([[[norm, 0.0] for norm in norms]])
    return bare + torch.tensor([[[0.0, distance] for distance in distances]]), bare


@pytest.mark.parametrize(
    ("distances", "norms", "chosen"),
    [
        ((1, 2, 3, 9), (1, 1, 1, 1), [2, 3]),
        ((1, 2, 3, 9), (1, 1, 1, 5), [1, 2]),  # 9 > 3.75 + 3.11, 25 > 7 + 10.4: counts 0
        ((1, 2, 3, 9), (5, 1, 1, 1), [2, 3]),  # far, not loud; loud, not far
        ((3, 3, 3, 3), (1, 2, 3, 4), []),
        ((0, 0, 0, 0), (1, 2, 3, 4), []),  # the picture is not there
        ((0, 0, 0, 2), (1, 1, 1, 1), [3]),
    ],
)
def test_hand_made_heads(distances, norms, chosen):
    assert seeing(*outputs(distances, norms))[0].nonzero()[:, 0].tolist() == chosen
