"""The registered attention function on a LLaVA with grouped queries, against an eager reference."""

from __future__ import annotations

import threading

import pytest
import torch

from mmhall._transformers.calls import CACHE
from mmhall.adapters._base import Request
from mmhall.attention import Block, Frame, Op, active, follow_frames
from mmhall.errors import MmhallWarning, ModelError
from mmhall.lvlm import LVLM
from tests.attention.reference import Eager, Override, Scale, See, Weigh, planned, real, reweighed
from tests.conftest import make_random_llava

PROMPTS = ("Is there a dog in the image?", "Please describe this image in detail. What is on the left?")


@pytest.fixture
def inputs(llava, pictures):
    return llava.adapter.inputs([Request(p, (image,)) for p, image in zip(PROMPTS, pictures, strict=False)])


@pytest.fixture
def eager(llava):
    return Eager(llava.adapter)


def test_idle_is_bit_equal_to_the_models_own_sdpa(processor, llava, inputs):
    plain = make_random_llava(processor)
    plain.set_attn_implementation("sdpa")
    with torch.no_grad():
        torch.testing.assert_close(llava.model(**inputs).logits, plain(**inputs).logits, rtol=0, atol=0)


def test_only_the_decoder_goes_through_the_door(llava):
    assert llava.model.get_decoder().config._attn_implementation == "mmhall"
    assert llava.model.model.vision_tower.config._attn_implementation != "mmhall"


def test_probed_rows_equal_the_eager_maps(llava, inputs, eager):
    eager.logits(inputs)
    length = inputs["input_ids"].shape[1]
    op = See([length - 7, length - 1])
    logits = planned(llava, inputs, op)
    assert [layer for layer, _ in op.seen] == [0, 1, 2]
    for (_, probs), (full,) in zip(op.seen, eager.maps, strict=True):
        torch.testing.assert_close(probs, full[:, :, [length - 7, length - 1]], rtol=0, atol=1e-5)
    torch.testing.assert_close(logits, planned(llava, inputs), rtol=0, atol=0)


def test_log_bias_multiplies_and_renormalises(llava, inputs, eager):
    weights = torch.rand(3, 2, 4, 256, generator=torch.Generator().manual_seed(1)) * 3 + 0.05
    wanted = eager.logits(inputs, probs=reweighed(weights))
    got = planned(llava, inputs, Weigh(weights))
    assert (real(got, inputs) - real(planned(llava, inputs), inputs)).abs().max() > 0.1
    torch.testing.assert_close(real(got, inputs), real(wanted, inputs), rtol=0, atol=5e-5)


def test_biases_of_two_ops_add_up_and_reach_the_rows_that_a_third_sees(llava, inputs, eager):
    drawn = torch.rand(2, 3, 2, 4, 256, generator=torch.Generator().manual_seed(4)) * 3 + 0.05
    wanted = eager.logits(inputs, probs=reweighed(drawn[0] * drawn[1]))
    length = inputs["input_ids"].shape[1]
    op = See([length - 3, length - 1])
    got = planned(llava, inputs, Weigh(drawn[0]), op, Weigh(drawn[1]))
    torch.testing.assert_close(real(got, inputs), real(wanted, inputs), rtol=0, atol=5e-5)
    for (_, probs), (full,) in zip(op.seen, eager.maps, strict=True):
        torch.testing.assert_close(probs, full[:, :, [length - 3, length - 1]], rtol=0, atol=1e-5)


def test_edited_rows_equal_the_reference_and_other_rows_stay(llava, inputs, eager):
    """Doubling the image's weight in the last row before renormalising."""
    length = inputs["input_ids"].shape[1]
    factor = 1.0 + llava.adapter.image_mask(inputs["input_ids"])[:, None, None, :].float()

    def double(probs):
        edited = probs * factor
        return edited / edited.sum(-1, keepdim=True)

    class Double(Op):
        layers = frozenset({1})
        writes = True

        def rows(self, call):
            return torch.tensor([length - 1])

        def edit_probs(self, call, rows, probs):
            return double(probs)

    def last_row_of_layer_one(layer, probs):
        return torch.cat([probs[:, :, :-1], double(probs[:, :, -1:])], dim=2) if layer == 1 else probs

    wanted = eager.logits(inputs, probs=last_row_of_layer_one)
    got, plain = planned(llava, inputs, Double()), planned(llava, inputs)
    torch.testing.assert_close(got[:, -1], wanted[:, -1], rtol=0, atol=5e-5)
    torch.testing.assert_close(got[:, :-1], plain[:, :-1], rtol=0, atol=1e-6)
    assert (got[:, -1] - plain[:, -1]).abs().max() > 1e-3


def test_two_ops_may_ask_for_different_rows(llava, inputs, eager):
    length = inputs["input_ids"].shape[1]
    eager.logits(inputs)
    first, second = See([length - 2, length - 5]), See([length - 5])
    planned(llava, inputs, first, second)
    full = eager.maps[0][0]
    torch.testing.assert_close(first.seen[0][1], full[:, :, [length - 2, length - 5]], rtol=0, atol=1e-5)
    torch.testing.assert_close(second.seen[0][1], full[:, :, [length - 5]], rtol=0, atol=1e-5)


def test_scaled_heads_equal_the_scaled_reference(llava, inputs, eager):
    gains = torch.rand(3, 4, generator=torch.Generator().manual_seed(2)) * 2
    wanted = eager.logits(inputs, output=lambda layer, output: output * gains[layer][:, None])
    got = planned(llava, inputs, Scale(gains))
    torch.testing.assert_close(real(got, inputs), real(wanted, inputs), rtol=0, atol=5e-5)


def read_and_step(lvlm, inputs, *ops):
    """Return the logits of a prompt's pass and of a step after it, both with ops."""
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
    token = {"input_ids": torch.tensor([[9], [11]]), "position_ids": mask.sum(1, keepdim=True) - 1}
    with torch.no_grad(), active(lvlm.adapter.plan(ops), inputs["input_ids"].shape[1]):
        read = lvlm.model(**inputs, use_cache=True)
        step = lvlm.model(**token, attention_mask=mask, **{CACHE: read[CACHE]})
    return read.logits, step.logits


class Last(Op):
    """Looks at the newest row, or doubles what it gives to the picture."""

    def __init__(self, image=None):
        self.writes, self._image, self.seen = image is not None, image, []

    def rows(self, call):
        return call.newest

    def edit_probs(self, call, rows, probs):
        if self._image is None:
            return probs
        edited = probs * (1 + torch.nn.functional.pad(self._image, (0, call.step))[:, None, None].to(probs))
        return edited / edited.sum(dim=-1, keepdim=True)

    def see(self, call, rows, probs):
        self.seen.append(probs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("steered", [False, True])
def test_looking_changes_no_bit(llava, inputs, dtype, steered):
    """Neither beside SDPA nor beside an edit, with rows of its own and with shared ones, in a prompt and in a step."""
    llava.model.to(dtype)
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    image = llava.adapter.image_mask(inputs["input_ids"])
    length = inputs["input_ids"].shape[1]
    edits = (lambda: [Last(image)]) if steered else list
    plain = read_and_step(llava, inputs, *edits())
    looking = Last(), See([length - 9, length - 1])
    seen = read_and_step(llava, inputs, *edits(), *looking)
    assert all(torch.equal(*pair) for pair in zip(plain, seen, strict=True))
    assert len(looking[0].seen) == 6
    assert looking[0].seen[-1].shape == (2, 4, 1, length + 1)
    torch.testing.assert_close(looking[0].seen[-1].sum(-1), torch.ones(2, 4, 1))
    torch.testing.assert_close(looking[1].seen[0][1][:, :, 1], looking[0].seen[0][:, :, 0], rtol=0, atol=1e-6)


def test_edits_under_autocast_are_those_of_the_reference(llava, inputs, eager):
    """Scores and weights are float32 there too: only the model around them is rounded."""
    image = llava.adapter.image_mask(inputs["input_ids"])

    def lifted(layer, probs):
        edited = probs * (1 + 5 * image[:, None, None].float())
        return edited / edited.sum(-1, keepdim=True)

    def last_lifted(layer, probs):
        return torch.cat([probs[:, :, :-1], lifted(layer, probs[:, :, -1:])], dim=2)

    wanted, plain = (eager.logits(inputs, **edits)[:, -1] for edits in ({"probs": last_lifted}, {}))
    looked = Last()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = planned(llava, inputs, Override(probs=lifted), looked)[:, -1].float()
    assert (wanted - plain).abs().mean() > 10 * (got - wanted).abs().mean()
    assert all(probs.dtype == torch.float32 for probs in looked.seen)
    torch.testing.assert_close(looked.seen[0].sum(-1), torch.ones(2, 4, 1), rtol=0, atol=1e-6)


def test_a_decoder_that_refuses_keeps_nothing(llava, processor):
    """Its attention is named in the error, and no module is marked."""
    model = make_random_llava(processor)
    decoder = model.get_decoder()

    def refuse(name):
        raise ValueError("attends in a way of its own")

    decoder.set_attn_implementation = refuse
    before = {name: set(vars(part)) for name, part in model.named_modules()}
    with pytest.raises(ModelError, match="its attention cannot be replaced"):
        LVLM(model, processor)
    assert {name: set(vars(part)) for name, part in model.named_modules()} == before


def test_changing_a_later_token_changes_no_earlier_row(llava, inputs):
    """Catches a missing mask function: causality would vanish without an error."""
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][:, -1] = 9
    a, b = planned(llava, inputs), planned(llava, changed)
    torch.testing.assert_close(a[:, :-1], b[:, :-1], rtol=0, atol=1e-6)
    assert (a[:, -1] - b[:, -1]).abs().max() > 1e-3


class Mute(Op):
    def edit_output(self, call, output):
        return output * 0.2


def test_plans_of_two_threads_do_not_mix(llava, inputs):
    wanted = [planned(llava, inputs), planned(llava, inputs, Mute())]
    assert not torch.equal(*wanted)
    wrong = []

    def work(kind):
        for _ in range(5):
            got = planned(llava, inputs, *([Mute()] if kind else []))
            if not torch.equal(got, wanted[kind]):
                wrong.append(kind)

    threads = [threading.Thread(target=work, args=(i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_plan_acts_on_the_first_of_several_copies_only(llava, inputs):
    with torch.no_grad(), follow_frames(Frame((Block(llava.adapter.plan([Mute()])), Block(None)))):
        first, second = llava.model(**inputs).logits
    muted, plain = planned(llava, inputs, Mute()), planned(llava, inputs)
    torch.testing.assert_close(first, muted[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(second, plain[1], rtol=0, atol=1e-5)
    assert (muted - plain).abs().amax(dim=(1, 2)).min() > 0.1


def test_a_plan_that_raises_leaves_nothing_behind(llava, inputs):
    class Fail(Op):
        def edit_output(self, call, output):
            raise RuntimeError("on purpose")

    before = planned(llava, inputs)
    with pytest.raises(RuntimeError, match="on purpose"):
        planned(llava, inputs, Fail())
    with torch.no_grad():
        torch.testing.assert_close(llava.model(**inputs).logits, before, rtol=0, atol=0)


def test_who_asks_for_attention_weights_is_told_that_there_are_none(llava, inputs):
    with pytest.warns(
        MmhallWarning, match=r"the attention of mmhall returns no attention weights; use LVLM\.trace, or close the LVLM"
    ):
        llava.model(**inputs, output_attentions=True)


def test_soft_capped_attention_is_refused(processor):
    model = make_random_llava(processor)
    model.get_decoder().config.attn_logit_softcapping = 50.0
    with pytest.raises(ModelError, match="soft-capped"):
        LVLM(model, processor)
