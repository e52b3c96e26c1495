"""A second prompt read in lock step: as if each were read by itself, and nothing left behind whatever happens."""

from __future__ import annotations

import contextlib
import threading

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.attention import SELF_ATTENTION, Op
from mmhall.generation._settings import Settings
from mmhall.strategies import Branch, Session
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, ours, picture, said
from tests.jobs import decode, run
from tests.threads import own_threads

pytestmark = QUIET

SPEC = "vhr(layers=':')"


class Scale(Op):
    """Multiplies the head outputs of each layer by a factor, and keeps what they were."""

    def __init__(self, factors):
        self.factors, self.outputs = factors, {}

    def edit_output(self, call, output):
        if call.step == 0:
            self.outputs[call.layer] = output.clone()
        return output * call.each(self.factors[call.layer])


class Beside(Op):
    """Edits the pass aside as another op says."""

    kinds = SELF_ATTENTION | {"cross"}

    def __init__(self, op):
        self._op, self.layers = op, op.layers

    def edit_output(self, call, output):
        return self._op.edit_beside(call, output)


class Compare(Scale):
    """Finds its factors by comparing with the pass aside, where it takes their roots."""

    compares = True

    def __init__(self):
        super().__init__({})
        self.asides, self.order = {}, []

    def edit_output(self, call, output):
        self.order.append(("main", call.layer, call.step))
        assert (call.reference is None) == (call.step > 0)
        if call.step == 0:
            self.asides[call.layer] = call.reference.clone()
            share = (output[:, -1] - call.reference[:, -1]).norm(dim=-1) / output[:, -1].norm(dim=-1)
            self.factors[call.layer] = (0.5 + share / (1 + share))[:, None, :, None]
        return super().edit_output(call, output)

    def edit_beside(self, call, output):
        self.order.append(("aside", call.layer, call.step))
        return output * self.factors[call.layer].sqrt()


class Hurt(Op):
    """Raises in a layer of the main pass or of the one aside."""

    compares = True

    def __init__(self, error, layer, aside):
        self._error, self._layer, self._aside = error, layer, aside

    def edit_output(self, call, output):
        if call.layer == self._layer and not self._aside:
            raise self._error
        return output

    def edit_beside(self, call, output):
        if call.layer == self._layer and self._aside:
            raise self._error
        return output


class Meet(Op):
    """Lets the attention calls of several threads take turns as unkindly as can be."""

    def __init__(self, barrier):
        self._barrier = barrier

    def edit_output(self, call, output):
        with contextlib.suppress(threading.BrokenBarrierError):
            self._barrier.wait()
        return output


def decoded(adapter, inputs, ops, aside=None, **more):
    config = Settings(**{"max_new_tokens": 4, **more}).resolved(adapter.generator)
    with torch.inference_mode():
        beside = [Beside(op) for op in ops if hasattr(op, "edit_beside")]
        branches = () if aside is None else [Branch(aside, beside, lockstep=True)]
        return decode(adapter, inputs, Session(ops=ops, branches=branches), config, [0, 0])


@pytest.fixture(params=FAMILIES)
def adapter(request):
    return ours(request.param)


@pytest.fixture
def llava():
    return ours("llava")


def test_it_equals_two_passes_one_after_the_other(adapter):
    inputs = adapter.inputs(REQUESTS[:2])
    bare = adapter.without_image(inputs)
    both = Compare()
    tokens = decoded(adapter, inputs, [both], bare)
    main, aside = Scale(both.factors), Scale({layer: factor.sqrt() for layer, factor in both.factors.items()})
    assert torch.equal(tokens, decoded(adapter, inputs, [main]))
    decoded(adapter, bare, [aside], max_new_tokens=1)
    assert set(both.asides) == {layer for layer, kind in enumerate(adapter.kinds) if kind in SELF_ATTENTION}
    for layer, output in both.outputs.items():
        assert torch.equal(output, main.outputs[layer])
        assert torch.equal(both.asides[layer], aside.outputs[layer])


def test_a_layer_of_the_main_pass_goes_first_and_the_rest_of_the_other_pass_is_spared(llava):
    op = Compare()
    inputs = llava.inputs(REQUESTS[:1])
    decoded(llava, inputs, [op], llava.without_image(inputs), max_new_tokens=1)
    assert op.order == [("main", 0, 0), ("aside", 0, 0), ("main", 1, 0), ("aside", 1, 0), ("main", 2, 0)]


def test_layers_in_which_nothing_is_compared_are_passed_by(llava):
    op = Compare()
    op.layers = frozenset({1})
    inputs = llava.inputs(REQUESTS[:1])
    decoded(llava, inputs, [op], llava.without_image(inputs), max_new_tokens=1)
    assert op.order == [("main", 1, 0)]


def test_what_the_other_pass_lacks_is_none_aside():
    """Cross layers are left out where there is no picture; what is compared behind them is still the right layer."""
    adapter = ours("mllama")

    class Note(Op):
        kinds = SELF_ATTENTION | {"cross"}
        compares = True

        def __init__(self):
            self.seen = {}

        def edit_output(self, call, output):
            if call.step == 0:
                self.seen[call.layer] = call.reference
            return output

    op, plain = Note(), Scale(dict.fromkeys(range(4), torch.ones(1)))
    inputs = adapter.inputs(REQUESTS[:1])
    bare = adapter.without_image(inputs)
    decoded(adapter, inputs, [op], bare)
    decoded(adapter, bare, [plain], max_new_tokens=1)
    assert {layer: aside is None for layer, aside in op.seen.items()} == {0: False, 1: True, 2: False, 3: True}
    assert all(torch.equal(op.seen[layer], plain.outputs[layer]) for layer in (0, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "layer", "aside"),
    [
        (RuntimeError("on purpose"), 0, False),
        (KeyboardInterrupt("on purpose"), 1, False),
        (SystemExit("on purpose"), 2, False),
        (KeyboardInterrupt("on purpose"), 0, True),
        (RuntimeError("on purpose"), 1, True),
    ],
)
def test_an_error_in_either_pass_surfaces_and_leaves_nothing_behind(llava, error, layer, aside):
    """In the last layer the pass aside is over once its outputs have been compared."""
    inputs, threads = llava.inputs(REQUESTS[:2]), own_threads()
    wanted = said(llava, inputs, SPEC)
    with pytest.raises(type(error), match="on purpose"):
        decoded(llava, inputs, [Hurt(error, layer, aside)], llava.without_image(inputs))
    assert own_threads() <= threads
    assert said(llava, inputs, SPEC) == wanted


def test_an_error_of_the_model_in_the_pass_aside_surfaces(llava):
    """Its prompt holds a token that the model does not know."""
    inputs, threads = llava.inputs(REQUESTS[:1]), own_threads()
    bare = llava.without_image(inputs)
    wanted = said(llava, inputs, SPEC)
    bare["input_ids"][0, -1] = 10**6
    with pytest.raises(IndexError):
        decoded(llava, inputs, [Compare()], bare)
    assert own_threads() <= threads
    assert said(llava, inputs, SPEC) == wanted


def test_after_the_prompt_nothing_is_aside(llava):
    inputs, threads = llava.inputs(REQUESTS[:2]), own_threads()
    during = []

    class Watch(Compare):
        def edit_output(self, call, output):
            during.append(len(own_threads() - threads))
            return super().edit_output(call, output)

    decoded(llava, inputs, [Watch()], llava.without_image(inputs))
    assert during[:3] == [1, 1, 1]
    assert set(during[3:]) == {0}
    assert own_threads() <= threads


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "qwen3_5", "gemma3", "mllama"])
def test_four_threads_on_one_model_answer_as_each_would_alone(name):
    adapter, strong = ours(name), "vhr(layers=':', alpha=4)"
    asked = [
        (Request("Is there a dog?", (picture(40, 40, 4),)), SPEC),
        (Request("What is on the left of it? Tell me.", (picture(64, 32, 8),)), strong),
        (Request("Is there a dog?", (picture(40, 40, 4),)), "greedy"),
        (Request("And what do you see here?", (picture(30, 70, 6),)), SPEC),
    ]
    alone = [said(adapter, adapter.inputs([request]), spec) for request, spec in asked]
    wrong, threads = [], own_threads()

    def work(request, spec, wanted, barrier):
        try:
            config = Settings(max_new_tokens=10).resolved(adapter.generator)
            inputs = adapter.inputs([request])
            rows = run(adapter, inputs, mmhall.strategy(spec), config, 0, watch=(Meet(barrier),))
            if rows[0].tolist() != list(wanted[0]):
                wrong.append((spec, rows, wanted))
        except BaseException as error:
            wrong.append((spec, error))
        finally:
            barrier.abort()

    for _ in range(1):
        barrier = threading.Barrier(len(asked))
        workers = [
            threading.Thread(target=work, args=(*one, wanted, barrier))
            for one, wanted in zip(asked, alone, strict=True)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert wrong == []
    assert own_threads() <= threads


@pytest.mark.parametrize("more", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}], ids=str)
def test_beams_repeat_what_was_found_of_their_prompt(llava, more):
    inputs = llava.inputs(REQUESTS[:2])
    op = Compare()
    tokens = decoded(llava, inputs, [op], llava.without_image(inputs), **more)
    assert all(len(factors) == 2 for factors in op.factors.values())
    assert torch.equal(tokens, decoded(llava, inputs, [Scale(op.factors)], **more))
    for index, request in enumerate(REQUESTS[:2]):
        single, own = llava.inputs([request]), Compare()
        alone = decoded(llava, single, [own], llava.without_image(single), **more)
        every = len(alone)
        assert torch.equal(tokens[index * every : (index + 1) * every, : alone.shape[1]], alone)


def test_draws_repeat_what_was_found_of_their_prompt(llava):
    inputs = llava.inputs(REQUESTS[:2])
    op, more = Compare(), {"do_sample": True, "num_return_sequences": 3}
    tokens = decoded(llava, inputs, [op], llava.without_image(inputs), **more)
    assert torch.equal(tokens, decoded(llava, inputs, [Scale(op.factors)], **more))
    assert len({tuple(row) for row in tokens.tolist()}) > 2
