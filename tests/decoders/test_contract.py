"""What every registered strategy must keep, on a random model: a new strategy joins by being registered."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.adapters.base import Request
from mmhall.decoders import STRATEGIES
from mmhall.errors import OptionError

QUESTIONS = ("Is there a dog in the image?", "Please describe this image in detail.", "Where was this picture taken?")
LENGTH = 12
DECODING = ({}, {"num_beams": 3}, {"do_sample": True, "seed": 3})
NAMES = tuple(STRATEGIES.names())
SEARCHING = ("opera",)
"""They have beams of their own, and draw nothing."""
NEUTRAL = {"vcd": ("vcd(alpha=0, beta=0)", "vcd(alpha=0)"), "vdd": ("vdd(alpha=0, beta=0)", "vdd(alpha=0)")}


WAYS = [(name, way) for name in NAMES for way in DECODING if not (name in SEARCHING and "do_sample" in way)]


def ids(answers):
    return [answer.token_ids for answer in answers]


def requests(pictures):
    return list(zip(pictures, QUESTIONS, strict=True))


@pytest.mark.parametrize(("name", "decoding"), WAYS, ids=str)
def test_a_batch_equals_single_runs(llava, pictures, name, decoding):
    batch = llava.generate_batch(requests(pictures), name, max_new_tokens=LENGTH, **decoding)
    singles = [llava.generate(*request, name, max_new_tokens=LENGTH, **decoding) for request in requests(pictures)]
    assert ids(batch) == ids(singles)


@pytest.mark.parametrize(("name", "decoding"), WAYS, ids=str)
def test_the_same_seed_repeats(llava, pictures, name, decoding):
    runs = [ids(llava.generate_batch(requests(pictures), name, max_new_tokens=LENGTH, **decoding)) for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("spec", [spec for specs in NEUTRAL.values() for spec in specs])
@pytest.mark.parametrize("decoding", DECODING[:1], ids=str)
def test_no_strength_is_greedy_token_for_token(llava, pictures, spec, decoding):
    plain = llava.generate_batch(requests(pictures), "greedy", max_new_tokens=LENGTH, **decoding)
    assert ids(llava.generate_batch(requests(pictures), spec, max_new_tokens=LENGTH, **decoding)) == ids(plain)


@pytest.mark.parametrize("spec", [specs[0] for specs in NEUTRAL.values()])
@pytest.mark.parametrize("decoding", DECODING, ids=str)
def test_neutral_options_equal_plain_decoding_of_every_kind(llava, pictures, spec, decoding):
    plain = llava.generate_batch(requests(pictures), "greedy", max_new_tokens=LENGTH, **decoding)
    assert ids(llava.generate_batch(requests(pictures), spec, max_new_tokens=LENGTH, **decoding)) == ids(plain)


def test_greedy_is_the_models_own_greedy(llava, pictures):
    inputs = llava.adapter.inputs([Request(QUESTIONS[1], (pictures[0],))])
    own = llava.model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    answer = llava.generate(pictures[0], QUESTIONS[1], "greedy", max_new_tokens=LENGTH)
    assert [token for token in own.tolist() if token not in (1, 2)] == [t for t in answer.token_ids if t != 2]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "greedy"])
def test_a_strategy_changes_what_is_said(llava, pictures, name):
    plain = llava.generate_batch(requests(pictures), "greedy", max_new_tokens=LENGTH)
    assert ids(llava.generate_batch(requests(pictures), name, max_new_tokens=LENGTH)) != ids(plain)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SEARCHING])
def test_without_a_picture_it_is_plain_decoding(llava, name):
    plain = llava.generate(None, QUESTIONS[0], "greedy", max_new_tokens=LENGTH)
    assert llava.generate(None, QUESTIONS[0], name, max_new_tokens=LENGTH).token_ids == plain.token_ids


@pytest.mark.parametrize("name", NAMES)
def test_streaming_says_the_same(llava, pictures, name):
    whole = llava.generate(pictures[0], QUESTIONS[1], name, max_new_tokens=LENGTH)
    assert "".join(llava.stream(pictures[0], QUESTIONS[1], name, max_new_tokens=LENGTH)).strip() == whole.text


@pytest.mark.parametrize("name", NAMES)
def test_nothing_leaks_into_the_next_run(llava, pictures, name):
    """Also after a run that raised in the middle of decoding."""
    inputs = llava.adapter.inputs([Request(QUESTIONS[0], (pictures[0],))])
    with torch.no_grad():
        before = llava.model(**inputs).logits
    llava.generate_batch(requests(pictures), name, max_new_tokens=LENGTH)
    head = llava.model.lm_head.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("on purpose")))
    with pytest.raises(RuntimeError, match="on purpose"):
        llava.generate(pictures[0], QUESTIONS[0], name, max_new_tokens=LENGTH)
    head.remove()
    with torch.no_grad():
        torch.testing.assert_close(llava.model(**inputs).logits, before, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_itself_back(name):
    made = mmhall.strategy(name)
    assert mmhall.strategy(str(made)) == made
    assert mmhall.strategy(made) is made


@pytest.mark.parametrize("name", NEUTRAL)
@pytest.mark.parametrize(
    "options", [{"alpha": -1.0}, {"alpha": float("nan")}, {"alpha": float("inf")}, {"beta": 1.5}, {"alpha": "much"}]
)
def test_impossible_options_are_refused_when_built(name, options):
    with pytest.raises(OptionError, match=f"{name}: {next(iter(options))} must be"):
        mmhall.strategy(name, **options)
