"""Attention of every family, read and steered, against an eager reference; alone and in a left-padded batch."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import threading
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from transformers import (
    Gemma2Config,
    GptOssConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PaliGemmaForConditionalGeneration,
    PreTrainedModel,
)

from mmhall.adapters._base import Adapter, Request
from mmhall.attention import Op, active
from mmhall.errors import ModelError
from mmhall.generation._settings import Settings
from mmhall.lvlm import LVLM
from mmhall.strategies import Branch, Session, Strategy, strategy as make_strategy
from tests.attention.reference import (
    EVERY,
    NEW,
    PROMPTS,
    Case,
    Eager,
    Family,
    Override,
    Scale,
    See,
    Weigh,
    close,
    draw,
    pictures,
    planned,
    real,
    reweighed,
)
from tests.jobs import decode, run
from tests.zoo import ZOO

# transformers' own, of the processors of GLM-4V and PaliGemma
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class NewcomerConfig(LlavaConfig):
    model_type = "newcomer"


class Newcomer(LlavaForConditionalGeneration):
    config: NewcomerConfig


def newcomer():
    """A family mmhall has no entry for."""
    model, processor = ZOO["llava"]()
    stranger = Newcomer(NewcomerConfig(**{k: v for k, v in model.config.to_dict().items() if k != "model_type"})).eval()
    stranger.load_state_dict(model.state_dict())
    stranger.generation_config = model.generation_config
    return stranger, processor


FAMILIES = {**ZOO, "newcomer": newcomer}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    model, processor = FAMILIES[request.param]()
    own = copy.deepcopy(model)
    lvlm = LVLM(model, processor, request.param)
    yield Family(lvlm, own, Eager(lvlm.adapter))
    lvlm.adapter.close()


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 2], ids=["alone", "two"])
def case(family, request):
    asked = [Request(prompt, (image,)) for prompt, image in zip(PROMPTS, pictures(), strict=True)]
    inputs = family.lvlm.adapter.inputs(asked[: request.param])
    mask = inputs["attention_mask"]
    assert mask.sum(1).unique().numel() == request.param  # uneven prompts,
    assert mask[:, -1].all()  # padded on the left
    adapter = family.lvlm.adapter
    weights = draw(len(adapter.layers), request.param, adapter.heads, 256) * 3 + 0.05
    return Case(family.lvlm, family.own, family.eager, inputs, weights)


def test_idle_is_bit_equal_to_the_models_own_attention(case):
    assert case.own.get_decoder().config._attn_implementation == "sdpa"
    with torch.no_grad():
        assert torch.equal(case.lvlm.model(**case.inputs).logits, case.own(**case.inputs).logits)


def test_an_op_that_wishes_nothing_changes_no_bit(case):
    class Nothing(Op):
        kinds = EVERY

    assert torch.equal(planned(case.lvlm, case.inputs, Nothing()), case.plain)


def test_probed_rows_of_a_prompt_equal_the_eager_maps(case):
    rows = [case.length - 1, case.length - 9, case.length - 4]
    op = See(rows)
    assert torch.equal(planned(case.lvlm, case.inputs, op), case.plain)
    case.eager.logits(case.inputs)
    assert [layer for layer, _ in op.seen] == [layer for _, layer in case.passes(1)]
    for layer, probs in op.seen:
        torch.testing.assert_close(probs, case.eager.maps[layer][0][:, :, rows], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_probed_rows_while_decoding_equal_the_eager_maps_at_their_prompt_positions(case):
    rows = [case.length - 5, case.length - 1]
    op = See(rows)
    tokens = case.generate(op, new=4)
    assert torch.equal(tokens, case.eager.generate(case.inputs, case.config(4)))
    assert [(call.step, call.layer) for call in op.calls] == case.passes(4)
    case.check_seen(op, rows)


def test_calls_tell_kind_step_and_offset(case):
    class Note(Op):
        kinds = EVERY

        def __init__(self):
            self.calls = []

        def bias(self, call):
            self.calls.append(call)

    op = Note()
    case.generate(op, new=4)
    assert [(call.step, call.layer) for call in op.calls] == case.passes(4)
    for call in op.calls:
        rows, columns = call.query.shape[2], call.key.shape[2]
        assert call.kind == case.adapter.kinds[call.layer]
        assert rows == (1 if call.step > 0 or call.layer in case.newest_only else case.length)
        assert call.start + rows == case.length + call.step
        assert call.prefill == (rows > 1)
        if call.kind == "cross":
            assert (call.offset, columns) == (0, case.adapter.image_tokens(case.inputs))
        else:
            assert call.offset + columns == case.length + call.step
            assert (call.offset > 0) == (call.kind in ("sliding", "chunked") and call.step > 0)


def test_a_layer_that_is_not_given_the_asked_rows_is_left_alone():
    """Gemma 4's last layers reuse the keys of earlier ones and read nothing of a prompt but its newest row."""
    lvlm = LVLM(*ZOO["gemma4"]())
    inputs = lvlm.adapter.inputs([Request(PROMPTS[0], (pictures()[0],))])
    config = Settings(max_new_tokens=3).resolved(lvlm.adapter.generator)
    op, greedy = See([7, 9]), make_strategy("greedy")
    got = run(lvlm.adapter, inputs, greedy, config, 0, watch=(op,))
    assert torch.equal(got, run(lvlm.adapter, inputs, greedy, config, 0))
    calls = [(call.step, call.layer) for call in op.calls]
    assert calls[-8:] == [(s, i) for s in (1, 2) for i in range(4)]
    # transformers 5.17 computes the other rows of the prompt there all the same
    assert calls[:-8] in ([(0, 0), (0, 1)], [(0, i) for i in range(4)])


def test_a_log_bias_multiplies_and_renormalises(case):
    wanted = case.eager.logits(case.inputs, probs=reweighed(case.weights))
    got = planned(case.lvlm, case.inputs, Weigh(case.weights))
    assert (real(got, case.inputs) - real(case.plain, case.inputs)).abs().max() > 0.1
    close(real(got, case.inputs), real(wanted, case.inputs))


def test_a_bias_in_every_step_writes_what_the_eager_reference_writes(case):
    wanted = case.eager.generate(case.inputs, case.config(), probs=reweighed(case.weights))
    assert torch.equal(case.weighed, wanted)
    assert not torch.equal(wanted, case.unsteered)


def test_probed_rows_while_steering_hold_the_bias(case):
    rows = [case.length - 5, case.length - 1]
    op = See(rows)
    tokens = case.generate(op, Weigh(case.weights), new=4)
    assert torch.equal(tokens, case.eager.generate(case.inputs, case.config(4), probs=reweighed(case.weights)))
    case.check_seen(op, rows)


@pytest.mark.slow
def test_a_bias_counts_columns_alike_beside_a_longer_branch(case):
    """Its rows are padded to the branch's length, so that their columns begin before the prompt does."""
    longer = [
        Request(f"Say it in many words. {prompt}", (image,)) for prompt, image in zip(PROMPTS, pictures(), strict=True)
    ]
    branch = case.adapter.inputs(longer[: len(case.inputs["input_ids"])])
    session = Session((Weigh(case.weights),), (Branch(branch),), lambda step: step.main)
    with torch.inference_mode():
        got = decode(case.adapter, case.inputs, session, case.config(), [0, 0])
    assert torch.equal(got, case.weighed)


def test_scaled_heads_equal_the_scaled_reference(case):
    gains = draw(len(case.weights), case.adapter.heads, seed=1) * 2
    wanted = case.eager.logits(case.inputs, output=lambda layer, output: output * gains[layer][:, None])
    got = planned(case.lvlm, case.inputs, Scale(gains))
    assert (real(got, case.inputs) - real(case.plain, case.inputs)).abs().max() > 0.1
    close(real(got, case.inputs), real(wanted, case.inputs))


@pytest.mark.parametrize("what", ["scores", "probs"])
def test_an_edited_last_row_equals_the_reference(case, what):
    noise = draw(len(case.weights), case.adapter.heads, 1, 256, seed=2)

    def edit(layer, row):
        drawn = noise[layer][..., : row.shape[-1]]
        return row * 0.5 + drawn * 4 if what == "scores" else row * (0.2 + drawn)

    def edit_last(layer, rows):
        return torch.cat([rows[:, :, :-1], edit(layer, rows[:, :, -1:])], dim=2)

    wanted = case.eager.logits(case.inputs, **{what: edit_last})
    got = planned(case.lvlm, case.inputs, Override(**{what: edit}))
    assert (got[:, -1] - case.plain[:, -1]).abs().max() > 0.1
    close(real(got, case.inputs), real(wanted, case.inputs))


@pytest.mark.slow
def test_the_last_row_edited_in_every_step_writes_what_the_eager_reference_writes(case):
    drawn = draw(2, len(case.weights), case.adapter.heads, 1, 1, seed=3)

    def edit_scores(layer, row):
        return row * (0.2 + 0.8 * drawn[0, layer])

    def edit_probs(layer, row):
        return row.sqrt() * (0.2 + drawn[1, layer])

    def last(edit):
        return lambda layer, rows: torch.cat([rows[:, :, :-1], edit(layer, rows[:, :, -1:])], dim=2)

    wanted = case.eager.generate(case.inputs, case.config(4), scores=last(edit_scores), probs=last(edit_probs))
    assert torch.equal(case.generate(Override(edit_scores, edit_probs), new=4), wanted)
    assert not torch.equal(wanted, case.unsteered[:, :4])


@pytest.mark.slow
def test_an_op_that_does_nothing_writes_what_the_model_writes_by_itself(case):
    assert torch.equal(case.generate(Op()), case.unsteered)


def test_every_family_passes_the_proof_that_unknown_ones_must(family):
    family.lvlm.adapter.check_attention_hook()


def attentions(model):
    return [part.config._attn_implementation for part in model.modules() if isinstance(part, PreTrainedModel)]


def test_closing_gives_back_the_models_own_attention(family):
    class Fail(Op):
        kinds = EVERY

        def edit_output(self, call, output):
            raise RuntimeError("on purpose")

    model = copy.deepcopy(family.own)
    lvlm = LVLM(model, family.lvlm.processor)
    inputs = lvlm.adapter.inputs([Request(PROMPTS[0], (pictures()[0],))])
    assert "mmhall" in attentions(model)
    with pytest.raises(RuntimeError, match="on purpose"):
        planned(lvlm, inputs, Fail())
    plan = lvlm.adapter.plan([Fail()])
    lvlm.adapter.close()
    assert attentions(model) == attentions(family.own)
    with pytest.raises(ModelError, match="was closed"):
        lvlm.adapter.plan([Fail()])
    with torch.no_grad(), active(plan):
        assert torch.equal(model(**inputs).logits, family.own(**inputs).logits)


def test_closing_gives_back_an_attention_other_than_sdpa():
    model, processor = ZOO["llava"]()
    model.set_attn_implementation("eager")
    adapter = LVLM(model, processor).adapter
    assert set(attentions(model)) == {"mmhall", "eager"}
    adapter.close()
    assert set(attentions(model)) == {"eager"}


def test_a_model_bound_twice_keeps_mmhalls_attention_until_both_are_closed():
    model, processor = ZOO["llava"]()
    first, second = LVLM(model, processor).adapter, LVLM(model, processor).adapter
    first.close()
    first.close()
    assert "mmhall" in attentions(model)
    second.close()
    assert set(attentions(model)) == {"sdpa"}


def test_self_attention_and_cross_attention_are_asked_for_apart():
    lvlm = LVLM(*ZOO["mllama"]())
    inputs = lvlm.adapter.inputs([Request(PROMPTS[0], (pictures()[0],))])
    asked = {}
    for kinds in (Op.kinds, frozenset({"cross"})):
        op = See([0])
        op.kinds = kinds
        planned(lvlm, inputs, op)
        asked[kinds] = [(call.layer, call.kind) for call in op.calls]
    assert list(asked.values()) == [[(0, "full"), (2, "full")], [(1, "cross"), (3, "cross")]]


@dataclass(frozen=True)
class Steer(Strategy):
    """Weighs keys by a table drawn from a seed."""

    name: ClassVar[str] = "steer"

    seed: int = 0

    def prepare(self, adapter, inputs):
        table = draw(len(adapter.layers), len(inputs["input_ids"]), adapter.heads, 256, seed=self.seed)
        return Session((Weigh(table * 3 + 0.05),))


@dataclass(frozen=True)
class InStep(Strategy):
    """Another strategy; each of its attention calls waits for one of every other thread, until one of them is done."""

    name: ClassVar[str] = "in step"

    of: Strategy
    barrier: threading.Barrier

    def __post_init__(self):
        pass

    def prepare(self, adapter, inputs):
        barrier = self.barrier

        class Meet(Op):
            def edit_output(self, call, output):
                with contextlib.suppress(threading.BrokenBarrierError):
                    barrier.wait()
                return output

        session = self.of.fitted(adapter).prepare(adapter, inputs)
        return dataclasses.replace(session, ops=(*session.ops, Meet()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_5", "gemma3", "mllama"])
def test_four_threads_on_one_model_answer_as_each_would_alone(name):
    lvlm = LVLM(*ZOO[name]())
    asked = [
        (image, prompt, make_strategy(method))
        for (image, prompt), method in zip(
            [*zip(pictures(), PROMPTS, strict=True), *zip(pictures(), reversed(PROMPTS), strict=True)],
            ["greedy", "vdd(beta=0.0)", "vcd(beta=0.0, noise_step=999)", Steer(5)],
            strict=True,
        )
    ]
    alone = [lvlm.generate(*one, max_new_tokens=NEW).token_ids for one in asked]
    plain = [lvlm.generate(image, prompt, max_new_tokens=NEW).token_ids for image, prompt, _ in asked]
    assert [a == b for a, b in zip(alone, plain, strict=True)] == [True, False, False, False]
    wrong = []

    def work(index, barrier):
        image, prompt, method = asked[index]
        try:
            got = lvlm.generate(image, prompt, InStep(method, barrier), max_new_tokens=NEW).token_ids
            if got != alone[index]:
                wrong.append((index, got, alone[index]))
        except Exception as error:
            wrong.append((index, error))
        finally:
            barrier.abort()

    for _ in range(2):
        barrier = threading.Barrier(len(asked))
        threads = [threading.Thread(target=work, args=(index, barrier)) for index in range(len(asked))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.slow
def test_an_unknown_family_gets_the_generic_adapter(monkeypatch):
    model, processor = newcomer()
    lvlm = LVLM(model, processor)
    assert type(lvlm.adapter) is Adapter
    own = LVLM(*ZOO["llava"]())
    image = pictures()[0]
    for method in ("greedy", "vdd", Steer(1)):
        answers = [each.generate(image, PROMPTS[0], method, max_new_tokens=NEW) for each in (lvlm, own)]
        assert answers[0].token_ids == answers[1].token_ids


class Aloof(nn.Module):
    """Attends by itself, whatever transformers' attention interface says."""

    def __init__(self, attention):
        super().__init__()
        self.v_proj, self.o_proj, self.groups = attention.v_proj, attention.o_proj, attention.num_key_value_groups

    def forward(self, hidden_states, **kwargs):
        mean = self.v_proj(hidden_states).cumsum(1) / torch.arange(1, hidden_states.shape[1] + 1)[:, None]
        return self.o_proj(mean.repeat(1, 1, self.groups)), None


@pytest.mark.parametrize("make", [ZOO["llava"], newcomer], ids=["known", "unknown"])
def test_a_layer_that_attends_by_itself_fails_the_proof(make):
    model, processor = make()
    layer = model.get_decoder().layers[1]
    layer.self_attn = Aloof(layer.self_attn)
    with pytest.raises(ModelError, match=r"layers \[1\] do not attend through"):
        LVLM(model, processor).adapter.check_attention_hook()


def test_an_unknown_family_that_fails_the_proof_is_refused_and_left_as_it_was():
    model, processor = newcomer()
    layer = model.get_decoder().layers[2]
    layer.self_attn = Aloof(layer.self_attn)
    before = attentions(model)
    with pytest.raises(ModelError, match=r"newcomer: layers \[2\]"):
        LVLM(model, processor)
    assert attentions(model) == before


def paligemma_2():
    """Its decoder is Gemma 2, which caps scores softly."""
    model, processor = ZOO["paligemma"]()
    model.config.text_config = Gemma2Config(**{**model.config.text_config.to_dict(), "model_type": "gemma2"})
    return PaliGemmaForConditionalGeneration(model.config), processor


def internvl_gpt_oss():
    """InternVL 3.5 with GPT-OSS, whose heads have sinks."""
    model, processor = ZOO["internvl"]()
    text = GptOssConfig(
        **{**model.config.text_config.to_dict(), "model_type": "gpt_oss", "layer_types": None, "num_local_experts": 2}
    )
    model.config.text_config = text
    return InternVLForConditionalGeneration(model.config), processor


@pytest.mark.parametrize(
    ("make", "reason"), [(paligemma_2, "gemma2: soft-capped attention"), (internvl_gpt_oss, "gpt_oss: attention sinks")]
)
def test_attention_that_sdpa_would_get_wrong_is_refused_and_left_as_it_was(make, reason):
    model, processor = make()
    before = attentions(model)
    with pytest.raises(ModelError, match=reason):
        LVLM(model, processor)
    assert attentions(model) == before
    assert "mmhall" not in before
