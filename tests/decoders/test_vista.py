"""VISTA against its formula written out, on the families' representatives; its toy, its neutral options, its twin."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.decoders.vista import VISTA, _Mix
from mmhall.errors import CompositionError, OptionError
from mmhall.strategies import turn
from mmhall.strategies._layers import parse_layers
from mmhall.strategies._step import Step
from tests.decoders.rows import check, check_half
from tests.decoders.steering import edited, from_row, outputs, turned
from tests.generation.reference import QUIET, REQUESTS, in_turn, ours
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET

VARIANTS = {
    "released": ("strength=0.4, sla_alpha=0.3, sla_layers='1:'", {"strength": 0.4, "alpha": 0.3}),
    "answer": (
        "strength=0.6, sla_alpha=0, gate=False, rows='answer'",
        {"strength": 0.6, "gated": False, "rows": "answer"},
    ),
}


def reference_of(*, strength, alpha=0.0, gated=True, rows="all"):
    """Return what gives the scores of every step of a given answer, (NEW, V)."""

    def reference(adapter, reader, request, answer):
        inputs = adapter.inputs([request])
        pairs = zip(outputs(adapter, inputs), outputs(adapter, adapter.without_image(inputs)), strict=True)
        directions = [one[-1] - other[-1] for one, other in pairs]

        def edit(layer, states):
            if directions[layer].norm() < 1e-5 * states.norm(dim=-1).max():  # rounding: it saw no picture
                return states
            first = 0 if rows == "all" else reader.length - 1
            return from_row(first, states, lambda part: turned(part, directions[layer], strength, gated=gated))

        depth = len(adapter.layers)
        with edited(reader, "mlp", range(depth), edit):
            main = reader.logits(inputs, answer[:-1])
            if alpha == 0:
                return main.log_softmax(-1)
            head, early = reader.eager.model.get_output_embeddings(), []
            for layer in range(1, depth - 1):  # the last layer's prediction is the model's own
                states = reader.states[layer + 1]
                hook = head.register_forward_pre_hook(lambda module, args, states=states: (states[None], *args[1:]))
                early.append(reader.logits(inputs, answer[:-1]))
                hook.remove()
        mixed = torch.stack([*early, main]).log_softmax(-1).mean(dim=0)
        return (1 - alpha) * main.log_softmax(-1) + alpha * mixed

    return reference


@pytest.mark.parametrize(("name", "variant"), in_turn(tuple(REPRESENTATIVES), tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    given, options = VARIANTS[variant]
    with torch.no_grad():
        check(name, f"vista({given})", reference_of(**options))


def test_the_edit_of_a_toy():
    """x = (3, 4), of length 5 before and after."""
    x = torch.tensor([3.0, 4.0])
    for v, strength, gated, wanted in (
        ((-2.0, 0.0), 0.5, True, (-1.2127, 4.8507)),  # cos(x, -v) = 0.6
        ((-2.0, 0.0), 0.5, False, (0.6202, 4.9614)),
        ((2.0, 0.0), 0.5, True, (4.0437, 2.9409)),  # gate closed
        ((-2.0, 0.0), 0.17, True, (1.8968, 4.6263)),
    ):
        direction = torch.tensor(v)
        for scaled in (direction, 7 * direction):  # the length of the direction does not count
            found = turn(x, scaled, strength, gated=gated)
            torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=1e-4)
            assert float(found.norm()) == pytest.approx(5.0, abs=1e-5)
    assert torch.equal(turn(x, torch.zeros(2), 0.5, gated=True), x)
    assert torch.equal(turn(torch.zeros(2), x, 0.5, gated=True), torch.zeros(2))


def test_the_mix_of_a_toy():
    """(2, 1, 0) with the mean of (0, 3, 0) and (1, 0, 2), weight 0.3: (1.55, 1.15, 0.30); log 0 stays."""
    exits = [object(), object()]
    early = [torch.tensor([row]) for row in ([0.0, 3.0, 0.0], [1.0, 0.0, 2.0])]
    main = torch.tensor([[2.0, 1.0, 0.0]])
    step = Step(main, (), torch.zeros(1, 0, dtype=torch.long), exits=dict(zip(exits, early, strict=True)))
    torch.testing.assert_close(_Mix(0.3, exits)(step), torch.tensor([[1.55, 1.15, 0.30]]), rtol=0, atol=1e-4)
    lost = Step(main.masked_fill(main == 0, -torch.inf), (), step.said, exits=step.exits)
    assert _Mix(1.0, exits)(lost)[0, 2] == -torch.inf


def test_the_last_layer_alone_mixed_is_the_model_itself():
    adapter = ours("llava")
    batch = adapter.inputs(REQUESTS[:2])
    spec = "vista(strength=0, sla_alpha=0.9, sla_layers='-1')"
    session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch)
    assert not session.ops
    assert not session.exits
    assert session.combine is None


def directions(spec, requests, name="llava"):
    adapter = ours(name)
    with torch.inference_mode():
        return mmhall.strategy(spec).fitted(adapter).directions(adapter, adapter.inputs(requests))


def test_directions_are_each_prompts_own_in_any_batch():
    together = directions("vista", REQUESTS[:3])
    for row, request in enumerate(REQUESTS[:3]):
        torch.testing.assert_close(together[:, row], directions("vista", [request])[:, 0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(together[:, 0], together[:, 1], rtol=0.1)


def test_the_twin_has_other_directions_of_the_same_lengths():
    true, one, again, other = (directions(f"vista(twin={twin})", REQUESTS[:2]) for twin in (0, 1, 1, 2))
    torch.testing.assert_close(one.norm(dim=-1), true.norm(dim=-1))
    assert torch.equal(one, again)
    for drawn in (one, other):
        assert torch.nn.functional.cosine_similarity(drawn, true, dim=-1).abs().max() < 0.7
    torch.testing.assert_close(
        directions("vista(twin=1)", REQUESTS[1:2])[:, 0], one[:, 1], rtol=1e-3, atol=1e-4
    )  # alone as in the batch


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter = ours("llava")
    neutral = "strength=0, sla_alpha=0"
    for spec, request in (
        (f"vista({neutral})", REQUESTS[0]),
        (f"vista({neutral}, twin=3)", REQUESTS[0]),
        ("vista", Request("What?")),
    ):
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request]))
        assert session == mmhall.Session(), spec


def test_neutral_options_in_half_precision_are_greedy():
    for rows in ("all", "answer"):
        check_half(f"vista(strength=0.5, rows={rows!r})", f"vista(strength=0, sla_alpha=0, rows={rows!r})")


def test_two_edits_of_one_update_and_two_combinations_are_refused_by_name():
    with pytest.raises(CompositionError, match=r"vista\+vista: both want the "):
        mmhall.strategy("vista+vista(layers='2')")
    with pytest.raises(CompositionError, match=r"vista\+vcd: .* vista\(sla_alpha=0\), which mixes no layers"):
        mmhall.strategy("vista+vcd")
    assert mmhall.strategy("vista(sla_alpha=0)+vcd")


def test_what_papers_give_is_filled_in():
    assert VISTA.published["llava", 32] == {"strength": 0.17, "sla_layers": "25:31"}
    assert parse_layers("78%:95%", ["full"] * 32, {"full"}, "vista", "sla_layers") == set(range(25, 31))
    assert parse_layers(":", ["full", "linear"], {"full", "linear"}, "vista", "layers") == {0, 1}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("strength", float("nan")),
        ("sla_alpha", -0.1),
        ("sla_alpha", 1.1),
        ("rows", "last"),
        ("layers", "x"),
        ("twin", -1),
    ],
)
def test_what_it_cannot_do_is_refused(option, value):
    with pytest.raises(OptionError, match=rf"^vista: {option} must be .*, got"):
        mmhall.strategy("vista", **{option: value})
