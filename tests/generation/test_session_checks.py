"""What a session asks for and cannot have is refused in words; what it may do does no harm to others."""

from __future__ import annotations

import pytest
import torch

from mmhall.attention import Drop, Exit, Memory, Op
from mmhall.errors import CompositionError
from mmhall.generation._settings import Settings
from mmhall.lvlm import LVLM
from mmhall.strategies import Branch, Session, Strategy
from tests.generation.reference import QUIET, REQUESTS, ours
from tests.jobs import decode, opened
from tests.zoo import ZOO

pytestmark = QUIET


class Count(Op):
    """Counts its passes in memory, and keeps what it found there."""

    layers = frozenset({0})
    remembers = True

    def __init__(self):
        self.found = []

    def bias(self, call):
        before = call.memory.get("count.passes")
        rows = len(call.query)
        count = torch.zeros(rows) if before is None else before
        self.found.append(count.tolist())
        call.memory["count.passes"] = count + 1


class Compare(Op):
    compares = True

    def edit_output(self, call, output):
        return output


def config(adapter, **more):
    return Settings(**{"max_new_tokens": 3, **more}).resolved(adapter.generator)


@pytest.fixture
def llava():
    return ours("llava")


@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_an_op_of_a_branch_remembers_for_itself(name):
    """Stacked and apart; the same names in both."""
    adapter, main, other = ours(name), Count(), Count()
    inputs = adapter.inputs(REQUESTS[:2])
    branch = Branch(adapter.without_image(inputs), [other])
    decode(adapter, inputs, Session([main], [branch], lambda step: step.main), config(adapter, num_beams=2))
    assert main.found == other.found
    assert [found[0] for found in main.found] == list(range(len(main.found)))
    assert len(main.found) > 1


def test_what_is_remembered_has_a_row_for_each_row(llava):
    def combine(step):
        step.memory["mean"] = step.main.mean(dim=0)
        return step.main

    with pytest.raises(CompositionError, match=r"'mean' in memory must have 4 rows, shape \(4, ...\), got"):
        decode(llava, llava.inputs(REQUESTS[:2]), Session(combine=combine), config(llava, num_beams=2))


def test_an_op_may_call_parts_of_the_model(llava):
    """The MLP that it edits, the whole decoder, and the head: each does what it always does."""
    inputs, heads = llava.inputs(REQUESTS[:2]), []
    plain = llava.model(**inputs).logits[:, -1].detach()

    class Calls(Op):
        sites = frozenset({"mlp"})
        layers = frozenset({1})

        def edit_states(self, visit, states):
            again = llava.layers[1].mlp(visit.source)
            assert torch.equal(again, states)
            llava.decoder(inputs_embeds=visit.source[:, -2:], use_cache=False)
            heads.append(llava.model.get_output_embeddings()(states[:, -1:]).shape)
            return states * 1.5

    class Seen(Op):
        def __init__(self):
            self.layers_seen = []

        def bias(self, call):
            self.layers_seen.append(call.layer)

    seen, exit_ = Seen(), Exit(0)
    session = Session([Calls(), seen], exits=[exit_], combine=lambda step: step.main + 0 * step.exits[exit_])
    _, rows = opened(llava, inputs, session, config(llava))
    assert seen.layers_seen == [0, 1, 2]
    assert heads == [(2, 1, plain.shape[-1])]
    assert rows.scores().shape == plain.shape
    assert not torch.allclose(rows.logits[0], plain)


def test_rows_that_keep_nothing_of_what_was_tried_are_as_before(llava):
    exit_ = Exit(1)
    session = Session(exits=[exit_], search=lambda decoding: None)
    _, rows = opened(llava, llava.inputs(REQUESTS[:2]), session, config(llava))
    before, early = rows.logits[0].clone(), rows.exits[exit_].clone()
    rows.split(torch.tensor([[90, 97], [110, 91]]))
    rows.keep(torch.tensor([1, 0]), None)
    assert torch.equal(rows.logits[0], before[[1, 0]])
    assert torch.equal(rows.exits[exit_], early[[1, 0]])


def test_opened_rows_can_be_split_whatever_their_branches():
    adapter = ours("mllama")
    inputs = adapter.inputs(REQUESTS[:1])
    found = []

    def search(decoding):
        session = Session(branches=[Branch(adapter.without_image(inputs))], combine=lambda step: step.main)
        rows = decoding.open(inputs, None, session)
        rows.split(torch.tensor([[90, 97]]))
        found.append([part.shape for part in rows.logits])
        return torch.zeros(1, 1, dtype=torch.long)

    decode(adapter, inputs, Session(search=search), config(adapter))
    assert [tuple(shape[:2]) for shape in found[0]] == [(1, 2), (1, 2)]


class Wrong(Op):
    def edit_states(self, visit, states):
        return states


class Misspelt(Wrong):
    sites = frozenset({"output"})


class Beyond(Op):
    layers = frozenset({99})


@pytest.mark.parametrize(
    ("op", "said"),
    [
        (Wrong(), "Wrong edits states, but its .sites. is empty"),
        (Misspelt(), "Misspelt: there is no site 'output'"),
        (Beyond(), "Beyond: the model has no layer 99; its layers are 0 to 2"),
    ],
)
def test_an_op_that_would_never_be_called_is_refused(llava, op, said):
    with pytest.raises(CompositionError, match=said):
        decode(llava, llava.inputs(REQUESTS[:1]), Session([op]), config(llava))


def test_sessions_that_do_not_fit_together_are_refused(llava):
    inputs = llava.inputs(REQUESTS[:2])
    bare, config_ = llava.without_image(inputs), config(llava)
    with pytest.raises(CompositionError, match="no op of the main rows compares with it"):
        Session(branches=[Branch(bare, lockstep=True)])
    with pytest.raises(CompositionError, match="takes one argument, a step"):
        Session(branches=[Branch(bare)], combine=lambda main, other: main - other)
    few = Branch(llava.without_image(llava.inputs(REQUESTS[:1])))
    with pytest.raises(CompositionError, match="a branch has 1 prompts beside 2 main ones"):
        decode(llava, inputs, Session(branches=[few], combine=lambda step: step.main), config_)


def test_a_branch_in_lock_step_that_drops_tokens_is_refused(llava):
    inputs = llava.inputs(REQUESTS[:2])
    bare = llava.without_image(inputs)
    dropped = torch.zeros_like(bare["input_ids"], dtype=torch.bool)
    dropped[:, 1] = True
    session = Session([Compare()], [Branch(bare, [Drop(1, dropped)], lockstep=True)])
    with pytest.raises(CompositionError, match="a branch in lock step cannot drop tokens"):
        decode(llava, inputs, session, config(llava))


class Dropping(Strategy):
    """Drops the first image token from the second layer on."""

    name = "dropping"

    def prepare(self, adapter, inputs):
        image = adapter.image_mask(inputs["input_ids"])
        return Session([Drop(1, image & (image.cumsum(dim=1) == 1))])


def test_in_a_trace_nothing_attends_to_a_dropped_token():
    lvlm = LVLM(*ZOO["llava"]())
    answer = lvlm.generate(REQUESTS[0].images[0], "What?", Dropping(), max_new_tokens=2)
    trace = lvlm.trace(REQUESTS[0].images[0], "What?", Dropping(), max_new_tokens=2)
    assert trace.answer.token_ids == answer.token_ids
    assert (trace.image_attention[:, 0] > 0).all()
    assert (trace.image_attention[:, 1:, :, 0] == 0).all()
    assert (trace.image_attention[:, 1:, :, 1:] > 0).all()
    lvlm.adapter.close()


def test_one_number_for_all_rows_is_not_remembered():
    rows = torch.tensor([1, 1, 0])
    assert Memory({"sums": torch.tensor([1.0, 2.0])}).select(rows, 2)["sums"].tolist() == [2.0, 2.0, 1.0]
    with pytest.raises(CompositionError, match=r"'sum' in memory must have 2 rows, shape \(2, ...\), got \(\)"):
        Memory({"sum": torch.tensor(3.0)}).select(rows, 2)
