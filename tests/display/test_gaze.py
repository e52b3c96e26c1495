"""Gaze records: their maps are the trace's, and one number scales them."""

from __future__ import annotations

import base64
import json
import math

import numpy as np
import pytest
import torch

from mmhall.display.gaze import gaze_record, packed, word_maps

PROMPT = "Please describe this image in detail."


@pytest.fixture(scope="module")
def followed(embedded, scene):
    answer = embedded.generate(scene.image, PROMPT, "vhr+vdd", max_new_tokens=24, uncertainty=True)
    return embedded.follow(scene.image, PROMPT, answer)


def unpack(text, scale, *shape):
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape).astype(np.float32) * scale / 255


def test_maps_and_shares_are_those_of_the_trace(followed):
    trace = followed.trace
    record = gaze_record(trace, followed.candidates, "key")
    assert json.loads(json.dumps(record)) == record
    rows, columns = record["grid"]
    maps = unpack(record["maps"], record["scale"], len(trace.words), rows, columns)
    shares = unpack(record["shares"], record["share_scale"], len(trace.words), len(trace.layers), len(trace.heads))
    for index, word in enumerate(trace.words):
        assert maps[index] == pytest.approx(trace.heatmap(word.tokens).numpy(), abs=record["scale"] / 500)
        expected = trace.image_share[list(word.tokens)].mean(dim=0).numpy()
        assert shares[index] == pytest.approx(expected, abs=record["share_scale"] / 500)
    assert record["scale"] == pytest.approx(float(word_maps(trace).max()))
    assert (record["id"], record["error"], record["layers"]) == ("key", "", list(trace.layers))
    (found,) = [one for one in record["findings"] if one["name"] == "head gains"]
    assert found["kind"] == "heads"
    assert np.shape(found["values"]) == (len(trace.layers), len(trace.heads))


def test_maps_of_some_heads_are_those_of_the_trace(followed):
    trace = followed.trace
    some = word_maps(trace, [1, 3], [0])
    torch.testing.assert_close(some[2], trace.heatmap(trace.words[2].tokens, layers=[1, 3], heads=[0]))


def test_values_are_packed_to_a_scale():
    told = packed(torch.tensor([[0.0, 0.5], [1.0, 2.0]]))
    assert (told["maps"], told["scale"]) == (base64.b64encode(bytes([0, 64, 128, 255])).decode(), 2.0)
    assert packed(torch.zeros(2)) == {"maps": base64.b64encode(bytes(2)).decode(), "scale": 0.0}
    assert packed(torch.empty(0)) == {"maps": "", "scale": 0.0}


def test_candidates_hold_what_was_said_and_both_probabilities(followed, embedded):
    trace = followed.trace
    assert len(followed.candidates) == len(trace.answer.token_ids)
    for some, logprob in zip(followed.candidates, trace.answer.uncertainty.logprobs, strict=True):
        (chosen,) = [one for one in some if one.chosen]
        assert len(some) == 5
        assert chosen.plain == pytest.approx(math.exp(logprob), abs=1e-5)
        assert chosen.strategy == max(one.strategy for one in some)  # decoded greedily
        assert [max(one.plain, one.strategy) for one in some] == sorted(
            (max(one.plain, one.strategy) for one in some), reverse=True
        )


def test_an_answer_is_followed_as_a_trace_of_the_same_answer_looks(embedded, scene):
    for spec in ("vdd", "opera", "deco"):
        trace = embedded.trace(scene.image, PROMPT, spec, max_new_tokens=16)
        again = embedded.follow(scene.image, PROMPT, trace.answer).trace
        torch.testing.assert_close(again.image_attention, trace.image_attention, rtol=0, atol=1e-6)
        assert again.findings.keys() == trace.findings.keys()
        for name, values in trace.findings.items():
            torch.testing.assert_close(again.findings[name], values, equal_nan=True)


def test_a_drawn_answer_is_followed_as_it_stands(embedded, scene):
    drawn = embedded.generate(scene.image, PROMPT, do_sample=True, temperature=1.5, seed=3, max_new_tokens=16)
    followed = embedded.follow(scene.image, PROMPT, drawn)
    assert followed.trace.answer is drawn
    assert [word.text for word in followed.trace.words] == drawn.text.replace(".", "").split()[
        : len(followed.trace.words)
    ]
    assert len(followed.trace.image_attention) == len(drawn.token_ids)
    plain = [next(one for one in some if one.chosen) for some in followed.candidates]
    assert all(one.strategy == pytest.approx(one.plain, abs=1e-5) for one in plain)  # greedy has no scores of its own


def test_an_empty_answer_has_no_maps(embedded, scene):
    empty = embedded.generate(scene.image, PROMPT, max_new_tokens=4, stop_strings=["The"])
    record = gaze_record(embedded.follow(scene.image, PROMPT, empty).trace)
    assert (record["candidates"], record["findings"]) == ([], [])


def test_the_lens_reads_probabilities_of_every_patch(embedded, scene):
    token = embedded.adapter.tokenizer("bird", add_special_tokens=False)["input_ids"][0]
    lens = embedded.lens(scene.image, PROMPT, 5, [token])
    assert lens.probabilities.shape == (1, 64)
    assert len(lens.words) == 64
    for some in lens.words:
        assert len(some) == 3
        assert some[0][1] >= some[1][1] >= some[2][1] >= 0
