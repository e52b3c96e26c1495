"""Decoding with a vision tower that main rows and branches edit each by their own ops."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
import torch

import mmhall
from mmhall.adapters import adapter_for
from mmhall.analysis._teacher_forcing import read_answer
from mmhall.attention import VISION, Op
from mmhall.generation._settings import Settings
from mmhall.strategies import Branch, Session, Strategy
from mmhall.strategies._step import Step
from tests.attention.tower import Edit, doubled, hooked, traces, waved
from tests.generation import reference
from tests.generation.reference import QUIET, REQUESTS, cut, in_turn, ours, separately, theirs
from tests.jobs import decode, opened
from tests.zoo import ZOO

pytestmark = QUIET

FAMILIES = ("llava", "llava_next", "qwen2_5_vl", "mllama", "qwen3_5", "instructblip")
LENGTH = 5
OP = {"main": ("out", waved), "branch": ("features", lambda states: states.flip(-1))}


def settings(adapter, **more):
    return Settings(max_new_tokens=LENGTH, **more).resolved(adapter.generator)


def contrast(step):
    return 1.5 * step.main - 0.5 * step.branches[0]


def session_of(inputs, main=(), branch=()):
    return Session(main, [Branch(inputs, branch)], contrast)


class Slow:
    """Reads every sequence anew with a model that mmhall never touched, its tower edited by plain hooks."""

    def __init__(self, name, main=None, branch=None):
        self.name, self._edits = name, (main, branch)

    def __call__(self, adapter, session, inputs, answer):
        """Next-token scores after an answer; what `tests.generation.reference.anew` is without edits."""
        longer = (
            adapter.append_answer(inputs, torch.tensor([answer], dtype=torch.long)) if len(answer) else dict(inputs)
        )
        read = []
        for edit in self._edits[: 1 + len(session.branches)]:
            with torch.inference_mode(), nullcontext() if edit is None else self._edited(*edit):
                logits = theirs(self.name)(**longer, use_cache=False).logits[:, -1].float()
            read.append(logits.log_softmax(dim=-1))
        if session.combine is None:
            return read[0][0]
        return session.combine(Step(read[0], tuple(read[1:]), torch.tensor([answer], dtype=torch.long)))[0]

    def _edited(self, site, edit):
        layers = range(len(ours(self.name).anatomy.vision.layers))
        return hooked(theirs(self.name), site, edit, layers)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Let the naive searches end as soon."""
    monkeypatch.setattr(reference, "LENGTH", LENGTH)


@pytest.fixture
def slow(monkeypatch):
    """Let the naive searches read with edits."""

    def use(*edits):
        reader = Slow(*edits)
        monkeypatch.setattr(reference, "anew", reader)
        return reader

    return use


def answers(adapter, inputs, session, **more):
    rows = decode(adapter, inputs, session, settings(adapter, **more), [0] * len(inputs["input_ids"])).tolist()
    return [cut(row, adapter.generator.generation_config.eos_token_id) for row in rows]


BOTH = ("main", "branch")
CASES = [*((name, BOTH) for name in FAMILIES), ("llava", BOTH[:1]), ("qwen2_5_vl", BOTH[1:])]


@pytest.mark.parametrize(("name", "edits"), CASES, ids=lambda part: part if isinstance(part, str) else "+".join(part))
def test_main_rows_and_branch_follow_their_own_ops(name, edits, slow):
    """Prepared apart, decoded stacked; equal to each sequence read by itself, alone and in a batch."""
    adapter = ours(name)
    ops = {who: [Edit(*OP[who])] if who in edits else [] for who in OP}
    slow(name, *(OP[who] if who in edits else None for who in OP))
    batch = adapter.inputs(REQUESTS[:2])
    together = answers(adapter, batch, session_of(batch, *ops.values()))
    scores, plain = (
        opened(adapter, batch, session, settings(adapter))[1].scores()
        for session in (session_of(batch, *ops.values()), session_of(batch))
    )
    assert (scores - plain).abs().max() > 1e-2
    for request, answer in zip(REQUESTS[:2], together, strict=True):
        inputs = adapter.inputs([request])
        wanted = separately(adapter, inputs, session_of(inputs))
        assert answer == wanted
        assert answers(adapter, inputs, session_of(inputs, *ops.values())) == [wanted]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_beams_equal_the_naive_search(name, slow):
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:1])
    ops = [[Edit(*OP[who])] for who in OP]
    slow(name, *OP.values())
    (wanted,) = reference.searched(adapter, inputs, session_of(inputs), 3)[:1]
    assert answers(adapter, inputs, session_of(inputs, *ops), num_beams=3) == [wanted]
    slow(name, None, None)
    assert reference.searched(adapter, inputs, session_of(inputs), 3)[0] != wanted


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "instructblip", "mllama"])
def test_an_edit_of_strength_0_is_greedy_to_the_last_bit(name):
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:2])
    neutral = [Edit(site, lambda states: states + 0.0 * states) for site in ("attn", "mlp", "out", "features")]
    plain = opened(adapter, inputs, Session(), settings(adapter))[1].scores()
    assert torch.equal(opened(adapter, inputs, Session(neutral), settings(adapter))[1].scores(), plain)
    assert answers(adapter, inputs, Session(neutral)) == answers(adapter, inputs, Session())


class Remember(Op):
    """Remembers the mean features of each prompt."""

    kinds, sites, remembers = VISION, frozenset({"features"}), True

    def __init__(self, name):
        self._name = name

    def edit_states(self, visit, states):
        flat, owners = states.flatten(0, -2), visit.owners.flatten()
        visit.memory[self._name] = torch.stack([flat[owners == i].mean() for i in range(int(owners.max()) + 1)])
        return states


@pytest.mark.parametrize(("name", "beams"), in_turn(("llava", "qwen2_5_vl", "mllama"), (1, 3)))
def test_what_is_seen_in_the_tower_is_remembered_while_decoding(name, beams):
    adapter, seen = ours(name), []
    inputs = adapter.inputs(REQUESTS[:2])

    def combine(step):
        seen.append((step.memory["main"], step.memory["branch"]))
        return step.main

    session = Session([Remember("main")], [Branch(inputs, [Edit("out", waved), Remember("branch")])], combine)
    assert answers(adapter, inputs, session, num_beams=beams) == answers(adapter, inputs, Session(), num_beams=beams)
    main, branch = seen[0]
    assert len(main) == len(branch) == 2 * beams
    assert main[0] != main[-1]
    assert not torch.equal(main, branch)
    for values, others in seen:
        assert set(values.tolist()) <= set(main.tolist())
        assert set(others.tolist()) <= set(branch.tolist())


def test_a_prompt_in_lock_step_follows_its_own_ops():
    """Its head outputs in the decoder come from features that its ops edited, and the main rows' do not."""

    class Compare(Op):
        compares = True

        def __init__(self):
            self.far = []

        def edit_output(self, call, output):
            if call.reference is not None:
                self.far.append(float((call.reference - output).abs().max()))
            return output

    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[:1])
    found = []
    for ops in ([], [Edit("features", doubled)]):
        compare = Compare()
        session = Session([compare], [Branch(inputs, ops, lockstep=True)])
        assert answers(adapter, inputs, session) == answers(adapter, inputs, Session())
        found.append(max(compare.far))
    assert found[0] == 0.0
    assert found[1] > 0.01


class Vision(Strategy):
    """Edits the features."""

    name = "vision"

    def prepare(self, adapter, inputs):
        return Session([Edit("features", waved)])


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "mllama"])
def test_it_holds_in_custom_generate(name):
    """`generate` encodes pictures before it hands over; what it encoded is not what is read."""
    model, processor = ZOO[name]()
    adapter = adapter_for(model, processor)
    inputs = adapter.inputs(REQUESTS[:2])
    wanted = decode(adapter, inputs, Session([Edit("features", waved)]), settings(adapter), [0, 0])
    adapter.close()
    loop = mmhall.custom_generate(Vision(), processor=processor)
    before = traces(model)
    rows = model.generate(**inputs, custom_generate=loop, max_new_tokens=LENGTH, do_sample=False)
    assert torch.equal(rows[:, inputs["input_ids"].shape[1] :], wanted)
    assert traces(model) == before
    assert not torch.equal(model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False), rows)


def test_an_answer_is_read_with_ops_in_the_tower():
    """Teacher forcing: the logits of a written answer, against plain hooks."""
    adapter, own = ours("llava"), theirs("llava")
    inputs = adapter.append_answer(adapter.inputs(REQUESTS[:1]), torch.tensor([[30, 31, 32]]))
    with torch.inference_mode():
        got = read_answer(adapter, inputs, 3, [Edit("features", waved)])
        with hooked(own, "features", waved):
            wanted = own(**inputs).logits[:, -4:-1].float()
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_threads_edit_one_tower_each_by_their_own_ops():
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[:2])
    sessions = [
        lambda: Session(),
        lambda: Session([Edit("out", waved)]),
        lambda: Session([Edit("features", doubled), Edit("mlp", waved)]),
        lambda: session_of(inputs, [], [Edit("attn", doubled)]),
    ]
    wanted = [answers(adapter, inputs, make()) for make in sessions]
    assert len(set(map(str, wanted))) == len(sessions)
    found = [[] for _ in sessions]

    def work(at):
        for _ in range(4):
            found[at].append(answers(adapter, inputs, sessions[at]()))

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(sessions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, one in zip(found, wanted, strict=True):
        assert got == [one] * 4


def test_an_error_in_a_branch_leaves_nothing_behind():
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[:1])

    def fail(states):
        raise RuntimeError("on purpose")

    wanted = answers(adapter, inputs, Session())
    answers(adapter, inputs, session_of(inputs, [], [Edit("features", waved)]))
    before = traces(adapter.model)
    for site in ("out", "features"):
        with pytest.raises(RuntimeError, match="on purpose"):
            answers(adapter, inputs, session_of(inputs, [], [Edit(site, fail)]))
    assert traces(adapter.model) == before
    assert answers(adapter, inputs, Session()) == wanted
