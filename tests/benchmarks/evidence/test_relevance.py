"""Relevance of the tokens of captions and their agreement with samples: by hand, and of the embedded model."""

from __future__ import annotations

import pytest
import torch

from mmhall.answers import Answer, Usage
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.data.vocabulary import mentions
from mmhall.benchmarks.detect import SIGNALS, Detect
from mmhall.benchmarks.evidence.relevance import (
    ByStates,
    ByText,
    Text,
    draw_samples,
    load_relevance,
    read_captions,
    read_texts,
)
from mmhall.errors import ModelError, OptionError
from mmhall.similarity import Jaccard
from mmhall.words import tokenize_answer

PROMPT = "Please describe this image in detail."
CAPTION = "The image shows a dog. There is also a cup."


@pytest.fixture(scope="module")
def question(pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("relevance") / "0.png"
    pictures[0].save(path)
    return Item("0", "0", PROMPT, ("captions",), {"objects": ["dog"]}), path


def answered(tokenizer, text=CAPTION):
    ids = tuple(tokenize_answer(tokenizer, text))
    return Answer(text, tuple(map(str, ids)), ids, "eos", "greedy", {}, Usage(1.0, 9, len(ids), None))


def find(item, text):
    return [mention.name for mention in mentions(text)]


def test_states_by_hand():
    """States (1, 0), (1, 0), (0, 1): without the third the mean turns from (2, 1) to (1, 0): 1 - 2 / sqrt 5."""
    states = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    text = Text("", "", (1, 2, 3), (-1.0,) * 3, states)
    first = 1 - 3 / 10**0.5  # without one of the others: (1, 1) beside (2, 1)
    assert ByStates().of_tokens(text) == pytest.approx([first, first, 1 - 2 / 5**0.5], abs=1e-5)
    assert ByStates().of_tokens(text.part("", [0])) == [1.0]
    pair = text.part("", [0, 2]), text.part("", [1])
    assert ByStates().similar([pair]) == pytest.approx([0.5**0.5])


def test_content_words_matter_by_their_overlap(embedded):
    """Of "dog", "bench" and the question's "describe", "image" and "detail", each of two words is a fifth."""
    tokenizer = embedded.adapter.tokenizer
    answer = answered(tokenizer, "a dog near a bench")
    text = Text(PROMPT, answer.text, answer.token_ids, (-1.0,) * len(answer.token_ids), torch.zeros(0, 0))
    assert ByText(Jaccard(), tokenizer).of_tokens(text) == pytest.approx([0, 0.2, 0, 0, 0.2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["states", "jaccard"])
def test_a_caption_among_samples(embedded, question, name):
    """Token by token a mean of tokenSAR; samples are drawn anew for each number, and the same again."""
    relevance, answer = load_relevance(name, embedded), answered(embedded.adapter.tokenizer)
    (alone,) = read_captions(embedded, relevance, [question], [answer], find)
    (among,) = read_captions(embedded, relevance, [question], [answer], find, 2, 24)
    (text,) = read_texts(embedded, [question], [answer], states=name == "states")
    assert text.logprobs == pytest.approx(embedded.score(question[1], PROMPT, answer.text).logprobs, abs=1e-3)
    shares = relevance.of_tokens(text)
    sar = sum(-share * logprob for share, logprob in zip(shares, text.logprobs, strict=True)) / sum(shares)
    assert sum(alone.weighted) / len(alone.weighted) == pytest.approx(sar, rel=1e-4)
    assert (alone.sentence, alone.agreement, alone.named, alone.named_again("dog")) == (None, (), None, None)
    assert among.weighted == alone.weighted
    drawn = [draw_samples(embedded, [question], number, 24)[0].text for number in range(2)]
    assert drawn[0] != drawn[1]
    names = [set(find(None, one)) for one in drawn]
    for thing in ("dog", "cup", *names[0]):
        assert among.named_again(thing) == sum(thing in one for one in names) / 2
    (first, end, value), (_, last, _) = among.agreement
    assert (first, CAPTION[:end], last) == (0, "The image shows a dog.", len(CAPTION))
    assert 0 <= value <= 1
    assert among.agreement_at(30) == among.agreement[1][2]


@pytest.mark.slow
def test_a_sample_equal_to_the_caption_agrees_with_it(embedded, question):
    (sample,) = draw_samples(embedded, [question], 0, 24)
    (same,) = read_captions(embedded, load_relevance("states", embedded), [question], [sample], find, 1, 24)
    assert same.agreement
    assert all(value == pytest.approx(1, abs=1e-4) for *_, value in same.agreement)
    assert all(same.named_again(name) == 1 for name in find(None, sample.text))


@pytest.mark.slow
def test_detect_measures_what_its_options_ask_for(embedded, question):
    answer = answered(embedded.adapter.tokenizer)
    (kept,) = Detect(relevance="states", samples=1, max_new_tokens=16).measure(embedded, [question], [answer])
    assert kept["signals"][len(SIGNALS) :] == ["token SAR", "sentence SAR", "agreement", "named again"]
    (alone,) = Detect(relevance="jaccard").measure(embedded, [question], [answer])
    assert alone["signals"][len(SIGNALS) :] == ["token SAR"]
    for entry in (*kept["mentions"], *alone["mentions"]):
        assert None not in entry["values"]
    assert [e["name"] for e in kept["mentions"]] == ["dog", "cup"]
    assert kept["mentions"][0]["values"][-3] == kept["mentions"][1]["values"][-3]  # of the caption as a whole


def test_options_that_are_refused(embedded):
    with pytest.raises(OptionError, match="samples must be 0 unless relevance is given, got 5"):
        Detect(samples=5)
    with pytest.raises(OptionError, match="relevance must be"):
        Detect(relevance="minilm")
    with pytest.raises(ModelError):
        load_relevance("./nowhere", embedded)
