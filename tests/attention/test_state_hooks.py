"""States of layers, seen and written, against plain hooks on a copy of the model that mmhall never touches."""

from __future__ import annotations

import copy
import threading

import pytest
import torch

from mmhall.adapters import adapter_for
from mmhall.adapters._anatomy import SITES
from mmhall.attention import EVERY, Op, active
from mmhall.errors import CompositionError, ModelError
from mmhall.generation._job import StepScores
from mmhall.generation._settings import Settings
from mmhall.lvlm import LVLM
from mmhall.strategies import Branch, Session, Strategy
from tests.attention.sites import Write, hooked, hooks_of
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, built, cut, ends, generated, ours, theirs
from tests.jobs import decode

pytestmark = QUIET

NEW = 4
FEATURES_BETWEEN = {"qwen3_vl": {0, 1}}  # layers behind which features of the pictures are added


class Tap(Op):
    """Keeps the states that enter layers."""

    kinds = EVERY

    def __init__(self, layers=None):
        self.layers, self.seen = layers, []

    def see_states(self, visit):
        self.seen.append((visit, visit.states.clone()))


class Steered(Strategy):
    """Greedy with ops."""

    name = "steered"

    def __init__(self, *ops):
        object.__setattr__(self, "_ops", ops)

    def prepare(self, adapter, inputs):
        return Session(ops=self._ops)


def config(adapter, **settings):
    return Settings(**{"max_new_tokens": NEW, **settings}).resolved(adapter.generator)


def endless(adapter):
    """Settings under which no answer ends early."""
    found = config(adapter)
    found.min_new_tokens = NEW
    return found


def steps(adapter, inputs, *ops, branches=(), combine=None):
    """What mmhall says, (B, NEW), and the main rows' logits at every step, (B, V) each."""
    kept = StepScores("scores", logits=[])
    said = decode(adapter, inputs, Session(ops, branches, combine), endless(adapter), keep=kept)
    return said, kept.logits


def plain_steps(name, inputs, op):
    """The same of transformers' own loop on a model with plain hooks, and what they saw."""
    with hooked(theirs(name), op) as seen:
        out = theirs(name).generate(
            **inputs,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=list(ends(name)),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return out.sequences[:, -NEW:], list(out.logits), seen


def real(states, inputs):
    """Leave out padded positions, whose values nobody reads."""
    return states[inputs["attention_mask"].bool()]


def shown(adapter, inputs, *ops):
    with torch.no_grad(), active(adapter.plan(ops)):
        return adapter.model(**inputs).logits


@pytest.mark.parametrize("name", FAMILIES)
def test_a_written_state_is_what_plain_hooks_write(name):
    """At each site of one layer, and at all of all, of a batch padded on the left: logits of all steps, and tokens."""
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:2])
    assert inputs["attention_mask"].sum(1).unique().numel() == 2
    plain, depth = steps(adapter, inputs)[1], len(adapter.layers)
    for sites, layers in (*(((site,), {depth // 2}) for site in SITES), (SITES, None)):
        op = Write(*sites, layers=layers)
        said, got = steps(adapter, inputs, op)
        wanted_said, wanted, seen = plain_steps(name, inputs, Write(*sites, layers=layers))
        assert torch.equal(said, wanted_said)
        for mine, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(got[0], plain[0], atol=1e-2)
        check_visits(adapter, inputs, op, seen)


def check_visits(adapter, inputs, op, seen):
    """Every visit tells where it is, and shows what entered and left the module."""
    length, depth = inputs["input_ids"].shape[1], len(adapter.layers)
    layers = range(depth) if op.layers is None else sorted(op.layers)
    assert len(op.visits) == len(seen) == NEW * len(layers) * len(op.sites)
    for number, (visit, (layer, site, entered, left)) in enumerate(zip(op.visits, seen, strict=True)):
        step = number // (len(layers) * len(op.sites))
        newest_only = step == 0 and layer in adapter.newest_only
        count = length if step == 0 and not newest_only else 1
        assert (visit.layer, visit.site, visit.kind) == (layer, site, adapter.kinds[layer])
        assert (visit.step, visit.count, visit.start) == (step, count, length + step - count)
        assert visit.newest.tolist() == [count - 1]
        assert visit.prefill == (count > 1)
        assert visit.owners is None
        assert not any((visit.answer, visit.reread))
        width = left.shape[-1]
        assert visit.states.shape == (2, count, width)
        torch.testing.assert_close(visit.states, left.view(2, count, width), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(visit.source, entered.view(2, count, -1), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "llama4"])
def test_beams_with_a_written_state_are_transformers_own(name):
    """Llama 4 is left out: transformers cannot search with its pictures."""
    adapter, op = ours(name), Write("mlp", "out", layers={1})
    owners = []
    for request in REQUESTS[:2]:
        inputs = adapter.inputs([request])
        with hooked(theirs(name), op):
            wanted = generated(name, inputs, num_beams=3, num_return_sequences=2, max_new_tokens=6)
        op.visits.clear()
        found = decode(
            adapter, inputs, Session([op]), config(adapter, num_beams=3, num_return_sequences=2, max_new_tokens=6)
        )
        assert [cut(row, ends(name)) for row in found.tolist()] == wanted
        owners += [visit.owners for visit in op.visits]
    assert all(held is None or held.tolist() == [0, 0, 0] for held in owners)


@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_a_visit_names_the_prompt_of_each_beam(name):
    adapter, op = ours(name), Write("out", layers={0})
    decode(adapter, adapter.inputs(REQUESTS[:2]), Session([op]), config(adapter, num_beams=2))
    assert op.visits[0].owners is None
    assert {tuple(visit.owners.tolist()) for visit in op.visits[1:]} == {(0, 0, 1, 1)}
    values = torch.tensor([5.0, 7.0])
    assert op.visits[-1].each(values).tolist() == [5.0, 5.0, 7.0, 7.0]


@pytest.mark.parametrize("name", FAMILIES)
def test_states_handed_back_change_no_bit(name):
    """In either precision: each family in one."""
    dtype = (torch.bfloat16, torch.float32)[FAMILIES.index(name) % 2]
    model, processor = built(name)
    for tensor in (*model.parameters(), *model.buffers()):  # `to` would cast Llama 4's complex numbers
        tensor.data = tensor.data.to(dtype if tensor.is_floating_point() else tensor.dtype)
    adapter = adapter_for(model, processor)
    inputs = adapter.inputs(REQUESTS[:2])
    plain_said, plain = steps(adapter, inputs)
    op = Write(*SITES, edit=lambda layer, site, states: states)
    said, got = steps(adapter, inputs, op)
    assert torch.equal(said, plain_said)
    assert all(map(torch.equal, got, plain))
    assert len(op.visits) == 3 * NEW * len(adapter.layers)
    adapter.close()


@pytest.mark.parametrize("name", ["llava", "mllama", "gemma3"])
def test_only_the_rows_of_the_ops_own_block_are_written(name):
    """Main rows and branch, stacked (of Mllama apart): one's op never moves the other's rows."""
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:2])
    other = adapter.without_image(inputs)

    def read(main, branch):
        parts = []

        def combine(step):
            parts.append(torch.stack([step.main, step.branches[0]]))
            return torch.zeros_like(step.main).index_fill(1, torch.tensor([100 + step.t]), 1.0)  # the same words

        steps(adapter, inputs, *main, branches=[Branch(other, branch)], combine=combine)
        return torch.stack(parts).clamp_min(-1e3)

    plain, first, second = read((), ()), Write("out", layers={1}), Write("attn", layers={2})
    for found, moved in (read([first], ()), 0), (read((), [second]), 1):
        torch.testing.assert_close(found[:, 1 - moved], plain[:, 1 - moved], rtol=1e-5, atol=1e-4)
        assert ((found - plain)[:, moved].abs().amax(dim=(1, 2)) > 1e-2).all()
    assert {len(visit.states) for op in (first, second) for visit in op.visits} == {2}
    lengths = inputs["input_ids"].shape[1], other["input_ids"].shape[1]
    for op, length in zip((first, second), lengths, strict=True):
        assert [visit.start for visit in op.visits[-NEW:]] == [0, *range(length, length + NEW - 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_what_enters_a_layer_is_transformers_hidden_state(name):
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:2])
    tap, depth = Tap(), len(adapter.layers)
    shown(adapter, inputs, tap)
    with torch.no_grad():
        outputs = theirs(name)(**inputs, output_hidden_states=True)
    hidden = getattr(outputs, "language_model_outputs", outputs).hidden_states
    assert [(visit.layer, visit.site, visit.step) for visit, _ in tap.seen] == [(i, "in", 0) for i in range(depth)]
    for layer, (visit, states) in enumerate(tap.seen):
        changed = layer - 1 in FEATURES_BETWEEN.get(name, ())
        assert torch.equal(real(states, inputs), real(hidden[layer], inputs)) != changed
        assert torch.equal(visit.source, visit.states)


@pytest.mark.parametrize("name", FAMILIES)
def test_looking_changes_no_bit_and_every_step_shows_one_row(name):
    adapter, tap = ours(name), Tap()
    inputs, depth = adapter.inputs(REQUESTS[:2]), len(adapter.layers)
    plain_said, plain = steps(adapter, inputs)
    said, got = steps(adapter, inputs, tap)
    assert torch.equal(said, plain_said)
    assert all(map(torch.equal, got, plain))
    assert [(visit.step, visit.layer) for visit, _ in tap.seen] == [(s, i) for s in range(NEW) for i in range(depth)]
    assert [states.shape[1] for _, states in tap.seen[depth:]] == [1] * (NEW - 1) * depth


def test_ops_act_only_where_their_plan_is_active():
    adapter = ours("llava")
    inputs, tap, other = adapter.inputs(REQUESTS[:2]), Tap(), Tap(frozenset({1}))
    plan = adapter.plan([tap])
    with torch.no_grad():
        adapter.model(**inputs)
        shown(adapter, inputs, other)
        with active(plan), active(None):
            adapter.model(**inputs)
    assert tap.seen == []
    assert [visit.layer for visit, _ in other.seen] == [1]
    written = shown(adapter, inputs, Write("out", layers={1}))
    with torch.no_grad(), active(plan), active(adapter.plan([Write("out", layers={1})])):
        assert torch.equal(shown(adapter, inputs, Write("out", layers={1})), written)
    with torch.no_grad(), active(plan):
        shown(adapter, inputs, other)
        adapter.model(**inputs)
    assert [visit.layer for visit, _ in tap.seen] == [0, 1, 2]


def test_two_ops_at_one_site_are_refused_unless_the_later_one_projects():
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[:2])

    class Project(Write):
        projection = True

    def halved(layer, site, states):
        return torch.cat([states[..., :8], torch.zeros_like(states[..., 8:])], dim=-1)

    with pytest.raises(CompositionError, match=r"edit the states at 'mlp' of layer 1"):
        adapter.plan([Write("mlp", layers={0, 1}), Write("mlp", layers={1, 2})])
    with pytest.raises(CompositionError, match=r"'mlp' of layer 1"):
        adapter.plan([Project("mlp", layers={1}), Write("mlp", layers={1})])
    adapter.plan([Write("mlp", layers={0}), Write("mlp", layers={1}), Write("out", layers={1}), Tap()])
    both = steps(adapter, inputs, Write("mlp", layers={1}), Project("mlp", layers={1}, edit=halved))[1]
    chained = Write("mlp", layers={1}, edit=lambda *at: halved(*at[:2], Write("mlp")._edit(*at)))
    assert all(map(torch.equal, both, steps(adapter, inputs, chained)[1]))


@pytest.mark.parametrize(
    ("edit", "got"),
    [
        (lambda layer, site, states: states[:, :1], r"shape \(2, 1, 64\)"),
        (lambda layer, site, states: states[:1], r"shape \(1, \d+, 64\)"),
        (lambda layer, site, states: None, "NoneType"),
    ],
)
def test_states_of_another_shape_are_refused(edit, got):
    adapter = ours("llava")
    inputs, before = adapter.inputs(REQUESTS[:2]), hooks_of(adapter.model)
    with pytest.raises(CompositionError, match=rf"must return states of shape \(2, \d+, 64\), got {got}"):
        steps(adapter, inputs, Write("out", layers={1}, edit=edit))
    assert hooks_of(adapter.model) == before


def test_states_keep_the_models_dtype():
    model, processor = built("llava")
    adapter = adapter_for(model.to(torch.bfloat16), processor)
    seen = []
    hook = adapter.layers[2].register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    steps(adapter, adapter.inputs(REQUESTS[:2]), Write("out", layers={1}, edit=lambda *at: at[2].float() * 1.5))
    hook.remove()
    assert set(seen) == {torch.bfloat16}


def failing(*at):
    raise RuntimeError("on purpose")


@pytest.mark.parametrize("name", ["llava", "mllama", "qwen3_5"])
def test_nothing_is_left_on_a_model(name):
    """After an answer, and after an op that fails in the middle of one."""
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:2])
    said, plain = steps(adapter, inputs)
    before = hooks_of(adapter.model)  # transformers' own among them, which stay after a first run
    during = []
    steps(adapter, inputs, Write(*SITES, edit=lambda *at: during.append(hooks_of(adapter.model)) or at[2]))
    assert all(found != before for found in during)
    assert hooks_of(adapter.model) == before
    calls = []

    def late(*at):
        calls.append(at)
        return at[2] if len(calls) < 5 else failing()

    for edit in failing, late:
        with pytest.raises(RuntimeError, match="on purpose"):
            steps(adapter, inputs, Write("out", edit=edit))
        assert hooks_of(adapter.model) == before
    again, got = steps(adapter, inputs)
    assert torch.equal(again, said)
    assert all(map(torch.equal, got, plain))


@pytest.fixture(scope="module")
def lvlm():
    opened = LVLM(*built("llava"))
    yield opened
    opened.close()


def test_nothing_is_left_by_a_stream_that_is_stopped(lvlm):
    op, asked = Write("out", layers={1}), (REQUESTS[0].images[0], "What is it?")
    plain, before = lvlm.generate(*asked, max_new_tokens=6).token_ids, hooks_of(lvlm.model)
    stream = lvlm.stream(*asked, strategy=Steered(op), max_new_tokens=50)
    for _ in range(3):
        stream.step()
        assert hooks_of(lvlm.model) == before
    stream.close()
    assert 0 < len(op.visits) < 50
    assert hooks_of(lvlm.model) == before
    assert lvlm.generate(*asked, max_new_tokens=6).token_ids == plain


@pytest.mark.slow
def test_threads_steer_one_model_each_by_itself(lvlm):
    """Four at a time, two of them steering differently: answers and visits are those of single runs."""

    def ask(index):
        op = Write("out", "mlp", layers={1, index}) if index < 2 else None
        method = Steered(op) if op else "greedy"
        request = REQUESTS[index]
        answer = lvlm.generate(request.images[0], request.prompt, strategy=method, max_new_tokens=12)
        return answer.token_ids, len(op.visits) if op else 0

    alone, before, found = [ask(index) for index in range(4)], hooks_of(lvlm.model), {}
    threads = [
        threading.Thread(target=lambda index=index: found.update({index: [ask(index) for _ in range(3)]}))
        for index in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(4)] == [[one] * 3 for one in alone]
    assert hooks_of(lvlm.model) == before


def test_a_closed_model_refuses_ops_and_a_copy_has_hooks_of_its_own():
    model, processor = built("llava")
    first = adapter_for(model, processor)
    inputs, tap, still = first.inputs(REQUESTS[:2]), Tap(), Tap()
    twin = adapter_for(copy.deepcopy(model), processor)
    shown(twin, inputs, tap)
    twin.close()
    shown(first, inputs, still)
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(tap.seen, still.seen, strict=True))
    with pytest.raises(ModelError, match="closed"):
        twin.plan([Tap()])
    plan = first.plan([tap])
    first.close()
    assert hooks_of(model) == hooks_of(twin.model)
    assert [part for part in model.modules() if any(mark.startswith("_mmhall") for mark in vars(part))] == []
    tap.seen.clear()
    with torch.no_grad(), active(plan):
        model(**inputs)
    assert tap.seen == []
