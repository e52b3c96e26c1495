"""Column records of answers made by hand, and of the embedded model's own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mmhall.answers import Answer, Uncertainty, Usage
from mmhall.display.records import SIGNALS, UNKNOWN, Truth, answer_record, judge_answer, text_record
from mmhall.words import locate_words, split_words

TEXT = "A man with two wine glasses near a car. There are dogs on the couch."
PROMPT = "Please describe this image in detail."
TRUTH = Truth(["wine glass", "dog", "person"])


@pytest.fixture(scope="module")
def tokenizer(embedded):
    return embedded.adapter.tokenizer


@pytest.fixture(scope="module")
def said(tokenizer):
    """The record of a text answered by hand; the gain of each token is its index, its entropy a hundred times that."""

    def record(text, truth=UNKNOWN, sure=True, stopped_by="eos", **cost):
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        count = tuple(float(number) for number in range(len(ids)))
        figures = Uncertainty(count, tuple(100 * one for one in count), count, tuple(10 * one for one in count))
        usage = Usage(1.0, 5, len(ids), None, **cost)
        answer = Answer(text, (), ids, stopped_by, "greedy", {}, usage, uncertainty=figures if sure else None)
        return answer_record(answer, locate_words(tokenizer, ids), PROMPT, truth)

    return record


def test_objects_are_marked_by_the_truth_and_each_once(said):
    record = said(TEXT, TRUTH)
    marked = {word["text"]: (word["object"], word["mark"], word["head"]) for word in record["words"] if word["object"]}
    assert marked == {
        "man": ("person", "supported", True),
        "wine": ("wine glass", "supported", True),
        "glasses": ("wine glass", "supported", False),
        "car": ("car", "hallucinated", True),
        "dogs": ("dog", "supported", True),
        "couch": ("couch", "hallucinated", True),
    }
    assert record["objects"] == {
        "named": ["person", "wine glass", "car", "dog", "couch"],
        "made_up": ["car", "couch"],
        "missing": [],
        "unknown": [],
    }
    assert record["known"] == 3
    assert said("A cup.", TRUTH)["objects"]["missing"] == ["wine glass", "dog", "person"]


def test_a_made_up_object_of_two_words_has_one_head_for_each_mention(said):
    words = said("A wine glass and a wine glass.", Truth(["cup"]))["words"]
    assert [word["text"] for word in words if word["head"]] == ["wine", "wine"]
    assert sum(word["mark"] == "hallucinated" for word in words) == 4


def test_without_a_truth_objects_are_not_known(said):
    record = said(TEXT)
    assert {word["mark"] for word in record["words"] if word["object"]} == {"unknown"}
    assert record["objects"]["unknown"] == record["objects"]["named"]
    assert (record["known"], record["objects"]["made_up"]) == (None, [])


def test_words_stand_where_they_say_and_sentences_are_counted(said):
    odd = text_record("  Two dogs.\n A cat \u202e and a \x07 cup", PROMPT)
    for record in (said(TEXT), odd):
        for word in record["words"]:
            assert record["text"][word["start"] : word["end"]] == word["text"]
    assert odd["text"] == "  Two dogs.\n A cat \\u202e and a \\u0007 cup"
    assert [word["sentence"] for word in odd["words"]] == [0, 0, 1, 1, 1, 1, 1]
    numbers = {word["text"]: word["sentence"] for word in said(TEXT)["words"]}
    assert (numbers["man"], numbers["car"], numbers["There"], numbers["couch"]) == (0, 0, 1, 1)


def test_signals_are_means_over_the_tokens_of_a_word(embedded, tokenizer, scene):
    answer = embedded.generate(scene.image, PROMPT, "vdd", uncertainty=True, max_new_tokens=32)
    record = answer_record(answer, locate_words(tokenizer, answer.token_ids), PROMPT)
    words = split_words(tokenizer, answer.token_ids)
    assert [word["text"] for word in record["words"]] == [word.text for word in words]
    fields = dict(zip((signal.name for signal in SIGNALS), ("image_gains", "image_shares", "entropies"), strict=True))
    for told, word in zip(record["words"], words, strict=True):
        assert told["tokens"] == list(word.tokens)
        for name, field in fields.items():
            figures = [getattr(answer.uncertainty, field)[token] for token in word.tokens]
            assert told[name] == pytest.approx(sum(figures) / len(figures), abs=1e-4)
    assert json.loads(json.dumps(record)) == record


def test_what_was_not_measured_is_none(said):
    assert {word["gain"] for word in said(TEXT, sure=False)["words"]} == {None}
    record = text_record(TEXT, PROMPT, TRUTH, tokens=17)
    assert record["tokens"] == 17
    assert [word["text"] for word in record["words"]] == [word["text"] for word in said(TEXT)["words"]]
    assert {(tuple(word["tokens"]), word["entropy"]) for word in record["words"]} == {((), None)}
    assert record["objects"] == said(TEXT, TRUTH)["objects"]


@pytest.mark.parametrize(("stopped_by", "state"), [("eos", "done"), ("length", "cut"), ("stopped", "stopped")])
def test_an_answer_that_did_not_end_by_itself_is_not_done(said, stopped_by, state):
    assert said(TEXT, stopped_by=stopped_by)["state"] == state


def test_passes_are_those_of_the_tokens_after_the_first(said, embedded, scene):
    """The pass over the prompt gives the first token."""
    count = len(said(TEXT)["words"][-1]["tokens"]) and said(TEXT)["tokens"]
    assert said(TEXT, rows=2.0 * (count - 1))["passes_per_token"] == 2.0
    assert said(TEXT)["passes_per_token"] is None
    answer = embedded.generate(scene.image, PROMPT, "vcd", max_new_tokens=8)
    located = locate_words(embedded.adapter.tokenizer, answer.token_ids)
    assert answer_record(answer, located, PROMPT)["passes_per_token"] == 2.0


def test_a_stop_string_and_spaces_around_an_answer_do_not_move_words(embedded, tokenizer, scene):
    answer = embedded.generate(scene.image, PROMPT, max_new_tokens=32, stop_strings=["."])
    record = answer_record(answer, locate_words(tokenizer, answer.token_ids), PROMPT)
    assert record["text"] == answer.text
    assert all(answer.text[word["start"] : word["end"]] == word["text"] for word in record["words"])
    spaced = replace(answer, text=answer.text[4:])  # as if the first word had been stripped
    cut = answer_record(spaced, locate_words(tokenizer, answer.token_ids), PROMPT)
    assert [word["text"] for word in cut["words"]] == [word["text"] for word in record["words"]][1:]


@pytest.mark.parametrize(
    ("prompt", "text", "verdict"),
    [
        ("Is there a dog in the image?", "Yes, there is.", ("yes", "yes", True)),
        ("Is there a dog in the image?", "No.", ("no", "yes", False)),
        ("Is there a boat in the image?", "no", ("no", "no", True)),
        ("Is there a boat in the image?", "There may be one.", ("", "no", False)),
        ("Is there a helicopter in the image?", "Yes", ("yes", "", None)),
        ("Is the dog asleep?", "Yes", ("yes", "", None)),
        (PROMPT, "Yes", None),
    ],
)
def test_closed_questions_are_judged(prompt, text, verdict):
    told = judge_answer(prompt, text, TRUTH)
    assert (told and tuple(told.values())) == verdict
