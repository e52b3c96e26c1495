"""Answers of a batch that are handed over as soon as they are complete; and what answers look like in a terminal."""

from __future__ import annotations

import pytest
import torch

import mmhall
from tests.conftest import make_random_llava


@pytest.fixture
def lvlm(embedded):
    return embedded


@pytest.fixture
def requests(pictures):
    """A long answer between two short ones: its row moves up when they leave."""
    prompts = "Is there a cup in the image?", "Please describe this image in detail.", "Is there a dog in the image?"
    return list(zip(pictures, prompts, strict=True))


@pytest.fixture
def told():
    return []


def test_short_answers_come_first_and_are_the_ones_returned(lvlm, requests, told):
    def callback(number, answer):
        assert not torch.is_inference_mode_enabled()
        told.append((number, answer))

    answers = lvlm.generate_batch(requests, "vcd", callback=callback, max_new_tokens=48)
    lengths = [answer.usage.new_tokens for answer in answers]
    assert [number for number, _ in told] == sorted(range(3), key=lambda number: (lengths[number], number))
    assert len(set(lengths)) > 1
    for number, answer in told:
        final = answers[number]
        assert (answer.text, answer.token_ids, answer.stopped_by) == (final.text, final.token_ids, final.stopped_by)
        assert (answer.settings, answer.strategy) == (final.settings, final.strategy)
        assert answer.usage.new_tokens == final.usage.new_tokens
        assert answer.usage.prompt_tokens == final.usage.prompt_tokens
    first, last = told[0][1].usage, told[-1][1].usage
    assert first.passes < last.passes == answers[1].usage.passes
    assert first.seconds < last.seconds <= answers[1].usage.seconds


@pytest.mark.parametrize(
    ("strategy", "more"),
    [("greedy", {"num_beams": 2}), ("opera", {}), ("greedy", {"scores": True}), ("greedy", {"uncertainty": True})],
)
def test_where_all_are_complete_at_the_end_each_is_told_once(lvlm, requests, told, strategy, more):
    answers = lvlm.generate_batch(requests, strategy, callback=lambda *one: told.append(one), max_new_tokens=4, **more)
    assert told == list(enumerate(answers))


def test_what_a_callback_raises_ends_the_call(lvlm, requests, told):
    def callback(number, answer):
        told.append(number)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lvlm.generate_batch(requests, callback=callback, max_new_tokens=48)
    assert len(told) == 1
    assert lvlm.generate(*requests[0], max_new_tokens=2).text  # the model is left as it was


def test_progress_is_shown_on_demand(lvlm, requests, capsys):
    lvlm.generate_batch(requests, max_new_tokens=2)
    assert capsys.readouterr().err == ""
    lvlm.generate_batch(requests, progress=True, max_new_tokens=2)
    assert capsys.readouterr().err.splitlines()[-1] == "answers: 3 of 3"


def test_a_repr_is_one_short_line(lvlm, requests, processor):
    picture, prompt = requests[0]
    answer = lvlm.generate(picture, prompt, "vdd+vhr", uncertainty=True, scores=True, max_new_tokens=48)
    shown = [
        lvlm,
        mmhall.LVLM(make_random_llava(processor), processor, "/a/very/long/path/" * 9),
        answer,
        answer.usage,
        answer.uncertainty,
        lvlm.choose(picture, "Is it?", ("yes", "no", "there is a cup in the image " * 9)),
        lvlm.trace(picture, prompt, max_new_tokens=3),
        lvlm.head_divergence(picture, prompt, "A dog."),
    ]
    for one in shown:
        text = repr(one)
        assert "\n" not in text
        assert "tensor" not in text
        assert len(text) <= 110, text
        assert text.startswith(f"{type(one).__name__}(")
    assert answer.text[:20] in repr(answer)
    assert f"{answer.usage.new_tokens} tokens" in repr(answer.usage)
