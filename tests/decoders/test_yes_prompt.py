"""A prompt that asks for yes: it is the plain model asked differently, wherever a strategy decodes."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.benchmarks import amber, hallusion, mme
from mmhall.benchmarks.data.pope_wording import PROMPTS
from mmhall.benchmarks.rules.yes_bias import criterion, d_prime
from mmhall.decoders.yes_prompt import SUFFIXES, YesPrompt
from mmhall.errors import CompositionError, OptionError
from mmhall.generation import forced_logprobs, make_requests
from tests.conftest import make_random_llava
from tests.generation.reference import QUIET, REQUESTS, ours, said

pytestmark = QUIET

QUESTION = "Is there a dog in the image?"
SUFFIX = "\nAnswer the question using a single word or phrase."
ASKED = f"{QUESTION}\nAnswer with one word, whenever possible with yes."


@pytest.fixture(scope="module")
def llava(processor):
    return mmhall.LVLM(make_random_llava(processor), processor, "random")


def test_the_suffixes_are_those_of_the_benchmarks():
    every = {*PROMPTS.values(), *amber.SUFFIXES.values(), *hallusion.SUFFIXES.values(), mme.SUFFIX, mme.TAIL}
    assert {suffix.strip() for suffix in every} - {""} == set(SUFFIXES)


def test_the_text_takes_the_place_of_a_suffix_or_is_appended():
    method = YesPrompt(text="Say yes.")
    for suffix in SUFFIXES:
        for gap in (" ", "\n", "\n\n"):
            assert method.reword(f"{QUESTION}{gap}{suffix} ") == f"{QUESTION}{gap}Say yes."
    assert method.reword(QUESTION) == f"{QUESTION} Say yes."
    assert method.reword(SUFFIXES[0]) == "Say yes."
    assert YesPrompt(text="Say yes.", suffixes=()).reword(QUESTION + SUFFIX) == f"{QUESTION}{SUFFIX} Say yes."
    assert "with no." in YesPrompt(answer="no").wording
    assert "with yes." in YesPrompt().wording


def test_a_rewritten_request_is_left_as_it_is_and_so_is_one_without_a_picture(pictures):
    (asked,) = make_requests([(pictures[0], QUESTION)])
    once = YesPrompt().rewrite(asked)
    assert once.images is asked.images
    assert once.prompt != asked.prompt
    assert YesPrompt().rewrite(once) is once
    (bare,) = make_requests([(None, QUESTION)])
    assert YesPrompt().rewrite(bare) is bare


def test_in_messages_the_last_text_is_edited(pictures):
    parts = [{"type": "text", "text": "Look:"}, {"type": "image"}, {"type": "text", "text": QUESTION + SUFFIX}]
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hello."}]},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": parts},
    ]
    (request,) = make_requests([(list(pictures[:2]), messages)])
    edited = YesPrompt().rewrite(request).conversation
    assert edited.turns[:2] == request.conversation.turns[:2]
    assert edited.turns[2].parts == ("Look:", None, ASKED)
    messages[2] = {"role": "user", "content": [{"type": "image"}]}
    (request,) = make_requests([(list(pictures[:2]), messages)])
    assert YesPrompt(text="Say yes.").rewrite(request).conversation.turns[2].parts == (None, "Say yes.")


def test_it_is_the_plain_model_asked_differently(llava, pictures):
    """In a batch, streamed, traced, scored, chosen from, explained, and beside a contrast."""
    spec, settings = "yes-prompt", {"max_new_tokens": 6}
    plain = llava.generate(pictures[0], ASKED, "greedy", uncertainty=True, **settings)
    asked = llava.generate(pictures[0], QUESTION + SUFFIX, spec, uncertainty=True, **settings)
    assert asked.token_ids == plain.token_ids != llava.generate(pictures[0], QUESTION + SUFFIX, **settings).token_ids
    assert asked.usage.prompt_tokens == plain.usage.prompt_tokens
    assert asked.uncertainty == plain.uncertainty
    batch = llava.generate_batch([(one, QUESTION + SUFFIX) for one in pictures], spec, **settings)
    alone = [llava.generate(one, ASKED, "greedy", **settings) for one in pictures]
    assert [answer.token_ids for answer in batch] == [answer.token_ids for answer in alone]
    assert "".join(llava.stream(pictures[0], QUESTION + SUFFIX, spec, **settings)).strip() == plain.text
    trace = llava.trace(pictures[0], QUESTION + SUFFIX, spec, **settings)
    assert (trace.prompt, trace.answer.token_ids) == (ASKED, plain.token_ids)
    chosen = llava.choose(pictures[0], QUESTION + SUFFIX, strategy=spec)
    assert chosen.scores == pytest.approx(llava.choose(pictures[0], ASKED).scores)
    explained = llava.explain(spec, pictures[0], QUESTION + SUFFIX)
    assert explained.tokens == llava.explain("greedy", pictures[0], ASKED).tokens
    tokens = torch.tensor([plain.token_ids])
    asked_again, plain_again = (
        forced_logprobs(llava.adapter, llava.adapter.inputs(make_requests([(pictures[0], text)])), method, tokens)
        for text, method in ((QUESTION + SUFFIX, mmhall.strategy(spec)), (ASKED, mmhall.strategy("greedy")))
    )
    assert asked_again.equal(plain_again)
    contrasted = llava.generate(pictures[0], QUESTION + SUFFIX, f"vcd+{spec}", **settings)
    assert contrasted.token_ids == llava.generate(pictures[0], ASKED, "vcd", **settings).token_ids


@pytest.mark.parametrize("family", ["qwen2_5_vl", "mllama", "gemma3"])
def test_other_families_are_asked_alike(family):
    adapter = ours(family)
    method = mmhall.strategy("yes-prompt(answer='no')")
    rewritten = [method.rewrite(request) for request in REQUESTS[:2]]
    wanted = said(adapter, adapter.inputs(rewritten), "greedy")
    assert said(adapter, adapter.inputs(REQUESTS[:2]), str(method)) == wanted


def test_where_the_question_cannot_be_changed_it_is_refused(llava, pictures):
    (request,) = make_requests([(pictures[0], QUESTION)])
    inputs = llava.adapter.inputs([request])
    own = mmhall.custom_generate("yes-prompt", processor=llava.processor)
    with pytest.raises(CompositionError, match="inputs made elsewhere hold only its tokens"):
        llava.model.generate(**inputs, max_new_tokens=2, custom_generate=own)
    with pytest.raises(CompositionError, match="as it was before"):
        mmhall.strategy("yes-prompt").prepare(llava.adapter, inputs)


def test_impossible_options_are_refused():
    for option, value in (("answer", "maybe"), ("text", " yes"), ("text", 3), ("suffixes", ("",)), ("suffixes", "x")):
        with pytest.raises(OptionError, match=f"yes-prompt: {option} must be"):
            mmhall.strategy("yes-prompt", **{option: value})
    with pytest.raises(CompositionError, match="the wording of the prompt"):
        mmhall.strategy("yes-prompt+yes-prompt(answer='no')")


def test_f1_may_rise_while_discrimination_falls():
    """Five questions each with yes and no: of them 2 and 0 are answered yes by the model, 4 and 2 with the prompt."""
    plain, asked = (2, 5, 2, 5), (4, 5, 6, 5)
    assert [2 * tp / (said + yes) for tp, yes, said, _ in (plain, asked)] == pytest.approx([0.5714, 0.7273], abs=1e-4)
    assert [float(d_prime(*counts)) for counts in (plain, asked)] == pytest.approx([1.1726, 0.8849], abs=1e-4)
    assert [float(criterion(*counts)) for counts in (plain, asked)] == pytest.approx([0.7967, -0.2320], abs=1e-4)
