"""What prompts about one picture have in common is read once, and nobody can tell from the answers."""

from __future__ import annotations

import pytest
import torch
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from mmhall.adapters._base import Adapter, Request
from mmhall.adapters.paligemma import PaliGemmaAdapter
from mmhall.attention import PassCount, count_passes
from mmhall.generation._job import Job
from mmhall.generation._prepare import PlannedBatch
from mmhall.generation._run import prepare_inputs, run as running
from mmhall.generation._settings import Settings
from mmhall.generation._shared_pass import join_prompts, prefill_shared
from mmhall.generation._shared_prefix import split_prefixes
from mmhall.strategies import Session, strategy
from tests.generation.reference import FAMILIES, QUIET, endless, in_turn, ours, picture
from tests.jobs import run
from tests.zoo import ZOO

FIRST, SECOND = picture(40, 40, 4), picture(64, 32, 8)
ASKED = [
    Request("Is there a dog?", (FIRST,)),
    Request("Is there a cat on the table, or behind it?", (SECOND,)),
    Request("Is there a traffic light?", (FIRST,)),
    Request("Is there a dog?", (SECOND,)),
    Request("Is there?", (FIRST,)),
    Request("Is there a cup?", (FIRST,)),
]
ALONE = {"paligemma", "blip_2", "instructblip"}  # prompts look ahead; `generate` itself reads the picture


def answers(adapter, spec, *, share, **settings):
    method, chosen = strategy(spec), Settings(max_new_tokens=4, **settings)
    config = chosen.resolved(adapter.generator, method.beams)
    return run(adapter, adapter.inputs(ASKED), method, config, chosen.seed, share=share)


def state(adapter, *, share):
    config = Settings(max_new_tokens=4).resolved(adapter.generator)
    with torch.inference_mode():
        prepared = prepare_inputs(adapter, adapter.inputs(ASKED), config, share=share)
        return join_prompts([prefill_shared(PlannedBatch(prepared))])[0]


@QUIET
@pytest.mark.parametrize("name", FAMILIES)
def test_next_token_scores_are_those_of_whole_prompts(name):
    adapter = ours(name)
    torch.testing.assert_close(
        state(adapter, share=True).logits, state(adapter, share=False).logits, atol=2e-4, rtol=2e-4
    )


@QUIET
@pytest.mark.parametrize(
    ("name", "spec"), in_turn(FAMILIES, ("greedy", "vcd", "vdd", "beam", "vhr(layers='50%:')+vcd"))
)
def test_answers_are_the_same(name, spec):
    adapter = ours(name)
    assert answers(adapter, spec, share=True).tolist() == answers(adapter, spec, share=False).tolist()


@pytest.mark.slow
@QUIET
@pytest.mark.parametrize("name", ["llava", "qwen3_5", "mllama"])
def test_samples_are_the_same(name):
    drawn = [answers(ours(name), "vcd", share=s, do_sample=True, num_return_sequences=2) for s in (True, False)]
    assert drawn[0].tolist() == drawn[1].tolist()


@QUIET
@pytest.mark.parametrize("name", FAMILIES)
def test_each_picture_is_read_once(name):
    adapter = ours(name)
    config = Settings(max_new_tokens=4).resolved(adapter.generator)
    with torch.inference_mode():
        shared = prepare_inputs(adapter, adapter.inputs(ASKED), config, share=True).shared
    if name in ALONE:
        assert shared is None
        return
    assert shared.of.tolist() == [0, 1, 0, 1, 0, 0]
    assert len(shared.prepared.input_ids) == 2
    whole = [single["input_ids"][0].tolist() for single in adapter.inputs(ASKED).singles]
    pads = shared.prepared.kwargs["attention_mask"].logical_not().sum(dim=1)
    begun = [row[pad:].tolist() for row, pad in zip(shared.prepared.input_ids, pads, strict=True)]
    cut = [begun[g] + rest.tolist() for g, rest in zip(shared.of.tolist(), shared.rest, strict=True)]
    assert cut == whole
    assert not any(adapter.placeholders(rest).any() for rest in shared.rest)


def cut_of(requests, name="llava"):
    adapter = ours(name)
    return split_prefixes(adapter, adapter.inputs(requests))


def test_prompts_about_different_pictures_share_nothing():
    same = FIRST.copy()
    assert cut_of([Request("Is there a dog?", (FIRST,)), Request("Is there a cat?", (same,))]) is None


def test_prompts_without_a_picture_share_nothing_but_equal_ones():
    first, second = Request("Is there a dog?"), Request("Is there a cat?")
    assert cut_of([first, second]) is None
    cut = cut_of([first, second, first])
    assert cut.of.tolist() == [0, 1, 0]
    assert not any(len(rest) for rest in cut.rest)


@QUIET
@pytest.mark.parametrize("name", FAMILIES)
def test_equal_prompts_without_a_picture_are_read_once(name):
    """Of five, three are read, each padded to the longest."""
    adapter, config = ours(name), Settings(max_new_tokens=4).resolved(ours(name).generator)
    inputs = adapter.inputs([Request(text) for text in ("Is there a dog?", "Is there?", "Why?", "Is there?", "Why?")])
    with torch.inference_mode():
        read = []
        for share in (True, False):
            prepared = prepare_inputs(adapter, inputs, config, share=share)
            count = PassCount()
            with count_passes(count):
                read.append(join_prompts([prefill_shared(PlannedBatch(prepared))])[0])
            assert count.prompt_reads == (3 if share else 5) * inputs["input_ids"].shape[1]
        for state in read:
            state.read(inputs["input_ids"][:, -1:])
    once, each = read
    torch.testing.assert_close(once.logits, each.logits, atol=2e-4, rtol=2e-4)
    assert torch.equal(once.ids, each.ids)


@QUIET
@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_free_branch_of_the_same_question_is_read_once(name):
    """With the last token of each main prompt read twice, beams, and a branch for each."""
    adapter = ours(name)
    asked = adapter.inputs([Request("Is there a dog?", (shown,)) for shown in (FIRST, SECOND, FIRST)])
    for spec in ("vdd", "beam+vdd"):
        method, chosen = strategy(spec), Settings(max_new_tokens=4)
        config = chosen.resolved(adapter.generator, method.beams)
        tokens = [run(adapter, asked, method, config, chosen.seed, share=share).tolist() for share in (True, False)]
        assert tokens[0] == tokens[1]


@QUIET
@pytest.mark.parametrize("name", FAMILIES)
def test_equal_prompts_may_be_read_twice(name):
    adapter, config = ours(name), Settings(max_new_tokens=3).resolved(ours(name).generator)
    inputs = adapter.inputs([Request("Is there a dog?"), Request("Why?"), Request("Is there a dog?")])
    jobs = [Job(adapter, inputs, Session(reread=True), config, [], share=share) for share in (True, False)]
    assert running(jobs[0]).tolist() == running(jobs[1]).tolist()


def test_the_same_question_twice_keeps_one_token_to_read():
    cut = cut_of([Request("Is there a dog?", (FIRST,))] * 2)
    assert [len(rest) for rest in cut.rest] == [1, 1]


def test_pictures_in_another_order_are_others():
    both = [Request("Which?", (FIRST, SECOND)), Request("Which?", (SECOND, FIRST))]
    assert cut_of(both) is None
    assert cut_of([both[0], both[0]]) is not None


def test_a_variant_that_differs_from_row_to_row_is_not_shared():
    """Noise drawn anew for every request, as some strategy might."""
    adapter = ours("llava")
    inputs, random = adapter.inputs(ASKED), torch.Generator().manual_seed(0)
    varied = adapter.with_pixels(inputs, lambda pixels: pixels + torch.randn(pixels.shape, generator=random))
    assert split_prefixes(adapter, varied) is None
    assert split_prefixes(adapter, adapter.with_pixels(inputs, torch.zeros_like)) is not None


def test_what_steers_the_reading_of_a_prompt_reads_it_whole(llava, pictures):
    """VHR compares whole prompts; its answers must not depend on who is asked together."""
    requests = [(pictures[0], f"Is there a {name}?") for name in ("dog", "cat", "traffic light")]
    together = llava.generate_batch(requests, "vhr", max_new_tokens=4)
    alone = [llava.generate(*request, "vhr", max_new_tokens=4) for request in requests]
    assert [a.text for a in together] == [a.text for a in alone]


def test_a_path_given_twice_is_one_picture(llava, picture_file):
    seen = []
    tower = next(m for n, m in llava.model.named_modules() if n.endswith("vision_tower"))
    tower.register_forward_pre_hook(
        lambda _, given, named: seen.append(len([*given, *named.values()][0])), with_kwargs=True
    )
    requests = [(str(picture_file), "Is there a dog?"), (picture_file, "Is there a cat in it?")]
    shared = llava.generate_batch(requests, max_new_tokens=4)
    assert seen == [1]
    whole = llava.generate_batch(requests, max_new_tokens=4, shared_prefix=False)
    assert seen == [1, 2]
    assert [a.token_ids for a in shared] == [a.token_ids for a in whole]


class LooksAheadConfig(PaliGemmaConfig):
    model_type = "looks_ahead"


class LooksAhead(PaliGemmaForConditionalGeneration):
    config: LooksAheadConfig


class LooksAheadAdapter(PaliGemmaAdapter):
    """Its family has no entry: all but how prompts are written is the generic adapter's."""

    causal = Adapter.causal


@pytest.mark.slow
@QUIET
@pytest.mark.parametrize("spec", ["greedy", "gift"])
def test_an_unknown_family_is_not_taken_for_causal(spec):
    """A beginning read by itself, or a last token dropped, would be wrong where rows see what follows them."""
    model, processor = ZOO["paligemma"]()
    told = {key: value for key, value in model.config.to_dict().items() if key != "model_type"}
    stranger = LooksAhead(LooksAheadConfig(**told)).eval()
    stranger.load_state_dict(model.state_dict())
    stranger.generation_config = model.generation_config
    assert not Adapter(stranger, processor).can_split_prompt
    assert not Adapter(stranger, processor).can_drop_last_token
    adapter, known = LooksAheadAdapter(stranger, processor), PaliGemmaAdapter(model, processor)
    assert answers(adapter, spec, share=True).tolist() == answers(known, spec, share=False).tolist()


def test_every_known_family_says_whether_it_is_causal():
    said = {name: endless(name).causal for name in FAMILIES}
    assert said == {name: name != "paligemma" for name in FAMILIES}
