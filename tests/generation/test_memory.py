"""What rows remember, against diaries: a Python dict by the tokens said so far, filled by reading everything anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import mmhall
from mmhall.adapters._base import Adapter, Inputs, Request
from mmhall.attention import Op
from mmhall.decoders.opera import Opera, Retrospection, Watch
from mmhall.errors import CompositionError
from mmhall.generation import run_searches
from mmhall.generation._settings import Settings
from mmhall.lvlm import LVLM
from mmhall.strategies import Branch, Composed, Session, Strategy, strategy
from mmhall.strategies._step import Step
from tests.attention.reference import Eager
from tests.clip import CLIP
from tests.conftest import make_random_llava
from tests.decoders.opera_reference import Pull, Reference
from tests.decoders.reference import REQUESTS, Slow, greedily, searched, settings, slow
from tests.decoders.test_cgd import LENGTH, Naive, dotted
from tests.generation.reference import QUIET, in_turn
from tests.jobs import decode, opened, run

pytestmark = QUIET

KINDS = ("first", "decayed", "counted")
FAMILIES = ("llava", "mllama", "gemma3", "qwen3_5", "instructblip")
"""Of Mllama, branches with and without a picture step apart."""
CASES = in_turn(FAMILIES, ("decayed", "counted", "first"))


@dataclass(frozen=True)
class Remembering(Strategy):
    """Contrasts with no picture, and with what was predicted before."""

    name: ClassVar[str] = "remembering"

    kind: str = "first"

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        return Session(branches=[Branch(adapter.without_image(inputs))], combine=getattr(self, self.kind))

    @staticmethod
    def first(step: Step) -> Tensor:
        """Move away from what the first token might have been."""
        if step.t == 0:
            step.memory["first"] = step.main
        return step.main + 0.6 * (step.main - step.branches[0]) - 0.5 * step.memory["first"]

    @staticmethod
    def decayed(step: Step) -> Tensor:
        """Move away from all that was predicted so far, the latest most."""
        past = step.memory.get("past")
        past = torch.zeros_like(step.main) if past is None else past
        step.memory["past"] = 0.5 * past + step.main
        return step.main + 0.3 * (step.main - step.branches[0]) - 0.4 * past

    @staticmethod
    def counted(step: Step) -> Tensor:
        """Contrast the more the longer the answer is."""
        count = step.memory.get("count")
        count = torch.zeros_like(step.main[:, :1]) if count is None else count
        assert (count == step.t).all(), "a row does not know how many tokens it has said"
        step.memory["count"] = count + 1
        return step.main + (1 - 0.7 ** (count + 0.5 * step.t)) * (step.main - step.branches[0])


class Diary:
    """The same by hand, for one prompt: each answer so far has an entry of its own, made from that of the one before.

    Attributes:
        entries: What is remembered once the next token of an answer has been scored, by the tokens of the answer.
    """

    def __init__(self, model: Slow, request: Request, kind: str, **edits) -> None:
        self.model, self.kind, self.edits = model, kind, edits
        self.inputs = model.adapter.inputs([request])
        self.bare = model.adapter.without_image(self.inputs)
        self.entries: dict[tuple[int, ...], Tensor | int | None] = {}
        self.scores: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, answer: Sequence[int]) -> Tensor:
        said = tuple(answer)
        if said not in self.scores:
            before = None
            if said:
                self(said[:-1])
                before = self.entries[said[:-1]]
            read = [self.model.read(self.model.longer(one, said), **self.edits) for one in (self.inputs, self.bare)]
            self.scores[said], self.entries[said] = self.scored(len(said), before, *read)
        return self.scores[said]

    def scored(self, t, before, main, bare):
        main, bare = main.log_softmax(-1), bare.log_softmax(-1)
        if self.kind == "first":
            first = before if t else main
            return main + 0.6 * (main - bare) - 0.5 * first, first
        if self.kind == "decayed":
            past = before if t else torch.zeros_like(main)
            return main + 0.3 * (main - bare) - 0.4 * past, 0.5 * past + main
        count = before if t else 0
        return main + (1 - 0.7 ** (count + 0.5 * t)) * (main - bare), count + 1


def said(adapter, requests, kind, length=6, seed=0, **more):
    """What mmhall says, row by row."""
    config = settings(adapter, max_new_tokens=length, **more)
    return list(map(tuple, run(adapter, adapter.inputs(requests), Remembering(kind=kind), config, seed).tolist()))


@cache
def diaries(name, kind):
    return [Diary(slow(name), request, kind) for request in REQUESTS]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_greedy_remembers_in_a_batch_of_uneven_prompts(name, kind):
    wanted = [greedily(diary, 5) for diary in diaries(name, kind)]
    assert said(slow(name).adapter, REQUESTS, kind, 5) == wanted


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_each_of_several_sequences_remembers_what_it_drew(name, kind):
    """The rows of a prompt draw one after the other from its generator."""
    wanted = []
    for diary in diaries(name, kind):
        generator, answers = torch.Generator().manual_seed(3), [(), (), ()]
        for _ in range(4):
            drawn = [torch.multinomial(diary(one).softmax(-1), 1, generator=generator) for one in answers]
            answers = [(*one, int(token)) for one, token in zip(answers, drawn, strict=True)]
        wanted += answers
    got = said(slow(name).adapter, REQUESTS, kind, 4, seed=3, do_sample=True, num_return_sequences=3)
    assert got == wanted
    assert len(set(got)) > 2


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_beams_are_a_naive_search_whose_state_is_the_hypothesis(name, kind):
    wanted = [answer for diary in diaries(name, kind) for answer in searched(diary, 3, 4)]
    assert said(slow(name).adapter, REQUESTS, kind, 4, num_beams=3, num_return_sequences=3) == wanted


@pytest.mark.parametrize(("name", "kind"), in_turn(("llava", "mllama"), KINDS))
@torch.inference_mode()
def test_rows_permuted_by_hand_give_permuted_scores(name, kind):
    adapter = slow(name).adapter
    inputs, order = adapter.inputs(REQUESTS), torch.tensor([2, 0, 3, 1])
    _, rows = opened(adapter, inputs, Remembering(kind=kind).prepare(adapter, inputs), settings(adapter))
    rows.scores()
    rows.select(torch.tensor([0, 0, 1, 1]))
    rows.step(torch.tensor([90, 97, 101, 110]))
    rows.scores()
    other, tokens = rows.taken(order), torch.tensor([99, 98, 97, 96])
    for step in range(3):
        rows.step(tokens + step)
        other.step((tokens + step)[order])
        torch.testing.assert_close(other.scores(), rows.scores()[order], rtol=1e-5, atol=1e-4)


class Kept(Reference):
    """OPERA's reference, which takes scores from a diary."""

    def read(self, answers):
        _, maps = super().read(answers)
        return torch.stack([self.diary(answer) for answer in answers]).double(), maps


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decayed"])
def test_opera_goes_back_to_what_was_remembered_there(kind, processor):
    """All rows of the last layer look at one token of the answer: a stripe that is left again and again."""
    model = Slow(make_random_llava(processor, seed=2), processor)
    adapter, longest, where = model.adapter, 16, 11
    inputs = adapter.inputs(REQUESTS[:1])
    pull = torch.zeros(inputs["input_ids"].shape[1] + longest)
    pull[inputs["input_ids"].shape[1] + where] = 30.0
    pull = Pull(2, pull)
    options = Opera(num_attn_candidates=2, threshold=1, penalty_weights=0.0)
    config = Settings(max_new_tokens=longest, num_beams=2).resolved(adapter.generator)
    config.eos_token_id = [10**6]
    with torch.inference_mode():
        session = Composed((Remembering(kind=kind), options)).prepare(adapter, inputs)
        decoding, _ = opened(adapter, inputs, session, config, [pull])
        (watch,) = (op for op in session.ops if isinstance(op, Watch))
        search = Retrospection(options, watch, decoding, 0)
        run_searches(decoding, [search])
    reference = Kept(adapter, model.eager, inputs, options, 2, longest, edits={"scores": pull.edit})
    reference.diary = Diary(model, REQUESTS[0], kind, scores=pull.edit)
    wanted = reference.run()
    assert [answer for _, answer in search.beams.finished()] == [list(answer) for _, answer in wanted]
    assert len(reference.backs) == sum(search.tries.values()) > 2


WILD = f"cgd(clip={str(CLIP)!r}, temperature=1.5, alpha=0.05, keep=2, candidates=2)"


@cache
def guided(name) -> Slow:
    """A model that likes to end sentences, and its eager copy."""
    model = Slow.__new__(Slow)
    model.adapter = dotted(name)
    model.eager = Eager(model.adapter)
    return model


def naive(model, request, scores):
    """Run CGD's slow search with these scores; the best answer, and how many sentences deep it went."""
    found = Naive(model.adapter, request, strategy(WILD))
    found.scores = cache(lambda answer: scores(answer).log_softmax(-1).tolist())
    best = found.run()[0][0]
    return best, found.turns


def check_search(name, method, scores):
    """Check that CGD with a strategy finds what the slow search does, several sentences deep."""
    model, turns = guided(name), 0
    config = Settings(max_new_tokens=LENGTH).resolved(model.adapter.generator, 2)
    got = run(model.adapter, model.adapter.inputs(REQUESTS), Composed((method, strategy(WILD))), config).tolist()
    for request, answer in zip(REQUESTS, got, strict=True):
        wanted, deep = naive(model, request, scores(model, request))
        assert tuple(answer[: len(wanted)]) == wanted
        turns += deep
    assert turns > len(REQUESTS), "every text has one sentence only"


@pytest.mark.usefixtures("clip")
@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("llava", "decayed"), ("mllama", "counted")])
def test_cgd_remembers_what_each_text_has_said(name, kind):
    check_search(name, Remembering(kind=kind), lambda model, request: Diary(model, request, kind))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("llava", "decayed"), ("mllama", "counted"), ("gemma3", "first")])
def test_custom_generate_and_trace_remember_too(name, kind):
    model, request = slow(name), REQUESTS[0]
    wanted = greedily(Diary(model, request, kind), 5)
    lvlm = LVLM(model.adapter.model, model.adapter.processor)
    trace = lvlm.trace(request.images[0], request.prompt, Remembering(kind=kind), max_new_tokens=5)
    assert trace.answer.token_ids == wanted
    inputs = model.adapter.inputs([request])
    own = mmhall.custom_generate(Remembering(kind=kind), processor=model.adapter.processor)
    rows = lvlm.model.generate(**inputs, max_new_tokens=5, do_sample=False, custom_generate=own)
    assert tuple(rows[0, -5:].tolist()) == wanted
    lvlm.close()


class Drift(Op):
    """Remembers how the heads of the first layer drifted, token by token, and turns them up or down by it."""

    layers, remembers = frozenset({0}), True

    def edit_output(self, call, output):
        last = output[:, -1:].mean(dim=-1, keepdim=True)
        before = call.memory.get("drift")
        drift = last if before is None else 0.5 * before + last
        call.memory["drift"] = drift
        return torch.cat([output[:, :-1], output[:, -1:] * (1 + 0.8 * drift.tanh())], dim=1)

    @staticmethod
    def eager(length):
        """The same for a whole sequence whose prompt has so many tokens."""

        def edit(layer, output):
            if layer != 0:
                return output
            edited, drift = output.clone(), torch.zeros(())
            for at in range(length - 1, output.shape[1]):
                drift = 0.5 * drift + output[:, at].mean(dim=-1, keepdim=True)
                edited[:, at] = output[:, at] * (1 + 0.8 * drift.tanh())
            return edited

        return edit


@dataclass(frozen=True)
class Drifting(Strategy):
    """Steers by what an op remembers."""

    name: ClassVar[str] = "drifting"

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        return Session(ops=[Drift()])


def drifting(model, request):
    """The scores of an answer, read anew."""
    inputs = model.adapter.inputs([request])
    edit = Drift.eager(inputs["input_ids"].shape[1])
    return cache(lambda answer: model.read(model.longer(inputs, answer), output=edit))


def tupled(scores):
    return lambda answer: scores(tuple(answer))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_what_an_op_remembers_follows_rows(name):
    model = slow(name)
    each = [tupled(drifting(model, request)) for request in REQUESTS]
    inputs = model.adapter.inputs(REQUESTS)
    greedy = run(model.adapter, inputs, Drifting(), settings(model.adapter, max_new_tokens=6)).tolist()
    assert list(map(tuple, greedy)) == [greedily(scores, 6) for scores in each]
    plain = run(model.adapter, inputs, strategy("greedy"), settings(model.adapter, max_new_tokens=6)).tolist()
    assert greedy != plain
    beams = settings(model.adapter, max_new_tokens=5, num_beams=3, num_return_sequences=3)
    found = run(model.adapter, inputs, Drifting(), beams).tolist()
    assert list(map(tuple, found)) == [answer for scores in each for answer in searched(scores, 3, 5)]


@pytest.mark.usefixtures("clip")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava"])
def test_an_ops_memory_is_that_of_a_text_in_cgd(name):
    check_search(name, Drifting(), drifting)


def test_an_op_that_does_not_say_that_it_remembers_is_refused():
    adapter = slow("llava").adapter
    op = Drift()
    op.remembers = False
    with pytest.raises(CompositionError, match="set `remembers = True` in its class"):
        decode(adapter, adapter.inputs(REQUESTS[:1]), Session(ops=[op]), settings(adapter))


def test_an_op_remembers_nothing_of_tokens_that_are_only_tried():
    adapter = slow("llava").adapter
    config = settings(adapter, max_new_tokens=4, num_beams=2)
    with pytest.raises(
        CompositionError, match="'drift' cannot be stored in memory while a search tries candidate tokens"
    ):
        run(adapter, adapter.inputs(REQUESTS[:1]), Composed((Drifting(), strategy("opera"))), config)


class Seen(Op):
    """Turns the heads of the last layer up or down by what the combination remembers."""

    layers, remembers = frozenset({2}), True

    def __init__(self):
        self.steps = []

    def edit_output(self, call, output):
        count = call.memory.get("count")
        if call.step == 0:
            return output
        assert (count == call.step).all(), "the combination has not scored each token before it is read"
        self.steps.append(call.step)
        return output * (1 + 0.2 * count[:, :, None, None])


@dataclass(frozen=True)
class Seeing(Strategy):
    """Contrasts, and steers by what is remembered of it."""

    name: ClassVar[str] = "seeing"

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        branches = [Branch(adapter.without_image(inputs))]
        return Session(ops=[Seen()], branches=branches, combine=Remembering.counted)


@pytest.mark.slow
@pytest.mark.usefixtures("clip")
def test_an_op_finds_what_the_combination_remembers_however_tokens_are_read():
    """Also where CGD reads a text anew, and where a trace reads what beams have found."""
    model, request = slow("llava"), REQUESTS[0]
    config = Settings(max_new_tokens=LENGTH).resolved(model.adapter.generator, 2)
    run(guided("llava").adapter, model.adapter.inputs(REQUESTS), Composed((Seeing(), strategy(WILD))), config)
    with LVLM(model.adapter.model, model.adapter.processor) as lvlm:
        trace = lvlm.trace(request.images[0], request.prompt, Seeing(), max_new_tokens=5, num_beams=2)
    assert len(trace.answer.token_ids) == 5


class Bare(Op):
    """Remembers what the first heads of the prompt without its picture say, in lock step with the prompt."""

    layers, remembers = frozenset({0}), True

    def edit_output(self, call, output):
        call.memory["bare"] = output[:, -1].clone()
        return output


class Compared(Op):
    """Keeps what it finds of that in the passes of the main rows."""

    layers, compares, remembers = frozenset({1}), True, True

    def __init__(self):
        self.found = []

    def edit_output(self, call, output):
        self.found.append(call.memory["bare"])
        return output


@torch.inference_mode()
def test_a_branch_in_lock_step_remembers_with_the_main_rows():
    adapter = slow("llava").adapter
    inputs, op = adapter.inputs(REQUESTS), Compared()
    branch = Branch(adapter.without_image(inputs), [Bare()], lockstep=True)
    config = settings(adapter, max_new_tokens=3)
    session = Session(ops=[op], branches=[branch])
    decode(adapter, inputs, session, config)
    assert len(op.found) == 3
    assert all(torch.equal(found, op.found[0]) for found in op.found)
    assert not torch.equal(op.found[0][0], op.found[0][1])
