"""Early exits against the hidden states and the head of a model that mmhall never touches."""

from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import dataclass

import pytest
import torch

from mmhall.adapters._anatomy import Anatomy
from mmhall.adapters._base import Request
from mmhall.attention import Op
from mmhall.attention._exits import Exit
from mmhall.errors import ModelError
from mmhall.generation._settings import Settings
from mmhall.strategies import Branch, Composed, Session, Strategy, strategy
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, cut, ends, in_turn, ours, searched, theirs
from tests.jobs import decode, run

pytestmark = QUIET

NEW = 4
SHORT = 4  # tokens of an answer that is searched for naively
INNER = 1


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Let the naive searches end as soon."""
    monkeypatch.setattr("tests.generation.reference.LENGTH", SHORT)


def endless(adapter, new=NEW, **settings):
    """Settings under which no answer ends early."""
    config = Settings(max_new_tokens=new, **settings).resolved(adapter.generator)
    config.min_new_tokens = new
    return config


def beams_of(adapter):
    """Settings of a search that stops where the naive one does: at the last step."""
    config = Settings(max_new_tokens=SHORT, num_beams=3, num_return_sequences=2).resolved(adapter.generator)
    config.early_stopping = "never"
    return config


class Recorder:
    """Combines nothing, and keeps what every step offers."""

    def __init__(self):
        self.steps = []

    def __call__(self, step):
        self.steps.append(step)
        return step.main


def recorded(adapter, inputs, exits, **session):
    """What is said, and the steps."""
    combine = Recorder()
    config = endless(adapter)
    return decode(adapter, inputs, Session(combine=combine, exits=exits, **session), config), combine.steps


def headed(name, states):
    """The log-probabilities that a model's own head makes of states, its soft cap included."""
    model = theirs(name)
    logits = model.get_output_embeddings()(states)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    return logits.float().log_softmax(dim=-1)


class Plain:
    """What leaves each layer of a model that mmhall never touches while it writes, (B, rows, D) a step and layer."""

    def __init__(self, name, inputs, new=NEW):
        self.name, (last, norm) = name, (Anatomy(theirs(name)).decoder.layers[-1], Anatomy(theirs(name)).final_norm)
        self.norm, unnormed = norm, []
        hook = last.register_forward_hook(lambda _, args, out: unnormed.append(out[0] if type(out) is tuple else out))
        stop = {"eos_token_id": list(ends(name)), "pad_token_id": 0, "max_new_tokens": new, "min_new_tokens": new}
        told = {"output_hidden_states": True, "output_logits": True, "return_dict_in_generate": True}
        with torch.no_grad():
            found = theirs(name).generate(**inputs, do_sample=False, **stop, **told)
        hook.remove()
        self.said, self.logits = found.sequences[:, -new:], found.logits
        self.states = [[*held[1:-1], own] for held, own in zip(found.hidden_states, unnormed, strict=True)]
        for held, states in zip(found.hidden_states, self.states, strict=True):  # the last entry is normed
            torch.testing.assert_close(self.norm(states[-1]), held[-1], rtol=1e-4, atol=1e-4)

    def early(self, one, step):
        """Log-probabilities of an exit at a step, (B, V), or (B, positions, V)."""
        states = self.states[step][one.layer]
        picked = (
            states[:, -1:]
            if one.positions is None
            else torch.stack([row[at] for row, at in zip(states, one.positions, strict=True)])
        )
        with torch.no_grad():
            found = headed(self.name, self.norm(picked) if one.norm else picked)
        return found[:, 0] if one.positions is None else found


def same(got, wanted):
    """Equal to 1e-5, and as much more as they are larger; tokens that are kept out of answers count less."""
    got, wanted = got.clamp_min(-1e3), wanted.clamp_min(-1e3)
    size = float(wanted.masked_fill(wanted <= -1e3, 0).abs().max())
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5 * max(2.0, size / 50))


def image_positions(adapter, inputs, count=3):
    """The first image positions of each prompt, and the last position before the newest, (B, count + 1)."""
    marked = adapter.placeholders(inputs["input_ids"])
    count = min(count, int(marked.sum(1).min()))
    firsts = torch.stack([row.nonzero()[:count, 0] for row in marked])
    return torch.cat([firsts, torch.full((len(firsts), 1), inputs["input_ids"].shape[1] - 2)], dim=1)


@pytest.mark.parametrize("name", FAMILIES)
def test_exits_are_the_models_own_head_on_its_hidden_states(name):
    """Of a batch padded on the left: every layer, with and without the norm, newest row and positions of the prompt."""
    adapter = ours(name)
    inputs, depth = adapter.inputs(REQUESTS[:2]), len(adapter.layers)
    assert inputs["attention_mask"].sum(1).unique().numel() == 2
    newest = [Exit(layer, norm) for layer in range(depth) for norm in (True, False)]
    positions = image_positions(adapter, inputs)
    placed = [Exit(one.layer, one.norm, positions) for one in newest if one.layer not in adapter.newest_only]
    said, steps = recorded(adapter, inputs, [*newest, *placed])
    plain = Plain(name, inputs)
    assert torch.equal(said, plain.said)
    for number, step in enumerate(steps):
        assert step.t == number
        same(step.main, plain.logits[number].log_softmax(dim=-1))
        same(step.exits[newest[-2]], step.main)
        for one in newest:
            same(step.exits[one], plain.early(one, number))
        if number == 0:
            for one in placed:
                assert step.exits[one].shape[:2] == positions.shape
                same(step.exits[one], plain.early(one, 0))
        else:
            assert list(step.exits) == newest
    first = steps[0].exits
    assert len({round(float(first[one].max()), 4) for one in newest}) > depth


@pytest.mark.parametrize("name", ["llava", "gemma4", "instructblip", "mllama"])
def test_exits_change_no_answer_and_make_no_pass(name):
    adapter = ours(name)
    inputs, passes = adapter.inputs(REQUESTS[:2]), []
    hook = adapter.decoder.register_forward_hook(lambda _, args, output: passes.append(1))
    plain = decode(adapter, inputs, Session(), endless(adapter))
    alone = len(passes)
    said, steps = recorded(adapter, inputs, [Exit(INNER), Exit(0, norm=False)])
    hook.remove()
    assert torch.equal(said, plain)
    assert len(passes) - alone == alone == len(steps) == NEW


@pytest.mark.parametrize("name", ["llava", "qwen3_5", "mllama"])
def test_exits_of_a_batch_are_those_of_each_prompt_alone(name):
    adapter = ours(name)
    batch = adapter.inputs(REQUESTS[:3])
    one, steps = Exit(INNER), recorded(adapter, batch, [])[1]
    wide = batch["input_ids"].shape[1]
    positions = image_positions(adapter, batch)
    placed = Exit(INNER, positions=positions)
    said, steps = recorded(adapter, batch, [one, placed])
    for index, request in enumerate(REQUESTS[:3]):
        inputs = adapter.inputs([request])
        own = Exit(INNER, positions=positions[index : index + 1] - (wide - inputs["input_ids"].shape[1]))
        single, alone = recorded(adapter, inputs, [one, own])
        assert torch.equal(single[0], said[index])
        torch.testing.assert_close(steps[0].exits[placed][index], alone[0].exits[own][0], rtol=1e-4, atol=1e-4)
        for step, other in zip(steps, alone, strict=True):
            torch.testing.assert_close(step.exits[one][index], other.exits[one][0], rtol=1e-4, atol=1e-4)


def contrasted(main, early):
    """A contrast of two log-probabilities, after which special tokens are still far behind."""
    return 1.6 * main - 0.6 * early


def contrast(inner, other=0.0):
    """A session's combination: main rows against an exit, and a share of the first branch."""

    def combine(step):
        scores = contrasted(step.main, step.exits[inner])
        return scores + other * step.branches[0] if other else scores

    return combine


def eager_scores(name, adapter, inputs, answer, inner):
    """The contrast after an answer, the whole sequence read anew by a plain model with its hidden states, (V,)."""
    longer = adapter.append_answer(inputs, torch.tensor([list(answer)], dtype=torch.long))
    model = theirs(name)
    with torch.no_grad():
        outputs = model(**longer, output_hidden_states=True, use_cache=False)
        hidden = getattr(outputs, "language_model_outputs", outputs).hidden_states[inner.layer + 1][:, -1]
        early = headed(name, Anatomy(model).final_norm(hidden) if inner.norm else hidden)
    return contrasted(outputs.logits[:, -1].float().log_softmax(dim=-1), early)[0]


class Reads:
    """Stands in for a combination in the naive search: its edit reads the answer's sequence anew."""

    def __init__(self, name, adapter, inputs, inner, branch=None, other=0.0):
        self._read, self._branch = (name, adapter, inputs), branch
        self._inner, self._other = inner, other

    def __call__(self, answer, _=None):
        name, adapter, inputs = self._read
        scores = eager_scores(name, adapter, inputs, answer, self._inner)
        if self._branch is not None:
            longer = adapter.append_answer(self._branch, torch.tensor([list(answer)], dtype=torch.long))
            model = theirs(name) if adapter.model_for(longer) is adapter.model else theirs(name).language_model
            with torch.no_grad():
                scores = scores + self._other * model(**longer, use_cache=False).logits[0, -1].float().log_softmax(-1)
        return scores.log_softmax(dim=-1)


def drawing(seed):
    """Draw as `torch.multinomial` does with a generator of its own."""
    random = torch.Generator().manual_seed(seed)
    return lambda scores: torch.multinomial(scores.softmax(dim=-1), 1, generator=random)


def naively(name, adapter, inputs, reads, choose=torch.argmax):
    """Decode one token at a time, reading everything anew."""
    answer = []
    while len(answer) < SHORT and not (answer and answer[-1] in ends(name)):
        answer.append(int(choose(reads(answer))))
    return tuple(answer)


@pytest.mark.parametrize(("name", "norm"), in_turn(FAMILIES, (True, False)))
def test_a_contrast_with_an_inner_layer_is_an_eager_one(name, norm):
    """Greedy, and drawn with a seed."""
    adapter, inner, changed = ours(name), Exit(INNER, norm), []
    for request in REQUESTS[:2]:
        inputs = adapter.inputs([request])
        session, reads = Session(combine=contrast(inner), exits=[inner]), Reads(name, adapter, inputs, inner)
        config = Settings(max_new_tokens=SHORT).resolved(adapter.generator)
        (found,) = decode(adapter, inputs, session, config).tolist()
        assert cut(found, ends(name)) == naively(name, adapter, inputs, reads)
        changed.append(found != decode(adapter, inputs, Session(), config)[0].tolist())
        wanted = naively(name, adapter, inputs, reads, drawing(7))
        sampled = Settings(max_new_tokens=SHORT, do_sample=True, top_k=0).resolved(adapter.generator)
        (drawn,) = decode(adapter, inputs, session, sampled, seeds=[7]).tolist()
        assert cut(drawn, ends(name)) == wanted
    assert any(changed), "the contrast changes nothing"


@pytest.mark.parametrize("name", ["llava", "qwen3_5", "gemma4", "mllama"])
def test_beams_with_a_contrast_of_an_inner_layer_are_the_naive_search(name):
    adapter, inner = ours(name), Exit(INNER)
    inputs = adapter.inputs(REQUESTS[:1])
    session, reads = Session(combine=contrast(inner), exits=[inner]), Reads(name, adapter, inputs, inner)
    found = decode(adapter, inputs, session, beams_of(adapter))
    wanted = searched(adapter, inputs, Session(), 3, edit=reads)[:2]
    assert [cut(row, ends(name)) for row in found.tolist()] == wanted


@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_beams_of_a_batch_are_those_of_each_prompt_alone(name):
    adapter, inner = ours(name), Exit(INNER)
    session = Session(combine=contrast(inner), exits=[inner])
    together = decode(adapter, adapter.inputs(REQUESTS[:2]), session, beams_of(adapter)).tolist()
    alone = [decode(adapter, adapter.inputs([request]), session, beams_of(adapter)) for request in REQUESTS[:2]]
    wanted = [cut(row, ends(name)) for rows in alone for row in rows.tolist()]
    assert [cut(row, ends(name)) for row in together] == wanted


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "mllama", "gemma3", "instructblip"])
def test_exits_are_of_the_main_rows_where_branches_are_stacked(name):
    adapter, inner = ours(name), Exit(INNER)
    inputs = adapter.inputs(REQUESTS[1:2])
    branch = adapter.without_image(inputs)
    session = Session(branches=[Branch(branch)], combine=contrast(inner, 0.3), exits=[inner])
    reads = Reads(name, adapter, inputs, inner, branch, 0.3)
    config = Settings(max_new_tokens=SHORT).resolved(adapter.generator)
    (found,) = decode(adapter, inputs, session, config).tolist()
    assert cut(found, ends(name)) == naively(name, adapter, inputs, reads)
    both = adapter.inputs(REQUESTS[:2])
    session = Session(branches=[Branch(adapter.without_image(both))], combine=contrast(inner, 0.3), exits=[inner])
    assert cut(decode(adapter, both, session, config)[1].tolist(), ends(name)) == cut(found, ends(name))


@dataclass(frozen=True)
class Early(Strategy):
    """Contrasts with an inner layer."""

    name = "early"

    def prepare(self, adapter, inputs):
        inner = Exit(INNER)
        return Session(combine=contrast(inner), exits=[inner])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_opera_tries_candidates_of_a_contrast_with_an_inner_layer(name):
    """With a neutral penalty it is the naive beam search of the contrast; with one, a batch is each prompt alone."""
    adapter, inner = ours(name), Exit(INNER)
    inputs = adapter.inputs(REQUESTS[:1])
    vocabulary = adapter.decoder.config.vocab_size
    neutral = strategy("opera", penalty_weights=0.0, num_attn_candidates=vocabulary, threshold=1)
    found = run(adapter, inputs, Composed((neutral, Early())), beams_of(adapter))
    wanted = searched(adapter, inputs, Session(), 3, edit=Reads(name, adapter, inputs, inner))[:2]
    assert [cut(row, ends(name)) for row in found.tolist()] == wanted
    long = endless(adapter, 20, num_beams=3)
    punished = Composed((strategy("opera", num_attn_candidates=4, threshold=2, penalty_weights=3.0), Early()))
    together = run(adapter, adapter.inputs(REQUESTS[:2]), punished, long)
    alone = [run(adapter, adapter.inputs([request]), punished, long)[0] for request in REQUESTS[:2]]
    assert together.tolist() == [one.tolist() for one in alone]


@pytest.mark.parametrize("name", ["llava", "qwen3_5"])
def test_exits_hold_where_the_prompt_is_read_twice(name):
    """Its last token, or all of it where a layer cannot forget; positions are of the first reading or the same."""
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:2])
    asked = [Exit(INNER), Exit(INNER, positions=image_positions(adapter, inputs))]
    _, once = recorded(adapter, inputs, asked)
    _, twice = recorded(adapter, inputs, asked, reread=True)
    for step, other in zip(twice, once, strict=True):
        assert list(step.exits) == list(other.exits)
        for one in step.exits:
            torch.testing.assert_close(step.exits[one], other.exits[one], rtol=1e-4, atol=1e-4)


class Compare(Op):
    """Compares with the pass in lock step, and changes nothing."""

    compares = True

    def edit_output(self, call, output):
        assert call.reference is not None or call.step
        return output


def test_a_pass_in_lock_step_leaves_exits_alone():
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[:2])
    asked = [Exit(0), Exit(INNER), Exit(2, norm=False)]
    _, plain = recorded(adapter, inputs, asked)
    beside = [Branch(adapter.without_image(inputs), lockstep=True)]
    _, steps = recorded(adapter, inputs, asked, ops=[Compare()], branches=beside)
    for step, other in zip(steps, plain, strict=True):
        for one in asked:
            torch.testing.assert_close(step.exits[one], other.exits[one], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_threads_read_exits_of_one_model_each_by_itself():
    """Two with exits and one without, at once; nothing stays on the model."""
    adapter = ours("llava")

    def ask(index):
        inputs = adapter.inputs([REQUESTS[index]])
        if index == 2:
            return decode(adapter, inputs, Session(), endless(adapter, 12)).tolist()
        inner = Exit(index)
        return decode(adapter, inputs, Session(combine=contrast(inner), exits=[inner]), endless(adapter, 12)).tolist()

    alone, found = [ask(index) for index in range(3)], {}
    before = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in adapter.model.modules()]
    threads = [
        threading.Thread(target=lambda index=index: found.update({index: [ask(index) for _ in range(6)]}))
        for index in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found.get(index) for index in range(3)] == [[one] * 6 for one in alone]
    assert [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in adapter.model.modules()] == before


def test_a_layer_that_is_not_there_is_refused():
    adapter = ours("llava")
    for layer in 3, -2:
        with pytest.raises(ModelError, match=f"no layer {layer} for an early exit: layers are 0 to 2"):
            recorded(adapter, adapter.inputs(REQUESTS[:1]), [Exit(layer)])


@pytest.mark.parametrize("positions", [[[0, 1]], [[0], [500]], [[-1], [0]]], ids=str)
def test_positions_that_the_prompts_do_not_have_are_refused(positions):
    adapter = ours("llava")
    with pytest.raises(ModelError, match=r"an exit of layer 1 must be \(2, N\) numbers from 0 to \d+, got"):
        recorded(adapter, adapter.inputs(REQUESTS[:2]), [Exit(1, positions=torch.tensor(positions))])


def test_positions_in_layers_that_are_given_the_newest_row_only_are_refused():
    """Gemma 4's last layers reuse keys: of a prompt they see no other row, and would give another one's logits."""
    adapter = ours("gemma4")
    inputs = adapter.inputs(REQUESTS[:1])
    assert adapter.newest_only == {2, 3}
    with pytest.raises(ModelError, match="layer 2 reads only the newest row of a prompt"):
        recorded(adapter, inputs, [Exit(2, positions=torch.tensor([[0]]))])


def test_a_layer_that_a_prompt_without_a_picture_skips_is_refused():
    """Mllama's cross layers: nothing leaves them."""
    adapter = ours("mllama")
    inputs = adapter.inputs([Request("What is red?")])
    assert adapter.kinds[1] == "cross"
    with pytest.raises(ModelError, match="layer 1 was not passed"):
        recorded(adapter, inputs, [Exit(1)])
    assert recorded(adapter, inputs, [Exit(2)])[1]


@pytest.mark.slow
def test_nothing_is_held_of_a_pass_that_is_over():
    exits = ours("llava").exits([Exit(INNER)])
    with exits.read(slice(1)) as reading:
        held = weakref.ref(reading)
    del reading
    gc.collect()
    assert held() is None
