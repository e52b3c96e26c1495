"""VTI against its formula written out, on the families' representatives; its fit on numbers, its twin, its limits."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.decoders.vti import find_direction
from mmhall.errors import CompositionError, FitError, OptionError
from mmhall.strategies import Strategy, turn
from tests.decoders.fitted import fitted_artifact, made_pairs, with_artifacts
from tests.decoders.reference import said as whole, slow
from tests.decoders.rows import check, family
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
    return torch.stack([op._directions[layer] for layer in sorted(op.layers)])


def test_the_twin_has_other_directions_of_the_same_lengths():
    true, one, again, other = (directions(f"vti(twin={twin})") for twin in (0, 1, 1, 2))
    torch.testing.assert_close(one.norm(dim=-1), true.norm(dim=-1), rtol=1e-6, atol=0)
    assert torch.equal(one, again)
    for drawn in (one, other):
        assert torch.nn.functional.cosine_similarity(drawn, true, dim=-1).abs().max() < 0.7


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter = with_artifacts(ours("llava"))
    cases = (("vti(alpha=0)", REQUESTS[0]), ("vti(alpha=0, twin=3)", REQUESTS[0]), ("vti", Request("What?")))
    for spec, request in cases:
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request]))
        assert session == mmhall.Session(), spec


def test_half_precision():
    adapter = with_artifacts(slow("llava").adapter)
    model, batch = adapter.model, adapter.inputs(REQUESTS[:2])
    model.to(torch.bfloat16)
    try:
        half = {**batch, "pixel_values": batch["pixel_values"].to(torch.bfloat16)}
        neutral = ("vti(alpha=0)", "revis(alpha=0)", "revis(threshold=1)", "nullu(rank=0)")
        plain = whole(adapter, half, "greedy")
        assert [whole(adapter, half, spec) for spec in neutral] == [plain] * len(neutral)
        for spec in ("vti(alpha=8)", "revis(threshold=-1)", "nullu(layers=':')"):
            assert len(whole(adapter, half, spec)) == 2
    finally:
        model.to(torch.float32)


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
    ("option", "value"), [("alpha", float("inf")), ("component", 1), ("rows", "last"), ("layers", "x"), ("twin", -1)]
)
def test_what_it_cannot_do_is_refused(option, value):
    with pytest.raises(OptionError, match=rf"^vti: {option} must be .*, got"):
        mmhall.strategy("vti", **{option: value})
