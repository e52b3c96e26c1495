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
from mmhall.adapters._base import Request
from mmhall.attention import Op
from mmhall.decoders.vhr import select_heads
from mmhall.errors import OptionError
from tests.decoders.reference import NEW, REQUESTS, Slow, check, drawn, said, searched, settings, slow
from tests.generation.reference import FAMILIES, QUIET, in_turn
from tests.jobs import decode
from tests.zoo import ZOO

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
        bar = statistics.fmean(values) + deviation(values)
        return [value > bar for value in values]

    distances = [math.dist(*pair) for pair in zip(pictured.tolist(), bare.tolist(), strict=True)]
    sizes = [math.hypot(*head) for head in bare.tolist()]
    distances = [0.0 if far < 1e-4 * size else far for far, size in zip(distances, sizes, strict=True)]
    distances = [distance**2 if squared else distance for distance in distances]
    surges = [sum(value**2 for value in head) for head in bare.tolist()]
    outliers = [far and loud for far, loud in zip(high(distances), high(surges), strict=True)]
    counted = [0.0 if out else distance for out, distance in zip(outliers, distances, strict=True)]
    middle = statistics.median(counted)
    return [value > middle for value in counted]


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
        decode(adapter, inputs, session, config, [0] * len(requests))
    return session.ops[0].gains


@pytest.mark.parametrize(
    ("name", "options"), in_turn(FAMILIES, OPTIONS), ids=lambda value: getattr(value, "spec", str(value))
)
def test_it_says_what_complete_passes_layer_by_layer_say(name, options):
    check(slow(name), options.spec, vhr(options))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "qwen3_5", "instructblip", "mllama"])
def test_beams_and_draws_say_what_complete_passes_say(name):
    model, options = slow(name), OPTIONS[0]
    inputs = model.adapter.inputs(REQUESTS)
    each = [vhr(options)(model, request) for request in REQUESTS]
    beams = said(model.adapter, inputs, options.spec, num_beams=3, num_return_sequences=2)
    assert beams == [answer for one in each for answer in searched(one, 3)[:2]]
    draws = said(model.adapter, inputs, options.spec, seed=7, do_sample=True)
    assert draws == [drawn(one, 7) for one in each]


@pytest.mark.parametrize("name", ["llava", "gemma4", "mllama"])
def test_the_chosen_heads_are_those_of_the_slow_way(name):
    model, options = slow(name), OPTIONS[0]
    got = gains_of(model, REQUESTS, options.spec)
    wanted = [slow_gains(model, model.adapter.inputs([request]), options) for request in REQUESTS]
    assert {layer: values.tolist() for layer, values in got.items()} == {
        layer: [one[layer].tolist() for one in wanted] for layer in model.attending
    }
    counts = [(values > 1).sum(dim=1) for values in got.values()]
    assert all((count <= model.adapter.heads // 2).all() for count in counts)
    assert sum(counts).gt(0).any()


@pytest.mark.parametrize(("squared", "ddof"), [(False, 0), (False, 1), (True, 0), (True, 1)])
@pytest.mark.parametrize("heads", [3, 4, 5, 32])
def test_heads_are_chosen_as_by_hand(heads, squared, ddof):
    """Outputs of very uneven size, so that some are outliers."""
    generator = torch.Generator().manual_seed(heads)
    sizes = torch.rand(2, 20, heads, 1, generator=generator).pow(-1.5)
    pictured, bare = torch.randn(2, 20, heads, 6, generator=generator) * sizes
    got = select_heads(pictured, bare, squared, ddof).tolist()
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
        ((2e-5, 1e-5, 3e-5, 4e-5), (1, 2, 3, 4), []),  # nor here: rounding
        ((2e-5, 1e-5, 1, 4e-5), (1, 2, 3, 4), [2]),
    ],
)
def test_hand_made_heads(distances, norms, chosen):
    assert select_heads(*outputs(distances, norms))[0].nonzero()[:, 0].tolist() == chosen


@pytest.mark.parametrize(
    ("ddof", "squared", "chosen"),
    [
        (0, False, [1, 2]),  # 4 > 2.5 + 1.12
        (1, False, [1, 2]),  # 4 > 2.5 + 1.29
        (0, True, [1, 2]),
    ],
)
def test_deviation_and_squares_move_the_outlier_rule(ddof, squared, chosen):
    assert select_heads(*outputs((1, 3, 2, 4), (1, 1, 1, 5)), squared, ddof)[0].nonzero()[:, 0].tolist() == chosen


def test_permuted_heads_are_chosen_permuted():
    """Heads 0 and 1 share the first keys, 2 and 3 the second: both pairs and their order are swapped."""
    model, options, order = slow("llava"), OPTIONS[0], [3, 2, 0, 1]
    permuted = Slow(*ZOO["llava"]())
    for layer in permuted.adapter.layers:
        attention = layer.self_attn
        for linear, heads in ((attention.q_proj, order), (attention.k_proj, [1, 0]), (attention.v_proj, [1, 0])):
            linear.weight.data = linear.weight.data.unflatten(0, (len(heads), -1))[heads].flatten(0, 1)
        attention.o_proj.weight.data = attention.o_proj.weight.data.unflatten(1, (4, -1))[:, order].flatten(1, 2)
    before, after = (gains_of(each, REQUESTS, options.spec) for each in (model, permuted))
    assert {layer: values[:, order].tolist() for layer, values in before.items()} == {
        layer: values.tolist() for layer, values in after.items()
    }
    assert any((values != values[:, order]).any() for values in before.values())


class Note(Op):
    """Keeps the head outputs of every step and layer."""

    def __init__(self, gains=None):
        self.outputs, self.gains, self._watched = {}, [], gains

    def edit_output(self, call, output):
        self.outputs[call.step, call.layer] = output.clone()
        return output

    def bias(self, call):
        if self._watched is not None and call.step > 0:
            self.gains.append({layer: values.clone() for layer, values in self._watched.items()})


def noted(model: Slow, spec: str, **more) -> tuple[Note, dict[int, Tensor]]:
    """Decode with a strategy; return what its ops have made of the heads, and its gains."""
    adapter = model.adapter
    inputs = adapter.inputs(REQUESTS)
    with torch.inference_mode():
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, inputs)
        gains = session.ops[0].gains if session.ops else {}
        note, config = Note(gains), settings(adapter, **more)
        decode(adapter, inputs, session, config, [0, 0], watch=(note,))
    return note, gains


@pytest.mark.parametrize("name", ["llava", "qwen3_5", "mllama", "instructblip"])
def test_other_heads_keep_every_bit_and_chosen_ones_are_scaled(name):
    model = slow(name)
    first = model.attending[0]
    (plain, _), (note, gains) = noted(model, "greedy"), noted(model, f"vhr(layers='{first}')")
    before, after = plain.outputs[0, first], note.outputs[0, first]
    for row, chosen in enumerate(gains[first] == 2):
        assert 0 < chosen.sum() < len(chosen)
        assert torch.equal(after[row][:, ~chosen], before[row][:, ~chosen])
        assert torch.equal(after[row][:, chosen], 2 * before[row][:, chosen])
        assert not torch.equal(after[row][:, chosen], before[row][:, chosen])


@pytest.mark.parametrize("more", [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}], ids=str)
def test_gains_stay_what_they_are_after_the_prompt(more):
    note, gains = noted(slow("llava"), "vhr(layers=':')", **more)
    assert len(note.gains) == 3 * (NEW - 1)
    assert all(torch.equal(one[layer], gains[layer]) for one in note.gains for layer in gains)
    assert all(values.shape == (2, 4) for values in gains.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "qwen3_5", "mllama"])
def test_later_layers_do_not_matter_to_a_choice_and_earlier_ones_do(name):
    model = slow(name)
    *_, last = model.attending
    every = gains_of(model, REQUESTS, "vhr(alpha=5, layers=':')")
    early = gains_of(model, REQUESTS, f"vhr(alpha=5, layers=':{last}')")
    assert set(early) == set(every) - {last}
    assert all(torch.equal(early[layer], every[layer]) for layer in early)
    (plain, _), (alone, _) = (noted(model, f"vhr(alpha=5, layers='{layers}')") for layers in (last, ":"))
    assert not torch.allclose(plain.outputs[0, last], alone.outputs[0, last], rtol=1e-2)


def test_reinforced_layers_before_it_change_what_a_layer_chooses():
    """In which models they do is chance; that no model's choice changes is not."""
    for name in ("llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3", "blip_2"):
        model = slow(name)
        last = model.attending[-1]
        every, alone = (gains_of(model, REQUESTS, f"vhr(alpha=5, layers='{layers}')") for layers in (":", last))
        if not torch.equal(every[last], alone[last]):
            return
    pytest.fail("no choice depends on the layers before it")


@pytest.mark.parametrize("name", ["llava", "qwen3_5", "mllama"])
def test_neutral_strength_and_no_picture_are_plain_decoding(name):
    adapter = slow(name).adapter
    for spec, requests in (
        ("vhr(alpha=1, layers=':')", REQUESTS),
        ("vhr(layers=':')", [Request(request.prompt) for request in REQUESTS]),
    ):
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs(requests))
        assert (session.ops, session.branches) == ((), ())


def test_a_second_request_chooses_anew():
    model = slow("llava")
    first, second = (gains_of(model, [request], "vhr(layers=':')") for request in REQUESTS)
    both = gains_of(model, REQUESTS, "vhr(layers=':')")
    assert all(torch.equal(both[layer], torch.cat([first[layer], second[layer]])) for layer in both)
    assert any(not torch.equal(first[layer], second[layer]) for layer in both)


def test_only_cross_layers_are_no_layers_to_reinforce():
    adapter = slow("mllama").adapter
    with pytest.raises(OptionError, match="vhr: layers must be among layers of this model that attend so: 0, 2"):
        mmhall.strategy("vhr(layers='1')").prepare(adapter, adapter.inputs(REQUESTS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_differs_by_rounding_alone_is_not_seen(dtype):
    bare = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(0))
    rounded = (bare * (1 + torch.finfo(dtype).eps / 4)).to(dtype)
    assert not select_heads(rounded, bare.to(dtype)).any()
    assert select_heads((bare * torch.linspace(1, 2, 8)[:, None]).to(dtype), bare.to(dtype)).any()
