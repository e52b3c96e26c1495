"""Best of several answers by the model's own answers: its scores, its draws, and what it asks, done one by one."""

from __future__ import annotations

import random

import pytest
import torch

import mmhall
from mmhall.adapters import Request, adapter_for
from mmhall.decoders.self_verify import keep_nucleus, score_objects
from mmhall.errors import CompositionError, OptionError
from mmhall.objects import mentions, object_vocabulary
from mmhall.words import decode_answer
from tests.conftest import make_random_llava
from tests.decoders.reference import NEW, REQUESTS, greedily, said, slow
from tests.generation.reference import QUIET, built

pytestmark = QUIET

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")  # the words that the zoo's models say, as their tokens are characters


def test_the_worked_example():
    assert score_objects([0.9, 0.8, 0.3]) == pytest.approx(0.6667, abs=1e-4)
    assert score_objects([0.9, 0.7]) == pytest.approx(0.8)
    assert score_objects([0.9, 0.8, 0.3], "product") == pytest.approx(0.216)
    assert score_objects([0.9, 0.7], "product") == pytest.approx(0.63)
    assert score_objects([]) == score_objects([], "product") == 0.0


def test_the_nucleus_is_the_smallest_set_with_the_probability():
    scores = torch.tensor([[0.1, 0.5, 0.3, 0.1], [0.25, 0.25, 0.25, 0.25]]).log()
    kept = [keep_nucleus(scores, top_p).isfinite().tolist() for top_p in (0.4, 0.7, 0.95, 1.0)]
    assert [one[0] for one in kept] == [
        [False, True, False, False],
        [False, True, True, False],
        [True, True, True, True],
        [True, True, True, True],
    ]
    assert kept[0][1] == [True, True, False, False]
    masked = keep_nucleus(torch.tensor([[-torch.inf, 0.0]]), 0.5)
    assert masked.tolist() == [[-torch.inf, 0.0]]


def one_by_one(model, request, samples, seed, how, top_p=0.9):
    """The candidates of a request with their scores, from complete passes, a candidate and a question at a time."""
    inputs, tokenizer = model.adapter.inputs([request]), model.adapter.tokenizer

    def score(answer):
        return model.read(model.longer(inputs, answer))

    candidates = [greedily(score)]
    for number in range(1, samples + 1):
        generator = torch.Generator().manual_seed(random.Random(f"{seed} sample {number}").getrandbits(63))
        answer = []
        while len(answer) < NEW:
            probabilities, order = score(answer).softmax(dim=-1).sort(descending=True, stable=True)
            total, kept = 0.0, torch.full_like(probabilities, -torch.inf)
            for at, probability in enumerate(probabilities.tolist()):
                if at and total >= top_p:
                    break
                kept[order[at]] = probabilities[at].log()
                total += probability
            answer.append(int(torch.multinomial(kept.softmax(dim=-1), 1, generator=generator)))
        candidates.append(tuple(answer))
    yes, no = (tokenizer.convert_tokens_to_ids(list(pair)) for pair in ("yY", "nN"))

    def confirmed(letter):
        article = "an" if letter in "aeiou" else "a"
        asked = Request(f"Is there {article} {letter} in the image?", request.images)
        probabilities = model.read(model.adapter.inputs([asked])).softmax(dim=-1)
        says_yes, says_no = probabilities[yes].sum(), probabilities[no].sum()
        return float(says_yes / (says_yes + says_no))

    scores = []
    for candidate in candidates:
        text = decode_answer(tokenizer, candidate)
        named = list(dict.fromkeys(one.name for one in object_vocabulary(LETTERS).mentions(text)))
        values = [confirmed(name) for name in named]
        product = float(torch.tensor(values).prod()) if values else 0.0
        mean = sum(values) / len(values) if values else 0.0
        scores.append(product if how == "product" else mean)
    return candidates, scores


@pytest.mark.parametrize(("name", "how"), [("llava", "mean"), ("qwen2_5_vl", "product")])
def test_the_best_candidate_is_that_of_single_passes(name, how):
    model, chosen = slow(name), []
    for seed in (0, 1):
        wanted = []
        for request in REQUESTS:
            candidates, scores = one_by_one(model, request, 3, seed, how)
            best = max(range(len(scores)), key=lambda at: (scores[at], -at))
            chosen.append(best)
            wanted.append(candidates[best])
        spec = f"self-verify(samples=3, seed={seed}, score={how!r}, objects={LETTERS})"
        assert said(model.adapter, model.adapter.inputs(REQUESTS), spec, num_beams=4) == wanted
    assert len(set(chosen)) > 1, chosen


def test_several_answers_come_best_first_and_num_beams_is_their_number():
    model = slow("llava")
    inputs = model.adapter.inputs(REQUESTS[:1])
    candidates, scores = one_by_one(model, REQUESTS[0], 3, 0, "mean")
    order = sorted(range(4), key=lambda at: (-scores[at], at))
    spec = f"self-verify(objects={LETTERS})"
    got = said(model.adapter, inputs, spec, num_beams=4, num_return_sequences=4)
    assert got == [candidates[at] for at in order]


def test_captions_that_name_nothing_leave_greedy_decoding(processor, pictures):
    llava = mmhall.LVLM(make_random_llava(processor), processor, "random")
    plain = llava.generate(pictures[0], "What?", max_new_tokens=6)
    asked = llava.generate(pictures[0], "What?", "self-verify(objects=('zzz',))", max_new_tokens=6)
    assert asked.token_ids == plain.token_ids
    assert "".join(llava.stream(pictures[0], "What?", "self-verify", max_new_tokens=6)).strip() == (
        llava.generate(pictures[0], "What?", "self-verify", max_new_tokens=6).text
    )
    bare = llava.generate(None, "What?", "self-verify", max_new_tokens=6)
    assert bare.token_ids == llava.generate(None, "What?", max_new_tokens=6).token_ids


def test_half_precision_without_samples_is_greedy():
    model, processor = built("llava")
    adapter = adapter_for(model.bfloat16(), processor)
    inputs = adapter.inputs(REQUESTS)
    assert said(adapter, inputs, "self-verify(samples=0)") == said(adapter, inputs, "greedy")
    assert len(said(adapter, inputs, f"self-verify(objects={LETTERS})", num_beams=3)) == len(REQUESTS)


def test_it_refuses_inputs_without_pictures_and_impossible_options():
    adapter = slow("llava").adapter
    with pytest.raises(CompositionError, match="asks questions about the pictures"):
        mmhall.strategy("self-verify").prepare(adapter, dict(adapter.inputs(REQUESTS[:1])))
    for option, value in (("samples", -1), ("temperature", 0), ("top_p", 0), ("top_p", 1.1), ("objects", ("",))):
        with pytest.raises(OptionError, match=f"self-verify: {option} must be"):
            mmhall.strategy("self-verify", **{option: value})
    with pytest.raises(CompositionError, match="both want the search"):
        mmhall.strategy("self-verify+opera")


def test_by_default_objects_are_cocos_with_their_words():
    text = "Two men and a puppy near a red zeppelin."
    assert object_vocabulary().mentions(text) == mentions(text)
    assert [mention.name for mention in mentions(text)] == ["person", "dog"]
