"""The registered attention function against an eager reference written here."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from mmhall.adapters.base import Request
from mmhall.attention import Op, active
from mmhall.errors import ModelError
from mmhall.lvlm import LVLM
from tests.conftest import make_random_llava

PROMPTS = ("Is there a dog in the image?", "Please describe this image in detail. What is on the left?")


class Reference:
    """Plain eager attention with the edits under test, one (B, H, Q, K) matrix a layer."""

    def __init__(self, weight=None, gain=None, rows=None):
        self.weight, self.gain, self.rows = weight, gain, rows
        self.maps = []

    def __call__(self, module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query @ key.transpose(-1, -2) * scaling + attention_mask
        probs = scores.softmax(-1)
        if self.weight is not None:
            weighted = probs * self.weight(probs)
            probs = weighted / weighted.sum(-1, keepdim=True)
        self.maps.append(probs)
        output = (probs @ value).transpose(1, 2)
        if self.gain is not None:
            output = output * self.gain[:, None]
        return output.contiguous(), probs


@pytest.fixture
def inputs(llava, pictures):
    return llava.adapter.inputs([Request(p, image) for p, image in zip(PROMPTS, pictures, strict=False)])


def run_reference(model, inputs, reference):
    """Run a copy of the model through an eager function of our own."""
    model = copy.deepcopy(model)
    AttentionInterface.register("reference", reference)
    AttentionMaskInterface.register("reference", eager_mask)
    model.get_decoder().set_attn_implementation("reference")
    with torch.no_grad():
        return model(**inputs).logits


def run_planned(llava, inputs, *ops):
    with torch.no_grad(), active(llava.adapter.plan(ops)):
        return llava.model(**inputs).logits


def real(logits, inputs):
    """Leave out padded positions, whose values nobody reads."""
    return logits[inputs["attention_mask"].bool()]


class See(Op):
    def __init__(self, rows):
        self.wanted, self.seen = rows, []

    def rows(self, call):
        return self.wanted

    def see(self, call, rows, probs):
        self.seen.append((call.layer, probs))


def test_idle_is_bit_equal_to_the_models_own_sdpa(processor, llava, inputs):
    plain = make_random_llava(processor)
    plain.set_attn_implementation("sdpa")
    with torch.no_grad():
        torch.testing.assert_close(llava.model(**inputs).logits, plain(**inputs).logits, rtol=0, atol=0)


def test_only_the_decoder_goes_through_the_door(llava):
    assert llava.model.get_decoder().config._attn_implementation == "mmhall"
    assert llava.model.model.vision_tower.config._attn_implementation != "mmhall"


def test_probed_rows_equal_the_eager_maps(llava, inputs):
    reference = Reference()
    run_reference(llava.model, inputs, reference)
    length = inputs["input_ids"].shape[1]
    op = See(torch.tensor([length - 7, length - 1]))
    logits = run_planned(llava, inputs, op)
    assert [layer for layer, _ in op.seen] == [0, 1, 2]
    for (_, probs), full in zip(op.seen, reference.maps, strict=True):
        torch.testing.assert_close(probs, full[:, :, [length - 7, length - 1]], rtol=0, atol=1e-5)
    torch.testing.assert_close(logits, run_planned(llava, inputs), rtol=0, atol=0)


def test_log_bias_multiplies_and_renormalises(llava, inputs):
    length = inputs["input_ids"].shape[1]
    weight = torch.rand(2, 4, 1, length, generator=torch.Generator().manual_seed(1)) * 3 + 0.05

    class Steer(Op):
        def bias(self, call):
            return weight.log()

    wanted = run_reference(llava.model, inputs, Reference(weight=lambda probs: weight))
    got = run_planned(llava, inputs, Steer())
    assert (real(got, inputs) - real(run_planned(llava, inputs), inputs)).abs().max() > 0.1
    torch.testing.assert_close(real(got, inputs), real(wanted, inputs), rtol=0, atol=5e-5)


def test_edited_rows_equal_the_reference_and_other_rows_stay(llava, inputs):
    """Doubling the image's weight in the last row before renormalising."""
    length = inputs["input_ids"].shape[1]
    image = llava.adapter.image_mask(inputs["input_ids"])[:, None, None, :]
    factor = 1.0 + image.float()

    class Double(Op):
        layers = frozenset({1})
        writes = True

        def rows(self, call):
            return torch.tensor([length - 1])

        def edit_probs(self, call, rows, probs):
            edited = probs * factor
            return edited / edited.sum(-1, keepdim=True)

    class LastRowOfLayerOne(Reference):
        def __call__(self, module, *args, **kwargs):
            def weight(probs):
                full = torch.ones_like(probs)
                if len(self.maps) == 1:
                    full[:, :, -1:] = factor
                return full

            self.weight = weight
            return super().__call__(module, *args, **kwargs)

    wanted = run_reference(llava.model, inputs, LastRowOfLayerOne())
    got, plain = run_planned(llava, inputs, Double()), run_planned(llava, inputs)
    torch.testing.assert_close(got[:, -1], wanted[:, -1], rtol=0, atol=5e-5)
    torch.testing.assert_close(got[:, :-1], plain[:, :-1], rtol=0, atol=1e-6)
    assert (got[:, -1] - plain[:, -1]).abs().max() > 1e-3


def test_two_ops_may_ask_for_different_rows(llava, inputs):
    length = inputs["input_ids"].shape[1]
    reference = Reference()
    run_reference(llava.model, inputs, reference)
    first, second = See(torch.tensor([length - 2, length - 5])), See(torch.tensor([length - 5]))
    run_planned(llava, inputs, first, second)
    torch.testing.assert_close(first.seen[0][1], reference.maps[0][:, :, [length - 2, length - 5]], rtol=0, atol=1e-5)
    torch.testing.assert_close(second.seen[0][1], reference.maps[0][:, :, [length - 5]], rtol=0, atol=1e-5)


def test_scaled_heads_equal_the_scaled_reference(llava, inputs):
    gain = torch.rand(1, 4, 1, generator=torch.Generator().manual_seed(2)) * 2

    class Scale(Op):
        def edit_output(self, call, output):
            return output * gain[:, None]

    wanted = run_reference(llava.model, inputs, Reference(gain=gain))
    torch.testing.assert_close(
        real(run_planned(llava, inputs, Scale()), inputs), real(wanted, inputs), rtol=0, atol=5e-5
    )


def test_a_decoding_step_by_hand_equals_sdpa(llava, inputs):
    """At a step the probed row replaces SDPA; the logits stay."""
    with torch.no_grad():
        cache = llava.model(**inputs, use_cache=True).past_key_values
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        positions = mask.sum(1, keepdim=True) - 1
        token = torch.tensor([[9], [11]])
        step = {"input_ids": token, "attention_mask": mask, "position_ids": positions}
        plain = llava.model(**step, past_key_values=copy.deepcopy(cache)).logits
        op = See(torch.tensor([0]))
        with active(llava.adapter.plan([op])):
            probed = llava.model(**step, past_key_values=cache).logits
    torch.testing.assert_close(probed, plain, rtol=0, atol=1e-5)
    assert op.seen[0][1].shape == (2, 4, 1, inputs["input_ids"].shape[1] + 1)
    torch.testing.assert_close(op.seen[0][1].sum(-1), torch.ones(2, 4, 1))


def test_changing_a_later_token_changes_no_earlier_row(llava, inputs):
    """Catches a missing mask function: causality would vanish without an error."""
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][:, -1] = 9
    a, b = run_planned(llava, inputs), run_planned(llava, changed)
    torch.testing.assert_close(a[:, :-1], b[:, :-1], rtol=0, atol=1e-6)
    assert (a[:, -1] - b[:, -1]).abs().max() > 1e-3


def test_plans_of_two_threads_do_not_mix(llava, inputs):
    class Mute(Op):
        def edit_output(self, call, output):
            return output * 0.2

    wanted = [run_planned(llava, inputs), run_planned(llava, inputs, Mute())]
    wrong = []

    def work(kind):
        for _ in range(5):
            got = run_planned(llava, inputs, *([Mute()] if kind else []))
            if not torch.equal(got, wanted[kind]):
                wrong.append(kind)

    threads = [threading.Thread(target=work, args=(i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_plan_that_raises_leaves_nothing_behind(llava, inputs):
    class Fail(Op):
        def edit_output(self, call, output):
            raise RuntimeError("on purpose")

    before = run_planned(llava, inputs)
    with pytest.raises(RuntimeError, match="on purpose"):
        run_planned(llava, inputs, Fail())
    with torch.no_grad():
        torch.testing.assert_close(llava.model(**inputs).logits, before, rtol=0, atol=0)


def test_soft_capped_attention_is_refused(processor):
    model = make_random_llava(processor)
    model.get_decoder().config.attn_logit_softcapping = 50.0
    with pytest.raises(ModelError, match="soft-capped"):
        LVLM(model, processor)
