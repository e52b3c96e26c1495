"""Uncertainty: one pass over a written answer against decoding it token by token."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from mmhall.adapters._base import Request
from mmhall.analysis._score import jensen_shannon, score
from mmhall.benchmarks.scenes.dataset import make_scene
from mmhall.errors import OptionError, PromptError
from mmhall.generation._prepare import PlannedBatch
from mmhall.generation._run import prepare_inputs
from mmhall.generation._settings import Settings
from mmhall.generation._state import prefill
from mmhall.lvlm import LVLM
from tests.zoo import built

TEXTS = ("A dog.", "Nothing at all", "")
QUESTIONS = ("Is there a dog?", "What is on the left, and what else is there?", "Where?")


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(2)
    noise = [torch.randint(0, 256, (6, 6, 3), generator=generator, dtype=torch.uint8) for _ in TEXTS]
    sizes = ((96, 64), (40, 72), (64, 64))
    return [
        Image.fromarray(part.numpy()).resize(size, Image.Resampling.NEAREST)
        for part, size in zip(noise, sizes, strict=True)
    ]


def decoded(lvlm, inputs, ids):
    """Log-probabilities that decoding meets when it is made to say `ids`, and the entropies on the way."""
    config = Settings(max_new_tokens=9).resolved(lvlm.adapter.generator)
    state = prefill(PlannedBatch(prepare_inputs(lvlm.adapter, inputs, config)))
    said, entropies = [], []
    for token in ids:
        logprobs = state.logits[0].log_softmax(-1)
        said.append(float(logprobs[token]))
        entropies.append(float(torch.distributions.Categorical(logits=logprobs).entropy()))
        state.read(torch.tensor([[token]]))
    return said, entropies


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_5", "gemma4", "paligemma", "instructblip", "mllama"])
def test_one_pass_equals_decoding(name, pictures):
    lvlm = LVLM(*built(name))
    adapter = lvlm.adapter
    answers = [adapter.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    batch = adapter.inputs([Request(q, (p,)) for q, p in zip(QUESTIONS, pictures, strict=True)])
    scored = score(adapter, batch, answers)
    for got, ids, question, picture in zip(scored, answers, QUESTIONS, pictures, strict=True):
        inputs = adapter.inputs([Request(question, (picture,))])
        with torch.inference_mode():
            said, entropies = decoded(lvlm, inputs, ids)
            free, _ = decoded(lvlm, adapter.without_image(inputs), ids)
        assert got.logprobs == pytest.approx(said, abs=1e-4)
        assert got.entropies == pytest.approx(entropies, abs=1e-4)
        assert got.image_gains == pytest.approx([a - b for a, b in zip(said, free, strict=True)], abs=2e-4)
        assert len(got.logprobs) == len(got.image_divergences) == len(ids)


@pytest.mark.parametrize("name", ["llava", "qwen3_5", "gemma3", "paligemma", "mllama"])
def test_a_prompt_alone_is_scored_as_in_a_batch(name, pictures):
    """A batch has padding and so a mask; alone, transformers takes other paths."""
    adapter = LVLM(*built(name)).adapter
    answers = [adapter.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    requests = [Request(q, (p,)) for q, p in zip(QUESTIONS, pictures, strict=True)]
    together = score(adapter, adapter.inputs(requests), answers)
    for request, answer, wanted in zip(requests, answers, together, strict=True):
        (alone,) = score(adapter, adapter.inputs([request]), [answer])
        assert alone.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
        assert alone.image_gains == pytest.approx(wanted.image_gains, abs=2e-4)


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen3_5", "gemma4", "llama4"])
def test_the_image_share_is_that_of_the_trace(name, pictures):
    """A trace's own answer, scored: the same rows, seen while reading instead of while writing."""
    lvlm = LVLM(*built(name))
    trace = lvlm.trace(pictures[0], QUESTIONS[1], max_new_tokens=4)
    ids = trace.answer.token_ids
    placeholders = lvlm.adapter.placeholders(torch.tensor(ids)).nonzero()
    alike = int(placeholders[0]) + 1 if len(placeholders) else len(ids)  # one the model wrote is read back as padding
    inputs = lvlm.adapter.inputs([Request(QUESTIONS[1], (pictures[0],))])
    (scored,) = score(lvlm.adapter, inputs, [ids])
    wanted = trace.image_share.mean(dim=(1, 2)).tolist()
    assert scored.image_shares[:alike] == pytest.approx(wanted[:alike], abs=1e-5)


@pytest.mark.parametrize("name", ["llava", "instructblip", "mllama"])
def test_the_divergence_is_that_of_the_distributions(name, pictures):
    """Entropy of the mean distribution minus the mean of both entropies, of a decoded answer's first two tokens."""
    lvlm = LVLM(*built(name))
    inputs = lvlm.adapter.inputs([Request(QUESTIONS[1], (pictures[0],))])
    ids = lvlm.adapter.tokenizer("A dog.", add_special_tokens=False)["input_ids"][:2]
    (scored,) = score(lvlm.adapter, inputs, [ids])
    config = Settings(max_new_tokens=9).resolved(lvlm.adapter.generator)
    with torch.inference_mode():
        both = (inputs, lvlm.adapter.without_image(inputs))
        states = [prefill(PlannedBatch(prepare_inputs(lvlm.adapter, one, config))) for one in both]
        for token, found in zip(ids, scored.image_divergences, strict=True):
            one, other = (state.logits[0].double().softmax(-1) for state in states)
            entropy = [float(torch.distributions.Categorical(p).entropy()) for p in ((one + other) / 2, one, other)]
            assert found == pytest.approx(entropy[0] - (entropy[1] + entropy[2]) / 2, abs=1e-5)
            assert 0 <= found <= math.log(2)
            for state in states:
                state.read(torch.tensor([[token]]))


def test_divergences_by_hand():
    """Distributions that share nothing are ln 2 apart; (1, 0) and (1/2, 1/2): ln(4/3)/2 + (ln(2/3) + ln 2)/4."""
    one = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.3, 0.7]]).log()
    other = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.3, 0.7]]).log()
    wanted = [math.log(2), math.log(4 / 3) / 2 + (math.log(2 / 3) + math.log(2)) / 4, 0]
    assert jensen_shannon(one, other).tolist() == pytest.approx(wanted, abs=1e-6)


def test_layers_of_their_own_for_the_picture_have_no_share(pictures):
    (scored,) = score(
        LVLM(*built("mllama")).adapter,
        LVLM(*built("mllama")).adapter.inputs([Request("What?", (pictures[0],))]),
        [[70]],
    )
    assert scored.image_shares is None


def test_without_a_picture_there_is_nothing_to_gain():
    scored = LVLM(*built("llava")).score(None, "What?", "A dog.")
    assert len(scored.logprobs) == 6
    assert scored.image_gains is None
    assert scored.image_shares is None
    assert scored.image_divergences is None


def test_an_empty_answer_has_what_its_prompt_has(pictures):
    lvlm = LVLM(*built("llava"))
    assert lvlm.score(pictures[0], "What?", "").image_gains == ()
    assert lvlm.score(pictures[0], "What?", "").image_divergences == ()
    assert lvlm.score(None, "What?", "").image_gains is None
    assert LVLM(*built("mllama")).score(pictures[0], "What?", "").image_shares is None


def test_answers_that_cannot_be_scored_are_refused(pictures, embedded):
    lvlm = LVLM(*built("llava"))
    for answer in (None, ["a"], 3):
        with pytest.raises(PromptError, match="an answer must be text"):
            lvlm.score(pictures[0], "What?", answer)
    with pytest.raises(PromptError, match="exceed the model's context of 512"):
        embedded.score(pictures[0], "What?", "a cup " * 3000)
    assert len(lvlm.score(pictures[0], "What?", "a</s>b").logprobs) == 6


def test_one_answer_at_a_time_is_scored(pictures):
    with pytest.raises(OptionError, match="num_return_sequences must be 1 with uncertainty=True"):
        LVLM(*built("llava")).generate(pictures[0], "What?", uncertainty=True, do_sample=True, num_return_sequences=2)


def test_answers_carry_it_when_asked(pictures):
    lvlm = LVLM(*built("qwen2_vl"))
    requests = [(p, q) for p, q in zip(pictures, QUESTIONS, strict=True)]
    plain = lvlm.generate_batch(requests, "vdd", max_new_tokens=5)
    asked = lvlm.generate_batch(requests, "vdd", max_new_tokens=5, uncertainty=True)
    assert [answer.token_ids for answer in asked] == [answer.token_ids for answer in plain]
    assert all(answer.uncertainty is None for answer in plain)
    for answer in asked:
        assert len(answer.uncertainty.entropies) == len(answer.token_ids)
        assert all(0 <= entropy <= math.log(600) for entropy in answer.uncertainty.entropies)


def test_the_embedded_model_knows_what_it_sees(embedded, tmp_path):
    """Naming what is there gains by the picture; naming what is not loses."""

    scene = make_scene(3, 0)
    there = scene.objects[0].name
    seen = embedded.score(scene.image, f"Is there a {there} in the image?", "Yes")
    assert seen.image_gains[0] > 0
