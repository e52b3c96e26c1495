"""States of every family's vision tower, read and edited, against plain forward hooks on the model as it was."""

from __future__ import annotations

import copy
from contextlib import ExitStack

import pytest
import torch

from mmhall.adapters import adapter_for
from mmhall.adapters._anatomy import Anatomy
from mmhall.adapters._base import Request
from mmhall.attention import ATTENTION, EVERY, VISION, Op, active
from mmhall.attention._passes import Frame
from mmhall.attention._plan import Block, follow_frames
from mmhall.errors import CompositionError, ModelError
from mmhall.generation._settings import Settings
from mmhall.strategies import Session
from tests.adapters.conftest import noise
from tests.attention.tower import REQUESTS, SITES, Edit, doubled, hooked, traces, waved
from tests.jobs import decode
from tests.zoo import ZOO

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module", params=ZOO)
def bound(request):
    """A family's adapter, and a model of the same weights that mmhall never touches."""
    model, processor = ZOO[request.param]()
    own = copy.deepcopy(model)
    adapter = adapter_for(model, processor)
    yield adapter, own
    adapter.close()


@pytest.fixture
def llava():
    adapter = adapter_for(*ZOO["llava"]())
    yield adapter
    adapter.close()


class Watch(Op):
    """Asks for everything and changes nothing."""

    kinds, writes = VISION, True
    sites = frozenset(SITES)

    def __init__(self):
        self.entered, self.rows_seen = [], 0

    def rows(self, call):
        return torch.tensor([0])

    def see(self, call, rows, probs):
        self.rows_seen += len(rows)

    def see_states(self, visit):
        self.entered.append(visit.states)


class Look(Watch):
    """The same, and only looks at the rows."""

    writes = False


def read(adapter, inputs, *ops):
    return read_by(adapter, inputs, adapter.plan(ops, inputs))


def read_by(adapter, inputs, plan):
    with torch.no_grad(), active(plan):
        return adapter.model(**inputs).logits


def plain(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def close(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=0, atol=5e-5 * max(5.0, float(wanted.abs().max())))


def test_a_tower_that_is_watched_and_one_that_was_change_no_bit(bound):
    adapter, own = bound
    inputs, watch = adapter.inputs(REQUESTS), Look()
    wanted = plain(own, inputs)
    assert torch.equal(read(adapter, inputs, watch), wanted)
    assert torch.equal(plain(adapter.model, inputs), wanted)
    assert torch.equal(read(adapter, inputs, Op()), wanted)
    layers = len(adapter.anatomy.vision.layers)
    assert watch.rows_seen >= layers
    assert len(watch.entered) == layers


def test_what_enters_a_layer_is_shown(bound):
    adapter, own = bound
    inputs, watch = adapter.inputs(REQUESTS), Look()
    read(adapter, inputs, watch)
    entered = []

    def keep(module, args, kwargs):
        named = [kwargs[name] for name in ("hidden_states", "hidden_state") if name in kwargs]
        entered.append((args[0] if args else named[0]).clone())

    hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in Anatomy(own).vision.layers]
    plain(own, inputs)
    for hook in hooks:
        hook.remove()
    for got, wanted in zip(watch.entered, entered, strict=True):
        assert torch.equal(got.view_as(wanted), wanted)


def test_an_edit_equals_a_hook_of_our_own(bound):
    adapter, own = bound
    inputs = adapter.inputs(REQUESTS)
    depth = len(adapter.anatomy.vision.layers)
    before = plain(own, inputs)
    for site, layer in (("attn", 0), ("mlp", 1), ("mlp", 0), ("out", 0), ("out", depth - 1), ("features", depth)):
        op = Edit(site, waved, None if site == "features" else [layer])
        got = read(adapter, inputs, op)
        with hooked(own, site, waved, [layer]):
            wanted = plain(own, inputs)
        assert op.visits == [(layer, site)]
        assert torch.equal(got, wanted)
        if layer != depth - 1:  # LLaVA projects the states of the layer before the last
            assert (got - before).abs().max() > 1e-3
    assert torch.equal(plain(adapter.model, inputs), before)


@pytest.mark.slow
def test_edits_of_all_sites_hold_wherever_the_tower_runs_while_decoding(bound):
    """While `generate` prepares, or in the first forward: as transformers likes."""
    adapter, own = bound
    inputs = adapter.inputs(REQUESTS)
    config = Settings(max_new_tokens=4).resolved(adapter.generator)
    config.min_new_tokens = 4
    layers = range(len(adapter.anatomy.vision.layers))
    session = Session([Edit(site, waved) for site in SITES])
    got = decode(adapter, inputs, session, config, [0, 0])
    before = own.generate(**inputs, generation_config=config)[:, -4:]
    with ExitStack() as hooks:
        for site in SITES:
            hooks.enter_context(hooked(own, site, waved, layers))
        assert torch.equal(got, own.generate(**inputs, generation_config=config)[:, -4:])
    assert torch.equal(decode(adapter, inputs, Session(), config, [0, 0]), before)
    assert torch.equal(
        decode(adapter, inputs, Session([Edit(site, lambda h: h * 1.0) for site in SITES]), config), before
    )


class Turned(Op):
    """Turns the features, and what the first layer returns, by what is known of each prompt."""

    kinds, sites = VISION, frozenset({"out", "features"})

    def __init__(self, gains):
        self._gains = gains

    def edit_states(self, visit, states):
        return states if visit.site == "out" and visit.layer else states * visit.each(self._gains)[..., None]


SEVERAL = {"blip_2", "instructblip", "llava_onevision", "mllama"}  # read one picture, or tile a lone one only


@pytest.mark.slow
def test_prompts_of_a_batch_are_treated_apart_as_alone(bound):
    adapter, _ = bound
    first, second = REQUESTS
    twice = Request(second.prompt, (*second.images, noise(64, 64, seed=2)))
    requests = (first, second if adapter.model.config.model_type.replace("-", "_") in SEVERAL else twice)
    gains = torch.tensor([0.5, 1.5])
    batch = adapter.inputs(requests)
    both = read(adapter, batch, Turned(gains))
    assert (both - plain(adapter.model, batch)).abs().amax(dim=(1, 2)).min() > 1e-3
    for row, request in enumerate(requests):
        alone = adapter.inputs([request])
        wanted = read(adapter, alone, Turned(gains[row : row + 1]))
        close(both[row, -wanted.shape[1] :], wanted[0])


@pytest.mark.slow
def test_nothing_is_left_behind(bound):
    adapter, own = bound
    model = copy.deepcopy(own)
    plain(model, adapter.inputs(REQUESTS))  # transformers adds hooks of its own
    before = traces(model)
    first, second = (adapter_for(model, adapter.processor) for _ in range(2))
    inputs = first.inputs(REQUESTS)
    wanted = read(first, inputs, Edit("features", waved))
    assert torch.equal(read(second, inputs, Edit("features", waved)), wanted)
    read(second, inputs, Look())
    first.close()
    assert torch.equal(read(second, inputs, Edit("features", waved)), wanted)
    second.close()
    assert traces(model) == before
    assert torch.equal(plain(model, inputs), plain(own, inputs))


def test_a_tower_that_no_op_concerns_is_as_it_was():
    model, processor = ZOO["llava"]()
    adapter = adapter_for(model, processor)
    inputs = adapter.inputs(REQUESTS)
    plain(model, inputs)
    before = traces(model)
    read(adapter, inputs, Op())
    assert traces(model) == before
    assert before[2] == "sdpa"
    read(adapter, inputs, Edit("out", waved))
    assert traces(model)[2] == "sdpa"  # its attention stays its own
    adapter.close()


class Fail(Op):
    """Fails in one of its methods."""

    kinds, sites = VISION, frozenset({"out", "features"})

    def __init__(self, where, error):
        self._where, self._error = where, error

    def _fail(self, where):
        if where == self._where:
            raise self._error("on purpose")

    def edit_output(self, call, output):
        self._fail("attention")
        return output

    def see_states(self, visit):
        self._fail("in")

    def edit_states(self, visit, states):
        self._fail(visit.site)
        return states


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["attention", "in", "out", "features"])
def test_an_error_surfaces_and_leaves_nothing_behind(llava, where, error):
    inputs = llava.inputs(REQUESTS)
    wanted = plain(llava.model, inputs)
    read(llava, inputs, Fail("nowhere", error))
    before = traces(llava.model)
    with pytest.raises(error, match="on purpose"):
        read(llava, inputs, Fail(where, error))
    assert traces(llava.model) == before
    assert torch.equal(plain(llava.model, inputs), wanted)
    assert torch.equal(read(llava, inputs, Look()), wanted)


def test_an_op_of_the_decoder_is_not_called_in_the_tower(llava):
    """`kinds` says what an op concerns; one may concern both."""

    class Count(Op):
        sites = frozenset({"out"})

        def __init__(self, kinds):
            self.kinds, self.seen = kinds, []

        def edit_states(self, visit, states):
            self.seen.append((visit.kind, visit.layer))
            return states

        def edit_output(self, call, output):
            self.seen.append((call.kind, call.layer))
            return output

    inputs = llava.inputs(REQUESTS)
    decoder, tower, both = Count(EVERY), Count(VISION), Count(ATTENTION | VISION)
    read(llava, inputs, decoder)
    read(llava, inputs, tower)
    read(llava, inputs, both)
    assert decoder.seen == [("full", layer) for layer in range(3) for _ in range(2)]
    assert tower.seen == [("vision", layer) for layer in range(2) for _ in range(2)]
    assert both.seen == tower.seen + decoder.seen


def test_ops_that_make_no_sense_are_refused_by_name(llava):
    class Keeps(Op):
        kinds = VISION

        def keep(self, call, keys, values):
            return keys, values

    class Blind(Op):
        sites = frozenset({"features"})

    compares = Op()
    compares.kinds, compares.compares = VISION, True
    for op, error, message in (
        (Keeps(), CompositionError, "Keeps needs a key-value cache, but a vision tower has none"),
        (compares, CompositionError, "Op needs a lockstep reference pass, but a vision tower has none"),
        (
            Blind(),
            CompositionError,
            'Blind edits the features of the vision tower, so "vision" must be among its kinds',
        ),
        (Edit("out", waved, [1, 2]), ModelError, "Edit: the vision tower has no layer 2; its layers are 0 to 1"),
    ):
        with pytest.raises(error, match=message):
            llava.plan([op])
    for site, named in (("features", "the features of the vision tower"), ("mlp", "'mlp' of layer 0 of the vision")):
        with pytest.raises(CompositionError, match=named):
            llava.plan([Edit(site, waved), Edit(site, doubled)])


def test_projections_of_one_site_follow_each_other(llava):
    inputs = llava.inputs(REQUESTS)
    ops = [Edit("features", waved), Edit("features", doubled)]
    for op in ops:
        op.projection = True
    wanted = read(llava, inputs, Edit("features", lambda states: doubled(waved(states))))
    assert torch.equal(read(llava, inputs, *ops), wanted)


def test_a_model_without_a_part_is_refused_by_name(llava, monkeypatch):
    monkeypatch.setitem(vars(llava), "anatomy", Anatomy(llava.decoder))
    with pytest.raises(ModelError, match="llama: no vision tower was found"):
        llava.plan([Edit("out", waved)])


def test_whose_patches_they_are_is_not_guessed(llava):
    """Of tensors that some other processor made it is known only where there is one prompt."""
    inputs = llava.inputs(REQUESTS)
    gains = torch.tensor([0.5, 1.5])
    for known in (None, dict(inputs)):
        with pytest.raises(ModelError, match="unknown which patches of the vision tower belong to which prompt"):
            read_by(llava, inputs, llava.plan([Turned(gains)], known))
    alone = llava.inputs(REQUESTS[:1])
    assert torch.equal(read(llava, dict(alone), Turned(gains[:1])), read(llava, alone, Turned(gains[:1])))


def test_branches_are_not_encoded_in_one_pass(llava):
    inputs = llava.inputs(REQUESTS)
    blocks = tuple(Block(llava.plan([op], inputs)) for op in (Edit("out", waved), Op()))
    with (
        pytest.raises(ModelError, match="pictures of several branches are encoded in one pass"),
        follow_frames(Frame(blocks)),
    ):
        plain(llava.model, inputs)


def test_an_op_that_would_be_ignored_is_refused(llava, monkeypatch):
    """A tower that attends by itself, or whose features go elsewhere, must not answer as if it were steered."""
    inputs = llava.inputs(REQUESTS)
    plan = llava.plan([Look()])
    attention = llava.anatomy.vision.layers[0].self_attn
    monkeypatch.setattr(attention, "forward", lambda hidden_states, **_: (torch.zeros_like(hidden_states), None))
    with pytest.raises(ModelError, match=r"layers \[0\] of the vision tower CLIPVisionModel do not attend"):
        read_by(llava, inputs, plan)
    monkeypatch.undo()
    with pytest.raises(ModelError, match="LlavaMultiModalProjector was given no features"), active(plan):
        llava.anatomy.vision.module(inputs["pixel_values"])


def test_an_op_of_the_tower_may_call_parts_of_it():
    """The MLP that it edits does what it always does."""
    adapter = adapter_for(*ZOO["llava"]())
    inputs, again = adapter.inputs(REQUESTS[:1]), []

    class Calls(Op):
        kinds = VISION
        layers = frozenset({1})
        sites = frozenset({"mlp"})

        def edit_states(self, visit, states):
            again.append(torch.equal(adapter.anatomy.vision.site(1, "mlp")(visit.source), states))
            return states

    with torch.no_grad(), active(adapter.plan([Calls()], inputs)):
        adapter.model(**inputs)
    assert again == [True]
    adapter.close()
