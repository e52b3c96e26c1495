"""Every family: token for token what transformers' own `generate` says, and in a batch what is said alone."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.generation._settings import Settings
from tests.decoders.test_contract import carries
from tests.generation.reference import (
    FAMILIES,
    LENGTH,
    QUIET,
    REQUESTS,
    cut,
    ends,
    generated,
    in_turn,
    ours,
    picture,
    said,
)
from tests.generation.test_leaving import check as check_leaving
from tests.generation.test_refilling import check as check_refilling, passes as passes
from tests.jobs import run

pytestmark = QUIET

FEW = ("llava", "qwen2_5_vl", "instructblip", "mllama")
"""Where what a processor sees of a prompt differs: placeholders, embeddings only, layers across."""
DRAWN = ({"top_k": 0}, {"temperature": 0.7, "top_p": 0.9, "top_k": 20})
WAYS = {
    "greedy": ("greedy", {}),
    "vdd": ("vdd", {}),
    "vcd": ("vcd", {}),
    "sampling": ("greedy", {"do_sample": True, "temperature": 0.5, "seed": 4}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_is_transformers_own(name):
    adapter, lengths = ours(name), set()
    for request in REQUESTS[:3]:
        inputs = adapter.inputs([request])
        answer = said(adapter, inputs)
        assert answer == generated(name, inputs, max_new_tokens=LENGTH)
        lengths.add(len(answer[0]))
    assert min(lengths) < LENGTH, "no answer reaches an end: the test would not see what happens there"


@pytest.mark.parametrize("name", FEW)
def test_a_repetition_penalty_is_transformers_own(name):
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[3:])
    answer = said(adapter, inputs, repetition_penalty=1.5)
    assert answer == generated(name, inputs, max_new_tokens=LENGTH, repetition_penalty=1.5)


@pytest.mark.parametrize("name", FEW)
def test_sampling_is_transformers_own_with_the_same_seed(name):
    adapter, answers = ours(name), set()
    inputs = adapter.inputs(REQUESTS[:1])
    for seed, settings in enumerate(DRAWN):
        answer = said(adapter, inputs, do_sample=True, seed=seed, **settings)
        torch.manual_seed(seed)
        assert answer == generated(name, inputs, max_new_tokens=LENGTH, do_sample=True, **settings)
        answers.update(answer)
    assert len(answers) > 1


@pytest.mark.parametrize(("name", "way"), in_turn(FAMILIES, tuple(WAYS)))
def test_a_batch_says_what_its_prompts_say_alone(name, way):
    """Four prompts of uneven length, with pictures of uneven size."""
    adapter, (spec, settings) = ours(name), WAYS[way]
    together = said(adapter, adapter.inputs(REQUESTS), spec, max_new_tokens=5, **settings)
    alone = [said(adapter, adapter.inputs([request]), spec, max_new_tokens=5, **settings) for request in REQUESTS]
    assert [[answer] for answer in together] == alone
    assert len(set(together)) > 1


@pytest.mark.parametrize(
    ("name", "spec"), in_turn([name for name in FAMILIES if "blip" not in name], ("greedy", "vcd"))
)
def test_prompts_with_more_and_with_fewer_pictures_make_a_batch(name, spec):
    adapter = ours(name)
    square, wide, high = (request.images[0] for request in REQUESTS[:3])
    requests = [
        Request("What has changed?", images)
        for images in ((wide, high, picture(100, 20, 4)), (square, square), (square,))
    ]
    together = said(adapter, adapter.inputs(requests), spec, max_new_tokens=4)
    assert [[answer] for answer in together] == [
        said(adapter, adapter.inputs([request]), spec, max_new_tokens=4) for request in requests
    ]


def test_rows_that_have_ended_are_padded_until_the_last_one_ends():
    adapter = ours("llava")
    config = Settings(max_new_tokens=LENGTH).resolved(adapter.generator)
    config.pad_token_id = 77
    rows = run(adapter, adapter.inputs(REQUESTS), mmhall.strategy("greedy"), config, 0).tolist()
    answers = [cut(row, ends("llava")) for row in rows]
    longest = max(map(len, answers))
    assert rows == [[*answer, *[77] * (longest - len(answer))] for answer in answers]
    assert len({len(answer) for answer in answers}) > 1


@pytest.mark.parametrize("name", [*FEW, "qwen3_5", "paligemma"])
def test_without_pictures_a_batch_says_what_its_prompts_say_alone(name):
    adapter = ours(name)
    requests = [Request(request.prompt) for request in REQUESTS[:2]]
    together = said(adapter, adapter.inputs(requests), "vdd")
    for request, answer in zip(requests, together, strict=True):
        inputs = adapter.inputs([request])
        assert [answer] == said(adapter, inputs) == generated(name, inputs, max_new_tokens=LENGTH)


CACHES = [(family, ("greedy", "vdd", "kvsmooth", "vcd")[at % 4]) for at, family in enumerate(FAMILIES)]


@pytest.mark.parametrize(("family", "spec"), CACHES)
def test_every_kind_of_cache_gives_up_rows(family, spec):
    """Sliding windows, chunks, recurrent states, keys that layers share, a picture across."""
    spec = spec if carries(spec, family) else "vdd"
    copies = {"greedy": 1, "kvsmooth": 1, "vdd": 2, "vcd": 2}[spec]
    check_leaving(ours(family), spec, copies=copies)


@pytest.mark.parametrize(("family", "spec"), CACHES)
def test_every_kind_of_cache_takes_rows_in(family, spec, passes):
    """Sliding windows, chunks, recurrent states, keys that layers share, a picture across."""
    spec = spec if carries(spec, family) else "vdd"
    check_refilling(ours(family), spec, passes)
    apart = family == "mllama" and spec == "vdd"  # a branch without a picture has a cache of its own
    assert (max(map(len, passes)) > 1) != apart
