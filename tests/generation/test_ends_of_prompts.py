"""Ops that act on the ends of prompts act on them alone, after the picture was read once for all its questions."""

from __future__ import annotations

import pytest
import torch

from mmhall.adapters import adapter_for
from mmhall.adapters._base import Request
from mmhall.attention import EVERY, VISION, Columns, Op
from mmhall.generation import _run as running, why_not_shared
from mmhall.generation._job import Job, StepScores
from mmhall.generation._settings import Settings
from mmhall.strategies import Branch, RaiseColumns, Session, Steer, strategy
from tests.generation.reference import FAMILIES, QUIET, ours, picture
from tests.jobs import run
from tests.zoo import ZOO

pytestmark = QUIET
FIRST, SECOND = picture(40, 40, 4), picture(64, 32, 8)
ASKED = [
    Request("Is there a dog?", (FIRST,)),
    Request("Is there a cat on the table, or behind it?", (SECOND,)),
    Request("Is there a traffic light?", (FIRST,)),
    Request("Is there a dog?", (SECOND,)),
    Request("Is there a cup?", (FIRST,)),
]
WORD_FIRST = "gift(alpha=6, words='all', layers='0%:')+vdd"
"""It compares the first word with the token before it: in a template without a line break, the picture's last."""

READ_ONCE = (  # their ops leave a picture's rows alone
    "pai(alpha=2, gamma=1.5)",
    "gift(alpha=6, layers='0%:')",
    "gift(alpha=6, saliency='50%:', layers='0%:')",  # the last token is read twice
    WORD_FIRST,
    "gift(alpha=6, layers='0%:', twin=3)",
    "vaf(alpha=3)",
    "vaf(alpha=3, heads='visual')+dola",
    "acg(gamma=4)",
    "iat(alpha=20, layers=':')",
    "iat(alpha=20, layers=':', twin=3)",
    "kvsmooth(strength=0.6, width=0.4, layers=':')",
    "only(alpha_far=3, alpha_near=1, gamma=1)",
    "deco(alpha=6)",
    "flb(gamma=8, rate=1)",
    "m3id(decay=0.5, start=1, gate=1)",
    "adhh(heads='0.0, 1.1', tau=0.1)",
    "vista(rows='answer')",
    "vhr(alpha=4, layers=':', positions='last')",
    "vhr(alpha=4, layers=':', positions='last', scale_text=False, twin=3)",
    "vhr(alpha=4, layers=':', positions='last')+vcd",
    "recomputed+vcd",
)
READ_AGAIN = {
    "vhr(alpha=4)": "Reinforce reads or edits the picture's rows",
    "var(sink_dims=(0, 1), tau=1.2)": "_Redistribute reads or edits the picture's rows",
    "zerotuning(rate=20, heads='all', layers=':')": "_ScaleColumn reads or edits the picture's rows",
    "rudder(alpha=15)": "_AddVector reads or edits the picture's rows",
    "memvr(ratio=0.6, gate=0.5, layers='1:')": "_Features reads or edits the picture's rows",
    "imbalance(alpha=3, beta=2)": "TokenGroups reads or edits the picture's rows",
}
OTHERS = tuple(name for name in FAMILIES if name not in ("llava", "paligemma", "blip_2", "instructblip", "mllama"))


def decoded(adapter, spec, *, share, requests=ASKED):
    """Tokens, and the logits and scores of each step, (steps, rows, vocabulary)."""
    method, chosen = strategy(spec), Settings(max_new_tokens=4)
    config = chosen.resolved(adapter.generator, method.beams)
    config.eos_token_id = None
    keep = StepScores("these tests", scores=[], logits=[])
    tokens = run(adapter, adapter.inputs(requests), method, config, chosen.seed, share=share, keep=keep)
    return tokens.tolist(), torch.stack(keep.logits), torch.stack(keep.scores)


def check_alike(adapter, spec, requests=ASKED, tolerance=2e-4):
    together, apart = (decoded(adapter, spec, share=share, requests=requests) for share in (True, False))
    assert together[0] == apart[0]
    for one, other in zip(together[1:], apart[1:], strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


@pytest.fixture
def splits(monkeypatch):
    """Of each batch that is prepared to be shared, whether it is."""
    seen, split = [], running.split_prefixes

    def note(*given):
        seen.append(split(*given))
        return seen[-1]

    monkeypatch.setattr(running, "split_prefixes", note)
    return seen


@pytest.mark.parametrize("spec", READ_ONCE)
def test_a_picture_is_read_once_and_nobody_can_tell(spec, splits):
    check_alike(ours("llava"), spec)
    assert splits[0] is not None


EVERYWHERE = [spec for spec in READ_ONCE if not spec.startswith(("only", "kvsmooth", "adhh"))]
MEETING = [  # in turn each strategy meets two families, and each family several strategies; the others in the long run
    pytest.param(spec, family, marks=() if (at - turn) % (len(OTHERS) // 2) == 0 else pytest.mark.long)
    for at, family in enumerate(OTHERS)
    for turn, spec in enumerate(EVERYWHERE)
]


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "family"), MEETING)
def test_nor_in_other_families(family, spec, splits):
    """With windows, tiles, keys that layers share, positions in three dimensions and recurrent layers."""
    check_alike(ours(family), spec)
    twice = "gift" in spec and "linear" in ours(family).kinds  # it reads the whole prompt twice
    assert (not any(splits)) if twice else splits[0] is not None


@pytest.mark.parametrize("spec", ["greedy", "pai(alpha=2, gamma=1.5)", "gift(alpha=6, saliency='50%:', layers='0%:')"])
def test_prefixes_of_different_lengths(spec, splits):
    """The longest prompt has the shorter beginning: its end, with all others', stands behind the longer one."""
    wide, name = picture(120, 40, 6), "small blue bird or a big red car on the table, or behind it"
    asked = [Request(f"Is there a {one}?", (shown,)) for one, shown in (("dog", wide), (name, FIRST), ("cat", FIRST))]
    check_alike(ours("qwen2_5_vl"), spec, [*asked, asked[0]])
    cut, lengths = splits[0], [len(rest) for rest in splits[0].rest]
    prefixes = cut.inputs["attention_mask"].sum(dim=1)
    assert prefixes[0] > prefixes[1]
    assert max(lengths) == lengths[1]


@pytest.mark.parametrize("spec", READ_AGAIN)
def test_what_acts_on_the_rows_of_a_picture_reads_it_for_each_question(spec, splits):
    check_alike(ours("llava"), spec, tolerance=0.0)
    assert splits[0] is None  # a branch without the picture has no rows of it


def test_in_double_precision_the_scores_are_the_same():
    model, processor = ZOO["llava"]()
    adapter = adapter_for(model.double(), processor)
    for spec in ("greedy", "vcd", "deco(alpha=6)"):
        check_alike(adapter, spec, tolerance=1e-6)  # scores are kept in single precision


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_questions_that_differ_right_behind_the_picture_share_it(family, splits):
    """In several axes, positions go on from the largest of the picture."""
    adapter = ours(family)
    check_alike(adapter, "vaf(alpha=3)", [Request(text, (SECOND,)) for text in ("Is there a dog?", "What is it?")])
    (cut,) = splits
    (begun,) = cut.inputs["input_ids"]
    assert adapter.placeholders(begun)[-1]


class AddFrom(Op):
    """Adds a vector to what attention adds, from a position of each prompt on."""

    sites, kinds = frozenset({"attn"}), EVERY

    def __init__(self, first, steps=True):
        self.first_row = first

    def edit_states(self, visit, states):
        positions = torch.arange(visit.count) + visit.start
        first = visit.each(torch.as_tensor(self.first_row).expand(len(ASKED)))
        return states + (positions >= first[:, None])[..., None] * torch.linspace(-1, 1, states.shape[-1])


class Remember(Op):
    """Adds to each token what was there at the last one of its prompt."""

    sites, kinds, remembers, first_row = frozenset({"out"}), EVERY, True, -1

    def edit_states(self, visit, states):
        name = f"remember: {visit.layer}"
        if visit.step == 0:
            visit.memory[name] = states[:, -1]
            return states
        return states + visit.memory[name][:, None]


class Dim(Steer):
    """Edits all rows of a prompt, and keeps what it found in them; it does not say where it begins."""

    def __init__(self, inputs):
        super().__init__(frozenset({0, 1}))
        self.kept = {}

    def rows(self, call):
        return torch.arange(call.count)

    def edit_probs(self, call, rows, probs):
        if call.step == 0:
            self.kept[call.layer] = probs.mean(dim=(1, 2, 3))
        return probs * call.each(self.kept[call.layer])[:, None, None, None]


def read(adapter, op, *, share):
    inputs, config = adapter.inputs(ASKED), Settings(max_new_tokens=4).resolved(adapter.generator)
    config.eos_token_id = None
    keep = StepScores("these tests", logits=[])
    running.run(Job(adapter, inputs, Session(ops=[op(inputs)]), config, [0] * len(ASKED), share=share, keep=keep))
    return torch.stack(keep.logits)


@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen2_5_vl"])
@pytest.mark.parametrize("behind", [1, 4])
def test_a_prefix_ends_before_the_first_row_of_an_op(family, behind, splits):
    """Each prompt has its own: so many tokens behind its picture."""
    adapter = ours(family)

    def op(inputs):
        return AddFrom((adapter.after_image(inputs).cumsum(dim=1) > behind).int().argmax(dim=1))

    torch.testing.assert_close(read(adapter, op, share=True), read(adapter, op, share=False), atol=2e-4, rtol=2e-4)
    cut = splits[0]
    assert cut is not None
    image = adapter.placeholders(cut.inputs["input_ids"])
    assert all(len(row) - 1 - int(row.nonzero()[-1]) == behind for row in image)


class Compared(AddFrom):
    """Compares the last row with that of another prompt."""

    compares = True

    def __init__(self):
        super().__init__(-1)


def test_prompts_in_lock_step_that_cannot_be_read_apart_are_read_with_whole_ones():
    adapter = ours("llava")
    inputs = adapter.inputs(ASKED)
    bare = adapter.without_image(inputs)
    told = [
        why_not_shared(adapter, inputs, Session(ops=[Compared()], branches=[Branch(beside, lockstep=True)]))
        for beside in (bare, dict(bare))
    ]
    assert told == ["", "another prompt is read in lock step with the whole one"]


class Leans(Op):
    """Moves the newest row away from that of the prompt in lock step."""

    compares = True
    first_row = -1
    layers = frozenset(range(3))

    def edit_output(self, call, output):
        ahead, last = output.split([output.shape[1] - 1, 1], dim=1)
        return output if call.reference is None else torch.cat([ahead, 3 * last - 2 * call.reference[:, -1:]], dim=1)


def lean(adapter, ops, *, share):
    """Logits where each prompt is compared with itself without its picture, under ops."""
    inputs, config = adapter.inputs(ASKED), Settings(max_new_tokens=4).resolved(adapter.generator)
    config.eos_token_id = None
    bare, keep = adapter.without_image(inputs), StepScores("these tests", logits=[])
    session = Session(ops=[Leans()], branches=[Branch(bare, ops(adapter, bare), lockstep=True)])
    running.run(Job(adapter, inputs, session, config, [0] * len(ASKED), share=share, keep=keep))
    return torch.stack(keep.logits)


def raise_first(adapter, bare):
    """Raise the first three tokens of each prompt, wherever its padding ends."""
    attended = bare["attention_mask"].bool()
    return [RaiseColumns(frozenset(range(3)), Columns(4 * (attended & (attended.cumsum(dim=1) <= 3)).float()))]


def test_columns_of_prompts_in_lock_step_stay_on_their_tokens(splits):
    adapter = ours("llava")
    together, apart = (lean(adapter, raise_first, share=share) for share in (True, False))
    torch.testing.assert_close(together, apart, atol=2e-4, rtol=2e-4)
    assert splits[0] is not None
    plain = lean(adapter, lambda *_: [], share=True)
    assert not torch.allclose(together, plain, atol=1e-2)


@pytest.mark.parametrize("change", [{"kinds": VISION}, {"remembers": True}])
def test_values_of_pictures_and_what_is_stored_are_of_all_prompts_in_lock_step(change):
    adapter = ours("llava")
    inputs = adapter.inputs(ASKED)
    op = AddFrom(-1)
    for name, value in change.items():
        setattr(op, name, value)
    beside = [Branch(adapter.without_image(inputs), [op], lockstep=True)]
    told = why_not_shared(adapter, inputs, Session(ops=[Compared()], branches=beside))
    assert told == "another prompt is read in lock step with the whole one"


def test_what_ops_remember_of_prompts_stays_with_them(splits):
    adapter = ours("llava")
    logits = [read(adapter, lambda inputs: Remember(), share=share) for share in (True, False)]
    torch.testing.assert_close(*logits, atol=2e-4, rtol=2e-4)
    assert splits[0] is not None


def test_an_op_that_does_not_say_where_it_begins_reads_each_prompt_whole(splits):
    adapter = ours("llava")
    torch.testing.assert_close(*[read(adapter, Dim, share=share) for share in (True, False)], atol=0.0, rtol=0.0)
    assert splits == [None]
    session, inputs = Session(ops=[Dim(None)]), adapter.inputs(ASKED)
    assert why_not_shared(adapter, inputs, session) == "Dim reads or edits the picture's rows"


@pytest.mark.parametrize("spec", ["greedy", "pai", "gift"])
def test_prompt_positions_that_are_computed_are_counted(embedded, pictures, spec):
    """A picture has 64 tokens; of three questions about it, two do without."""
    asked = [(pictures[0], f"Is there a {name} in the image?") for name in ("dog", "cat", "car")]
    together, apart = (
        embedded.generate_batch(asked, spec, max_new_tokens=2, shared_prefix=share)[0].usage.prompt_reads
        for share in (True, False)
    )
    assert 3 * (apart - together) >= 2 * 64


def test_explain_says_whether_a_picture_is_read_once(llava):
    assert [spec for spec in READ_ONCE if llava.explain(spec).own_picture] == [WORD_FIRST]
    assert llava.explain(WORD_FIRST).own_picture == "SaliencyProbe reads or edits the picture's rows"
    assert {spec: llava.explain(spec).own_picture for spec in READ_AGAIN} == READ_AGAIN
    told = str(llava.explain("var(sink_dims=(0, 1), tau=1.2)")).splitlines()
    assert any("questions about one picture: it is read again for each, as _Redistribute" in line for line in told)
    assert "questions about one picture: it is read once for all of them" in str(llava.explain("pai"))
