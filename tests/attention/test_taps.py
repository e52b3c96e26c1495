"""What enters a layer, as ops are shown it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import ModuleList

from mmhall.adapters.base import Request
from mmhall.attention import Op, active
from mmhall.generation.settings import Settings
from mmhall.lvlm import LVLM
from mmhall.strategies import Session, strategy
from tests.attention.reference import EVERY, PROMPTS, pictures, real
from tests.jobs import decode, run
from tests.zoo import ZOO

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

REQUESTS = [Request(prompt, (image,)) for prompt, image in zip(PROMPTS, pictures(), strict=True)]


class Tap(Op):
    """Keeps the states that enter layers."""

    kinds = EVERY | {"linear"}

    def __init__(self, layers=None):
        self.layers, self.seen = layers, []

    def see_states(self, layer, step, states):
        self.seen.append((layer, step, states.clone()))


@pytest.fixture(scope="module", params=ZOO)
def bound(request):
    model, processor = ZOO[request.param]()
    own = copy.deepcopy(model)
    lvlm = LVLM(model, processor)
    yield lvlm, own
    lvlm.adapter.close()


@pytest.fixture(scope="module")
def llava():
    return LVLM(*ZOO["llava"]())


def entering(model, **inputs):
    """What enters each decoder layer, by hooks of our own on a model that mmhall has not touched."""
    decoder = next(
        part for part in model.get_decoder().modules() if isinstance(getattr(part, "layers", None), ModuleList)
    )
    entered = []

    def keep(layer, args, kwargs):
        entered.append((args[0] if args else kwargs["hidden_states"]).clone())

    hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in decoder.layers]
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    return entered, getattr(outputs, "language_model_outputs", outputs).hidden_states


def hooks(model):
    return [len(part._forward_pre_hooks) for part in model.modules()]


def marks(model):
    return [part for part in model.modules() if hasattr(part, "_mmhall_tap")]


def shown(lvlm, inputs, *ops):
    with torch.no_grad(), active(lvlm.adapter.plan(ops)):
        return lvlm.model(**inputs).logits


def test_the_states_are_transformers_hidden_states(bound):
    lvlm, own = bound
    inputs = lvlm.adapter.inputs(REQUESTS)
    tap = Tap()
    shown(lvlm, inputs, tap)
    entered, hidden = entering(own, **inputs)
    assert [(layer, step) for layer, step, _ in tap.seen] == [(layer, 0) for layer in range(len(lvlm.adapter.layers))]
    for (_, _, states), other in zip(tap.seen, entered, strict=True):
        assert torch.equal(real(states, inputs), real(other, inputs))
    more = {1, 2} if lvlm.adapter.model.config.model_type == "qwen3_vl" else set()  # features of its pictures are added
    for layer, _, states in tap.seen:
        assert torch.equal(real(states, inputs), real(hidden[layer], inputs)) == (layer not in more)


def test_a_step_shows_its_one_row(bound):
    lvlm, _ = bound
    inputs = lvlm.adapter.inputs(REQUESTS)
    tap, depth = Tap(), len(lvlm.adapter.layers)
    config = Settings(max_new_tokens=3).resolved(lvlm.adapter.generator)
    config.min_new_tokens = 3
    plain = run(lvlm.adapter, inputs, strategy("greedy"), config, 0)
    assert torch.equal(run(lvlm.adapter, inputs, strategy("greedy"), config, 0, watch=(tap,)), plain)
    rows = [states.shape[1] for _, _, states in tap.seen]
    assert [layer for layer, _, _ in tap.seen] == [*range(depth)] * 3
    assert rows[depth:] == [1] * 2 * depth
    assert [step for _, step, _ in tap.seen] == [step for step in range(3) for _ in range(depth)]


def test_a_plan_that_watches_nothing_changes_no_bit(bound):
    lvlm, own = bound
    inputs = lvlm.adapter.inputs(REQUESTS)
    with torch.no_grad():
        assert torch.equal(lvlm.model(**inputs).logits, own(**inputs).logits)
    assert torch.equal(shown(lvlm, inputs, Tap()), shown(lvlm, inputs, Op()))


def test_nothing_is_shown_without_a_plan_or_to_another(llava):
    inputs, tap, other = llava.adapter.inputs(REQUESTS), Tap(), Tap(frozenset({1}))
    plan = llava.adapter.plan([tap])
    with torch.no_grad():
        llava.model(**inputs)
        shown(llava, inputs, other)
        llava.model(**inputs)
    assert tap.seen == []
    assert [layer for layer, _, _ in other.seen] == [1]
    with torch.no_grad(), active(plan):
        llava.model(**inputs)
    assert [layer for layer, _, _ in tap.seen] == [0, 1, 2]


def test_only_the_main_rows_are_shown(llava):
    adapter = llava.adapter
    inputs, tap = adapter.inputs(REQUESTS), Tap()
    session = Session((tap,), (adapter.without_image(inputs),), lambda main, other: main)
    config = Settings(max_new_tokens=3).resolved(llava.adapter.generator)
    config.min_new_tokens = 3
    with torch.inference_mode():
        decode(adapter, inputs, session, config, [0, 0])
    assert {states.shape[0] for _, _, states in tap.seen} == {2}
    alone = Tap()
    run(adapter, inputs, strategy("greedy"), config, 0, watch=(alone,))
    for (*_, states), (*_, wanted) in zip(tap.seen, alone.seen, strict=True):
        torch.testing.assert_close(states, wanted, rtol=1e-4, atol=1e-4)


def test_closing_takes_the_taps_away(bound):
    lvlm, own = bound
    model = copy.deepcopy(own)
    before = hooks(model)
    first, second = LVLM(model, lvlm.processor), LVLM(model, lvlm.processor)
    depth = len(first.adapter.layers)
    assert sum(hooks(model)) == sum(before) + depth
    assert len(marks(model)) == depth
    tap = Tap()
    plan = second.adapter.plan([tap])
    first.adapter.close()
    assert len(marks(model)) == depth
    second.adapter.close()
    assert hooks(model) == before
    assert marks(model) == []
    inputs = lvlm.adapter.inputs(REQUESTS[:1])
    with torch.no_grad(), active(plan):
        model(**inputs)
    assert tap.seen == []


def test_a_copy_of_an_open_model_has_taps_of_its_own(bound):
    lvlm, _ = bound
    inputs = lvlm.adapter.inputs(REQUESTS[:1])
    model = copy.deepcopy(lvlm.model)
    depth = len(lvlm.adapter.layers)
    twin = LVLM(model, lvlm.processor)
    tap = Tap()
    shown(twin, inputs, tap)
    assert len(tap.seen) == depth
    twin.adapter.close()
    assert marks(model) == []
    assert sum(hooks(model)) == sum(hooks(lvlm.model)) - depth
    still = Tap()
    shown(lvlm, inputs, still)
    assert len(still.seen) == depth
    for (*_, one), (*_, other) in zip(tap.seen, still.seen, strict=True):
        assert torch.equal(one, other)


def test_an_error_while_looking_surfaces_and_passes(llava):
    class Fail(Op):
        def see_states(self, layer, step, states):
            raise RuntimeError("on purpose")

    inputs = llava.adapter.inputs(REQUESTS)
    before = shown(llava, inputs)
    with pytest.raises(RuntimeError, match="on purpose"):
        shown(llava, inputs, Fail())
    assert torch.equal(shown(llava, inputs), before)
