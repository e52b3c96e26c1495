"""RUDDER against its formula written out, in every family; its gate, its pool, what it leaves alone, and neutral."""

from __future__ import annotations

import math

import pytest
import torch

import mmhall
from mmhall.adapters._anatomy import Anatomy
from mmhall.adapters._base import Request
from mmhall.attention import Op, active
from mmhall.decoders.rudder import RUDDER, pool_updates
from mmhall.errors import CompositionError, OptionError
from mmhall.generation._settings import Settings
from mmhall.strategies._layers import parse_layers
from tests.decoders.reference import searched
from tests.decoders.rows import check, family
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, in_turn, ours, said
from tests.jobs import run

pytestmark = QUIET

VARIANTS = {
    "paper": ("alpha={0}", {}),
    "released": (
        "alpha={0}, k=8, c=0.5, floor=0.3, pool='length', gate_on='update', deviation=True",
        {"k": 8.0, "c": 0.5, "floor": 0.3, "by_length": True, "on_update": True, "deviation": True},
    ),
}


def trusted(agreement, k, c, floor):
    up, down = (math.log(1 + math.exp(sign * k * agreement + c)) for sign in (1, -1))
    return max(floor, up / (up + down))


def reminded(entering, source, update, length, *, alpha, k=5.0, c=1.0, floor=0.05, **more):
    """What the attention of a layer adds, (T, D), edited from the last prompt position on, row by row."""
    pool = update[:length] - source[:length] if more.get("deviation") else update[:length]
    weights = pool.norm(dim=-1) if more.get("by_length") else torch.ones(length)
    vector = sum(weight * row for weight, row in zip(weights, pool, strict=True))
    vector = vector / vector.norm()
    edited = update.clone()
    for row in range(length - 1, len(update)):
        judged = update[row] if more.get("on_update") else entering[row]
        agreement = float(judged @ vector / judged.norm())
        edited[row] = update[row] + alpha * trusted(agreement, k, c, floor) * vector
    return edited


def layers_of(name):
    """Layers that can be named: the first and the last that attend to text and are given whole prompts."""
    adapter = ours(name)
    kinds = [kind if i not in adapter.newest_only else "" for i, kind in enumerate(adapter.kinds)]
    attending = [i for i, kind in enumerate(kinds) if kind in ("full", "sliding", "chunked")]
    return sorted({attending[0], attending[-1]})


def hooked(layers, alpha, **options):
    """Return what gives the scores of every step of a given answer, (NEW, V).

    The attention of an eager copy that reads prompt and answer in one pass is edited by hooks.
    """

    def reference(adapter, reader, request, answer):
        stack, hooks = Anatomy(reader.eager.model).decoder, []
        for layer in layers:

            def edit(module, args, kwargs, output, layer=layer):
                (source,) = args[0] if args else kwargs["hidden_states"]
                (update,) = output[0] if isinstance(output, tuple) else output
                edited = reminded(reader.states[layer], source, update, reader.length, alpha=alpha, **options)[None]
                return (edited, *output[1:]) if isinstance(output, tuple) else edited

            hooks.append(stack.site(layer, "attn").register_forward_hook(edit, with_kwargs=True))
        logits = reader.logits(adapter.inputs([request]), answer[:-1])
        for hook in hooks:
            hook.remove()
        return logits.log_softmax(-1)

    return reference


@pytest.mark.parametrize(("name", "variant"), in_turn(FAMILIES, tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    given, options = VARIANTS[variant]
    layers = layers_of(name)
    spec = f"rudder({given.format(12)}, layers='{', '.join(map(str, layers))}')"
    check(name, spec, hooked(layers, 12.0, **options))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_beams_are_those_of_a_naive_search_over_the_formula(name):
    adapter, reader = family(name)
    reference, found = hooked([1], 12.0), []
    for request in REQUESTS[:2]:
        found.append(searched(lambda answer, one=request: reference(adapter, reader, one, [*answer, 0])[-1], 3)[0])
    config = Settings(max_new_tokens=4, num_beams=3).resolved(adapter.generator)
    method = mmhall.strategy("rudder(alpha=12, layers='1')")
    assert list(map(tuple, run(adapter, adapter.inputs(REQUESTS[:2]), method, config).tolist())) == found


def test_trust_grows_with_agreement():
    method = mmhall.strategy("rudder(k=5)")
    agreement = torch.tensor([-1.0, -0.2, 0.0, 0.1, 0.5, 1.0])
    wanted = torch.tensor([0.05, 0.2458, 0.5, 0.6359, 0.9460, 0.9970])
    torch.testing.assert_close(method.trust(agreement), wanted, rtol=0, atol=1e-4)
    open_ = mmhall.strategy("rudder(k=5, floor=0)").trust(agreement)
    assert open_[0].item() == pytest.approx(0.0030, abs=1e-4)
    assert (open_.diff() > 0).all()
    torch.testing.assert_close(open_ + mmhall.strategy("rudder(k=5, floor=0)").trust(-agreement), torch.ones(6))
    assert (mmhall.strategy("rudder(k=0, c=3)").trust(agreement) == 0.5).all()


def test_the_pool_of_a_toy():
    updates = torch.tensor([[[9.0, -9.0], [3.0, 4.0], [0.0, 1.0]]])
    attended = torch.tensor([[False, True, True]])
    for pool, wanted in (("mean", [[0.5145, 0.8575]]), ("length", [[0.5812, 0.8137]])):
        torch.testing.assert_close(pool_updates(updates, attended, pool), torch.tensor(wanted), rtol=0, atol=1e-4)
        torch.testing.assert_close(pool_updates(7 * updates, attended, pool), pool_updates(updates, attended, pool))


def test_the_edit_of_a_toy():
    """s = 0.8, g = 0.9904: (3, 4) becomes (3, 5.9808)."""
    vector, states = torch.tensor([0.0, 1.0]), torch.tensor([3.0, 4.0])
    agreement = torch.nn.functional.cosine_similarity(states, vector, dim=-1)
    edited = states + 2 * mmhall.strategy("rudder(k=5)").trust(agreement) * vector
    torch.testing.assert_close(edited, torch.tensor([3.0, 5.9808]), rtol=0, atol=1e-4)


class Note(Op):
    """Notes what attention adds in a layer, as the ops before it have left it."""

    sites, projection = frozenset({"attn"}), True

    def __init__(self, layer):
        self.layers = frozenset({layer})

    def edit_states(self, visit, states):
        self.before, self.after = visit.states, states
        return states


def edited(name, dtype=torch.float32):
    adapter, layer = ours(name), layers_of(name)[-1]
    batch, note = adapter.inputs(REQUESTS[:2]), Note(layer)
    method = mmhall.strategy(f"rudder(alpha=3, layers='{layer}')").fitted(adapter)
    with torch.no_grad(), active(adapter.plan([*method.prepare(adapter, batch).ops, note])):
        adapter.model(**batch)
    return note


@pytest.mark.parametrize("name", ["llava", "qwen3_5", "mllama"])
def test_rows_of_a_prompt_before_the_last_are_untouched(name):
    note = edited(name)
    assert torch.equal(note.before[:, :-1], note.after[:, :-1])
    moved = (note.after - note.before)[:, -1].norm(dim=-1)
    assert (moved >= 0.05 * 3 - 1e-5).all()
    assert (moved <= 3 + 1e-5).all()


@pytest.mark.parametrize(("spec", "request_"), [("rudder(alpha=0)", REQUESTS[0]), ("rudder", Request("What?"))])
def test_neutral_options_and_no_picture_ask_for_nothing(spec, request_):
    adapter = ours("llava")
    assert not mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request_])).ops


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "spec"), [("llava", "rudder(alpha=15)+gift(alpha=6)"), ("qwen3_5", "rudder(alpha=15)+vhr(alpha=4)+vdd")]
)
def test_with_other_strategies_a_batch_equals_single_runs(name, spec):
    """GIFT reads the last token of a prompt, or all of it, a second time."""
    adapter = ours(name)
    together, alone, plain = (
        [row for batch in batches for row in said(adapter, adapter.inputs(batch), asked, max_new_tokens=5)]
        for batches, asked in (
            ([REQUESTS[:2]], spec),
            ([[one] for one in REQUESTS[:2]], spec),
            ([REQUESTS[:2]], spec.partition("+")[2]),
        )
    )
    assert together == alone
    assert together != plain


def test_two_edits_of_one_update_are_refused():
    with pytest.raises(CompositionError, match="both want the update of attention"):
        mmhall.strategy("rudder+rudder(layers='2')")


def test_what_papers_give_is_filled_in():
    assert RUDDER.published["llava", 32] == {"alpha": 20.0, "k": 5.0, "layers": "30"}
    fitted = mmhall.strategy("rudder").fitted(ours("llava"))
    assert (fitted.alpha, fitted.k, fitted.layers) == (8.0, 5.0, "95%")
    assert parse_layers("95%", ["full"] * 32, {"full"}, "rudder", "layers") == {30}


def test_layers_that_are_given_no_whole_prompt_are_refused():
    adapter = ours("gemma4")
    layer = max(adapter.newest_only)
    method = mmhall.strategy(f"rudder(layers='{layer}')").fitted(adapter)
    with pytest.raises(OptionError, match=r"^rudder: layers must be among layers of this model"):
        method.prepare(adapter, adapter.inputs(REQUESTS[:2]))


@pytest.mark.parametrize(
    ("option", "value"),
    [("alpha", -1), ("k", -1), ("c", -0.1), ("floor", 1.1), ("pool", "max"), ("gate_on", "all"), ("deviation", 1)],
)
def test_what_it_cannot_do_is_refused(option, value):
    with pytest.raises(OptionError, match=rf"^rudder: {option} must be .*, got"):
        mmhall.strategy("rudder", **{option: value})
