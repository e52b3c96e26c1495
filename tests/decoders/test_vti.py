"""VTI against its formula written out, on the families' representatives; its fit on numbers, its twin, its limits."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache, partial

import pytest
import torch

import mmhall
from mmhall.adapters._anatomy import Anatomy
from mmhall.adapters._base import Request
from mmhall.decoders.vti import effect_of_masks, find_direction
from mmhall.errors import CompositionError, FitError, OptionError
from mmhall.strategies import Strategy, turn, twin_generator
from tests.attention.tower import hooked
from tests.decoders.fitted import fitted_artifact, made_pairs, with_artifacts
from tests.decoders.rows import check, check_half, family, scored
from tests.decoders.steering import edited, from_row, outputs, turned
from tests.generation.reference import QUIET, REQUESTS, in_turn, ours
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET

CLOSE = {"rtol": 0, "atol": 1e-4}
VARIANTS = {"all": "alpha=4", "answer": "alpha=-8, rows='answer', layers='1:'"}


@pytest.mark.parametrize(("name", "variant"), in_turn(tuple(REPRESENTATIVES), tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    adapter, _ = family(name)
    direction = with_artifacts(adapter).artifacts["vti"].tensors["direction"]
    first_layer, strength = (0, 0.4) if variant == "all" else (1, -0.8)

    def reference(adapter, reader, request, answer):
        reader.begin(adapter.inputs([request]))
        first = 0 if variant == "all" else reader.length - 1

        def edit(layer, states):
            return from_row(first, states, lambda part: turned(part, direction[layer], strength))

        with edited(reader, "mlp", range(first_layer, len(adapter.layers)), edit):
            return reader.logits(adapter.inputs([request]), answer[:-1]).log_softmax(-1)

    with torch.no_grad():
        check(name, f"vti({VARIANTS[variant]})", reference)


VISION = "vti(alpha_vision=4, copies=3, masked=0.9)"


@cache
def fitted_to_vision(adapter):
    """An artifact that holds directions of the vision tower."""
    return fitted_artifact(adapter, VISION)


@pytest.mark.parametrize(("name", "alpha", "alpha_vision"), [("llava", 0, 30), ("qwen2_5_vl", 4, -30)])
def test_a_batch_is_the_formula_in_the_vision_tower_of_each_prompt(name, alpha, alpha_vision, monkeypatch):
    adapter, _ = family(name)
    artifact = fitted_to_vision(adapter)
    monkeypatch.setattr(adapter, "artifacts", {"vti": artifact})
    direction, vision = (artifact.tensors[what] for what in ("direction", "vision"))

    def turn_patches(layer, states):
        return turned(states.view(-1, states.shape[-1]), vision[layer], alpha_vision / 10).view_as(states)

    def reference(adapter, reader, request, answer):
        reader.begin(adapter.inputs([request]))
        with ExitStack() as hooks:
            for layer in range(len(vision)):
                edit = partial(turn_patches, layer)
                hooks.enter_context(hooked(reader.eager.model, "mlp", edit, [layer]))
            if alpha:
                every = range(len(adapter.layers))
                change = edited(reader, "mlp", every, lambda i, h: turned(h, direction[i], alpha / 10))
                hooks.enter_context(change)
            return reader.logits(adapter.inputs([request]), answer[:-1]).log_softmax(-1)

    with torch.no_grad():
        check(name, f"vti(alpha={alpha}, alpha_vision={alpha_vision})", reference)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_the_fit_of_the_vision_tower_is_the_mean_of_plain_passes(name):
    """One picture, three copies, half of the patches masked; each read by itself with hooks of our own."""
    adapter, seed = ours(name), 5
    (pair,) = made_pairs(1)
    inputs = adapter.inputs([Request(pair.prompt, (pair.picture,))])
    pixels, tower = inputs["pixel_values"], Anatomy(adapter.model).vision.layers
    side = adapter.model.config.vision_config.patch_size

    def read(pixels):
        means = []

        def take(module, args, output):
            states = output[0] if isinstance(output, tuple) else output
            means.append(states.flatten(0, -2).mean(dim=0))

        hooks = [layer.register_forward_hook(take) for layer in tower]
        with torch.inference_mode():
            adapter.model(**{**inputs, "pixel_values": pixels})
        for hook in hooks:
            hook.remove()
        return torch.stack(means)

    def patches(pixels):
        """One view of each patch, channels first, to be written."""
        if pixels.ndim == 2:
            return [row.view(3, -1) for row in pixels]
        rows, columns = (size // side for size in pixels.shape[-2:])
        ends = [
            (slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side))
            for i in range(rows)
            for j in range(columns)
        ]
        return [pixels[0, :, down, across] for down, across in ends]

    generator, copies = twin_generator(seed, f"masks of picture {pair.id}"), []
    colour = [torch.cat([part[channel].flatten() for part in patches(pixels)]).mean() for channel in range(3)]
    for _ in range(3):
        copy = pixels.clone()
        count = len(patches(copy))
        for number in torch.randperm(count, generator=generator)[: count // 2].tolist():
            for channel in range(3):
                patches(copy)[number][channel] = colour[channel]
        copies.append(read(copy))
    wanted = torch.stack(copies).mean(dim=0) - read(pixels)
    with torch.inference_mode():
        found = effect_of_masks(adapter, pair, 3, 0.5, seed)
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=1e-4)
    assert wanted.norm(dim=-1).min() > 0.1


def test_the_vision_tower_is_fitted_where_it_is_asked_for():
    adapter = ours("llava")
    artifact, pairs = fitted_to_vision(adapter), made_pairs()
    with torch.inference_mode():
        each = torch.stack([effect_of_masks(adapter, pair, 3, 0.9, artifact.facts["seed"]) for pair in pairs])
        method = Strategy.fitted(mmhall.strategy("vti(alpha_vision=1, copies=3, masked=0.9, pictures=4)"), adapter)
        few = method.fit(adapter, pairs, artifact.facts["seed"])
    torch.testing.assert_close(artifact.tensors["vision"], each.mean(dim=0).float())
    torch.testing.assert_close(few.tensors["vision"], each[:4].mean(dim=0).float())
    assert few.numbers["vision tower"]["pictures"] == 4
    assert set(with_artifacts(adapter).artifacts["vti"].tensors) == {"direction"}


def test_masks_that_change_nothing_have_no_direction():
    adapter = ours("llava")
    with torch.inference_mode():
        with pytest.raises(FitError, match=r"picture 0: masking 0\.00% of its patches changes nothing"):
            effect_of_masks(adapter, made_pairs(1)[0], 2, 0.0, 0)
        method = Strategy.fitted(mmhall.strategy("vti(alpha_vision=1, copies=1, pictures=2)"), adapter)
        same = [pair for pair in made_pairs(1) for _ in range(6)]
        with pytest.raises(FitError, match=r"no common direction \(pictures: 1\): norm .* more pictures"):
            method.fit(adapter, same, 28)


@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_the_fit_is_the_mean_of_plain_passes(name):
    adapter = ours(name)
    found = fitted_artifact(adapter, "vti(component=False)").tensors["direction"]

    def state(pair, text):
        ids = torch.tensor([adapter.tokenizer(text, add_special_tokens=False)["input_ids"]])
        inputs = adapter.append_answer(adapter.inputs([Request(pair.prompt, (pair.picture,))]), ids)
        return torch.stack([layer[-1] for layer in outputs(adapter, inputs)])

    differences = [state(pair, pair.faithful) - state(pair, pair.hallucinated) for pair in made_pairs()]
    torch.testing.assert_close(found, torch.stack(differences).mean(dim=0), rtol=1e-3, atol=1e-3)


def test_the_edit_of_a_toy():
    found = turn(torch.tensor([3.0, 4.0]), torch.tensor([-2.0, 0.0]), 0.8 / 10)
    torch.testing.assert_close(found, torch.tensor([2.7249, 4.1922]), **CLOSE)


def test_the_direction_of_a_toy():
    """(1, 0), (3, 2), (8, 7): mean (4, 3), component along (1, 1) on the side of the mean, in any order."""
    samples = torch.tensor([[[1.0, 0.0]], [[3.0, 2.0]], [[8.0, 7.0]]])
    for given in (samples, samples.flip(0)):
        found, numbers = find_direction(given, component=True)
        torch.testing.assert_close(found, torch.tensor([[4.7071, 3.7071]]), **CLOSE)
        assert numbers["component"]["cosine with the mean"] == pytest.approx(0.98995, abs=1e-4)
    torch.testing.assert_close(find_direction(-samples, component=True)[0], -found)
    torch.testing.assert_close(find_direction(samples, component=False)[0], torch.tensor([[4.0, 3.0]]), **CLOSE)


def test_a_component_across_the_mean_is_left_out_with_a_note():
    samples = torch.tensor([[[0.0, 3.0, 0.1]], [[0.0, 3.0, -0.1]]])
    found, numbers = find_direction(samples, component=True)
    torch.testing.assert_close(found, torch.tensor([[0.0, 3.0, 0.0]]), **CLOSE)
    assert "left out, the direction is the mean" in numbers["component"]


def test_texts_without_a_common_direction_are_refused():
    adapter = ours("llava")
    method = Strategy.fitted(mmhall.strategy("vti"), adapter)
    pairs = made_pairs(4)
    swapped = [type(pair)(pair.id, pair.picture, pair.prompt, pair.hallucinated, pair.faithful) for pair in pairs]
    with torch.inference_mode(), pytest.raises(FitError, match="there is no direction to steer along"):
        method.fit(adapter, [*pairs, *swapped], 28)


def directions(spec):
    adapter = with_artifacts(ours("llava"))
    (op,) = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1])).ops
    return torch.stack([op.directions[layer] for layer in sorted(op.layers)])


def test_the_twin_has_other_directions_of_the_same_lengths():
    true, one, again, other = (directions(f"vti(twin={twin})") for twin in (0, 1, 1, 2))
    torch.testing.assert_close(one.norm(dim=-1), true.norm(dim=-1), rtol=1e-6, atol=0)
    assert torch.equal(one, again)
    for drawn in (one, other):
        assert torch.nn.functional.cosine_similarity(drawn, true, dim=-1).abs().max() < 0.7


def test_the_twin_has_other_directions_in_the_vision_tower(monkeypatch):
    adapter = ours("llava")
    monkeypatch.setattr(adapter, "artifacts", {"vti": fitted_to_vision(adapter)})
    inputs, found = adapter.inputs(REQUESTS[:1]), []
    for twin in (0, 1, 2):
        tower, decoder = (
            mmhall.strategy(f"vti(alpha_vision=1, twin={twin})").fitted(adapter).prepare(adapter, inputs).ops
        )
        assert (tower.findings(3), set(decoder.findings(3))) == ({}, {"lengths of directions"})
        found.append(torch.stack([tower.directions[layer] for layer in sorted(tower.layers)]))
    true, *drawn = found
    for one in drawn:
        torch.testing.assert_close(one.norm(dim=-1), true.norm(dim=-1), rtol=1e-6, atol=0)
        assert torch.nn.functional.cosine_similarity(one, true, dim=-1).abs().max() < 0.7
    assert not torch.equal(*drawn)


def test_without_its_vision_half_it_is_what_it_was(monkeypatch):
    """Also with an artifact that holds the tower's directions; and the half by itself has a neutral strength."""
    adapter, batch = ours("llava"), ours("llava").inputs(REQUESTS[:2])
    session = mmhall.strategy("vti(alpha=4)").fitted(with_artifacts(adapter)).prepare(adapter, batch)
    answers = torch.ones(2, 4, dtype=torch.long)
    plain = scored(adapter, batch, session, answers)
    monkeypatch.setattr(adapter, "artifacts", {"vti": fitted_to_vision(adapter)})
    same = mmhall.strategy("vti(alpha=4, alpha_vision=0)").fitted(adapter).prepare(adapter, batch)
    assert torch.equal(scored(adapter, batch, same, answers), plain)
    for spec, inputs in (("vti(alpha=0)", batch), ("vti(alpha_vision=1)", adapter.inputs([Request("What?")]))):
        assert mmhall.strategy(spec).fitted(adapter).prepare(adapter, inputs) == mmhall.Session()


def test_a_vision_tower_that_cannot_be_steered_is_refused(monkeypatch):
    adapter = with_artifacts(ours("llava"))
    with pytest.raises(OptionError, match=r"vti: alpha_vision must be 0, as .* fitted without .* `mmhall fit"):
        mmhall.strategy("vti(alpha_vision=0.9)").fitted(adapter)
    monkeypatch.setitem(vars(adapter), "anatomy", Anatomy(adapter.decoder))
    with pytest.raises(CompositionError, match=r"cannot carry it: alpha_vision steers .* but llama: no vision tower"):
        mmhall.strategy("vti(alpha_vision=0.9)").fitted(adapter)
    assert mmhall.strategy("vti").fitted(adapter).alpha_vision == 0


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter = with_artifacts(ours("llava"))
    cases = (("vti(alpha=0)", REQUESTS[0]), ("vti(alpha=0, twin=3)", REQUESTS[0]), ("vti", Request("What?")))
    for spec, request in cases:
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request]))
        assert session == mmhall.Session(), spec


def test_half_precision():
    artifacts = with_artifacts(ours("llava")).artifacts
    for active, neutral in (
        ("vti(alpha=8)", "vti(alpha=0)"),
        ("revis(threshold=-1)", "revis(alpha=0)"),
        ("revis(threshold=-1)", "revis(threshold=1)"),
        ("nullu(layers=':')", "nullu(rank=0)"),
    ):
        check_half(active, neutral, artifacts)
    vision = fitted_to_vision(ours("llava"))
    check_half("vti(alpha_vision=8)", "vti(alpha=0)", {"vti": vision})


def test_what_it_can_be_combined_with():
    """A projection follows a writer of the same updates; two writers are refused by name."""
    adapter = with_artifacts(ours("llava"))
    for spec in ("vti+nullu", "vista(sla_alpha=0)+nullu", "vti+revis+nullu", "nullu+nullu"):
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1]))
        assert adapter.plan(session.ops)
    for spec in ("vti+vista", "vista+vti", "vti+vti(alpha=1)"):
        with pytest.raises(CompositionError, match=r"both want the update of the MLP"):
            mmhall.strategy(spec)
    session = mmhall.strategy("nullu+vti").fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1]))
    with pytest.raises(CompositionError, match="write the projection last"):
        adapter.plan(session.ops)


def test_options_of_the_fit_are_fixed_and_others_are_not():
    adapter = with_artifacts(ours("llava"))
    assert mmhall.strategy("vti(alpha=2, layers='1')").fitted(adapter).alpha == 2
    assert mmhall.strategy("vti").origins(adapter)["artifact"].startswith("fitted on 6 pairs of made pairs")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("alpha", float("inf")),
        ("component", 1),
        ("rows", "last"),
        ("layers", "x"),
        ("alpha_vision", float("nan")),
        ("copies", 0),
        ("masked", 1.1),
        ("pictures", 1),
        ("twin", -1),
    ],
)
def test_what_it_cannot_do_is_refused(option, value):
    with pytest.raises(OptionError, match=rf"^vti: {option} must be .*, got"):
        mmhall.strategy("vti", **{option: value})
