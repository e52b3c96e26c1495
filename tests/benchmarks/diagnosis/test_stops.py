"""Hidden full stops: the tokens that are hidden, what that does to a real model, and the figure."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmhall.adapters import Request
from mmhall.benchmarks.diagnosis.figures import UnmeasuredError
from mmhall.benchmarks.diagnosis.stops import Hidden, draw_words, find_stops, read_stops, stops_figure
from mmhall.results.statistics import Resampler
from tests.attention.reference import Eager

PROMPT = "Please describe this image in detail."
CAPTIONS = ("The image shows a dog. There is a cat on the left. The dog is on the right.", "The image shows a cup.")


def test_full_stops_that_later_tokens_could_read(embedded):
    """The last one has nothing behind it; of sentences of one mark there is nothing else to hide."""
    tokenizer = embedded.adapter.tokenizer

    def found(text):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        return [tokenizer.convert_ids_to_tokens(ids[: at + 1])[-2:] for at in find_stops(tokenizer, ids)]

    assert found(CAPTIONS[0]) == [["▁dog", "."], ["▁left", "."]]
    assert found(CAPTIONS[1]) == []
    assert found("A dog. ! A cat is there.") == [["▁dog", "."]]


def test_a_word_of_each_sentence_is_drawn():
    """Sentences of tokens 0 to 4 and 5 to 6, each with its stop: the only other token of the second is 5."""
    drawn = [draw_words([4, 6], str(seed)) for seed in range(50)]
    assert {first for first, _ in drawn} == {0, 1, 2, 3}
    assert {second for _, second in drawn} == {5}


@pytest.mark.slow
def test_hidden_tokens_are_those_of_eager_attention(embedded, pictures):
    """One batch with a caption of three sentences and one of a single sentence, which has nothing to hide."""
    adapter = embedded.adapter
    inputs = adapter.inputs([Request(PROMPT, (picture,)) for picture in pictures[:2]])
    ids = [adapter.tokenizer(text, add_special_tokens=False).input_ids for text in CAPTIONS]
    plain = embedded.generate(pictures[0], PROMPT, max_new_tokens=4)
    answers = [replace(plain, text=text, token_ids=tuple(i)) for text, i in zip(CAPTIONS, ids, strict=True)]
    found, single = read_stops(adapter, inputs, answers, ["1", "2"])
    assert single == Hidden()
    stops = find_stops(adapter.tokenizer, ids[0])
    words, prompt, later = draw_words(stops, "1"), inputs["input_ids"].shape[1], slice(stops[0] + 2, len(ids[0]))
    whole = adapter.append_answer(inputs, torch.tensor([ids[0], ids[1] + [0] * (len(ids[0]) - len(ids[1]))]))
    eager, logprobs = Eager(adapter), []
    for columns in ([], stops, words):

        def hide(layer, scores, columns=columns):
            for column, stop in zip(columns, stops, strict=False):
                scores[0, :, prompt + stop + 1 :, prompt + column] = -1e9
            return scores

        logits = eager.logits(whole, scores=hide)[0, prompt - 1 : -1].float()
        logprobs.append(logits.log_softmax(-1)[later])
    tokens = torch.tensor(ids[0])[later, None]
    assert found.tokens == len(tokens)
    for number in (0, 1):
        assert found.changed[number] == int((logprobs[number + 1].argmax(-1) != logprobs[0].argmax(-1)).sum())
        lost = (logprobs[0] - logprobs[number + 1]).gather(1, tokens).sum()
        assert found.lost[number] == pytest.approx(float(lost), abs=1e-3)
    assert abs(found.lost[0]) > 0.05


def test_the_figure_is_what_full_stops_change_beyond_other_tokens():
    """5 and 1 of 10 tokens, 1 and 1 of 10: (6 - 2) of 20."""
    captions = [Hidden(10, (5, 1), (4.0, 1.0)), Hidden(10, (1, 1), (0.0, 1.0)), Hidden()]
    figure = stops_figure(captions, Resampler(["1", "2", "3"]))
    assert figure.shown[0] == pytest.approx(20)
    assert "30.0% of the tokens" in figure.note
    assert "10.0% without" in figure.note
    assert "0.200 and 0.100 nats" in figure.note
    with pytest.raises(UnmeasuredError, match="no caption has a second sentence"):
        stops_figure([Hidden()], Resampler(["1"]))
