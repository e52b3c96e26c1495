"""Traces kept for a while, the same word in two answers, and how much of the attention is on the picture."""

from __future__ import annotations

import re
import threading
from concurrent.futures import Future
from dataclasses import replace

import pytest

import mmhall
from mmhall.demo.saliency_panel import saliency_html, trace_columns
from mmhall.demo.state import AppState, Shown
from mmhall.demo.trace_cache import TraceCache, find_same_word, size_of, word_attention
from mmhall.errors import MmhallError, OptionError
from mmhall.words import Word, split_words
from tests.demo.visitor import as_file

PROMPT = "What is in this image?"
SHORT = {"max_new_tokens": 8}


@pytest.fixture(scope="module")
def trace(embedded, scene):
    return embedded.trace(scene.image, PROMPT, "vcd", **SHORT)


def words(text):
    return tuple(Word(text=word, tokens=(number,)) for number, word in enumerate(text.split()))


def test_the_share_is_that_of_the_trace(trace):
    for number, word in enumerate(trace.words):
        seen = word_attention(trace, number)
        assert seen.word == word
        assert seen.share == pytest.approx(float(trace.image_share[list(word.tokens)].mean()), abs=1e-5)
        assert 0 < seen.share < 1
    chosen = word_attention(trace, 1, layers=[trace.layers[-1]], heads=[trace.heads[0], trace.heads[2]])
    share = trace.image_share[list(trace.words[1].tokens), -1][:, [0, 2]].mean()
    assert chosen.share == pytest.approx(float(share), abs=1e-5)
    assert chosen.picture.tobytes() != word_attention(trace, 1).picture.tobytes()


@pytest.mark.parametrize("number", [None, -1, 10**9])
def test_a_word_that_is_not_there_has_no_heat(trace, number):
    seen = word_attention(trace, number)
    assert (seen.word, seen.share) == (None, None)
    assert seen.picture.tobytes() == trace.pictures[0].tobytes()


@pytest.mark.parametrize("how", [{"layers": [99]}, {"heads": [-1]}, {"layers": ["x"]}, {"heads": [None]}])
def test_layers_and_heads_that_do_not_exist_are_refused(trace, how):
    with pytest.raises(OptionError):
        word_attention(trace, 0, **how)


def test_a_trace_is_made_once(embedded, scene):
    traces = TraceCache(embedded)
    assert traces.lookup(scene.image, PROMPT, "greedy", SHORT) is None
    made = traces.get_or_trace(scene.image, PROMPT, "greedy", SHORT)
    assert traces.get_or_trace(scene.image.copy(), PROMPT, "greedy", dict(SHORT)) is made
    assert traces.lookup(scene.image, PROMPT, "greedy", SHORT) is made
    for other in (
        (scene.image.rotate(180), PROMPT, "greedy", SHORT),
        (scene.image, PROMPT + " ", "greedy", SHORT),
        (scene.image, PROMPT, "vcd", SHORT),
        (scene.image, PROMPT, "greedy", {"max_new_tokens": 9}),
    ):
        assert traces.lookup(*other) is None


@pytest.mark.slow
def test_the_oldest_make_room(embedded, scene, trace):
    traces = TraceCache(embedded, room=2 * size_of(trace))

    def kept():
        return [one for one in ("greedy", "vcd", "vdd", "vhr") if traces._entries and is_kept(one)]

    def is_kept(spec):
        return any(key[3] == spec for key in traces._entries)

    for spec in ("greedy", "vcd"):
        traces.get_or_trace(scene.image, PROMPT, spec, SHORT)
    assert kept() == ["greedy", "vcd"]
    traces.lookup(scene.image, PROMPT, "greedy", SHORT)  # looked at again
    traces.get_or_trace(scene.image, PROMPT, "vdd", SHORT)
    assert kept() == ["greedy", "vdd"]
    small = TraceCache(embedded, room=1)
    assert small.get_or_trace(scene.image, PROMPT, "vhr", SHORT) is small.lookup(scene.image, PROMPT, "vhr", SHORT)


@pytest.mark.slow
def test_the_size_is_that_of_all_it_holds(embedded, scene, trace):
    width, height = trace.pictures[0].size
    assert size_of(trace) == trace.image_attention.nbytes + trace.gaze.nbytes + 3 * width * height
    gains = embedded.trace(scene.image, PROMPT, "vhr", **SHORT)
    assert size_of(gains) == size_of(replace(gains, findings={})) + gains.findings["head gains"].nbytes


def app_of(lvlm, tmp_path):
    model = Future()
    model.set_result(lvlm)
    return AppState(model, tmp_path)


def gaze(app, shown, column=0, word=0):
    answer = shown.columns[column].answer
    *_, traces = trace_columns(app, shown, column)
    words = split_words(app.lvlm.adapter.tokenizer, answer.token_ids)
    return saliency_html(shown, traces, words, (column, word), [], [])


def captions(html):
    return re.findall(r"</bdi>: (.*?)</figcaption>", html)


def status(html):
    (told,) = re.findall(r'<p class="mm-unseen" role="status">(.*?)</p>', html, re.DOTALL)
    return " ".join(told.split())


@pytest.mark.slow
def test_an_answer_that_comes_out_otherwise_has_a_reason_instead_of_maps(embedded, compared, tmp_path):
    image, asked, columns, _ = compared(4)
    other = replace(columns[1], answer=replace(columns[1].answer, token_ids=columns[1].answer.token_ids[::-1]))
    shown = Shown(image, asked, (columns[0], other))
    app = app_of(embedded, tmp_path)
    for column in (0, 1):
        told = captions(gaze(app, shown, column))
        assert told[1].startswith("another answer came out")
        assert not told[0].startswith("another")
    shorter = replace(columns[1], answer=replace(columns[1].answer, token_ids=columns[1].answer.token_ids[:-1]))
    assert "another answer" in gaze(app, Shown(image, asked, (columns[0], shorter)))


def test_a_stopped_answer_is_followed_as_far_as_it_came(embedded, compared, tmp_path):
    image, asked, columns, _ = compared(4)
    answer = replace(columns[0].answer, token_ids=columns[0].answer.token_ids[:9])
    stopped = replace(columns[0], state="stopped", answer=answer)
    (told,) = captions(gaze(app_of(embedded, tmp_path), Shown(image, asked, (stopped,)), word=1))
    assert "of its attention on the picture" in told


@pytest.mark.slow
def test_a_screen_reader_hears_what_all_columns_looked_at_once_all_are_read(embedded, compared, tmp_path):
    image, asked, columns, _ = compared(4)
    shown, app = Shown(image, asked, columns), app_of(embedded, tmp_path)
    said = split_words(embedded.adapter.tokenizer, columns[0].answer.token_ids)
    htmls = [saliency_html(shown, list(traces), said, (0, 1), [], []) for traces in trace_columns(app, shown, 0)]
    assert status(htmls[0]) == ""
    told = [f"{number}, {columns[number - 1].strategy}: {one}." for number, one in enumerate(captions(htmls[1]), 1)]
    assert status(htmls[1]) == " ".join(told)
    assert "%" in told[0]


@pytest.mark.slow
def test_a_trace_that_has_made_room_asks_for_another_click(visitor, scene):
    image = as_file(visitor.upload(scene.image))
    prompt = "What is here?"  # which nobody else asks this page, so that no trace is at hand
    asked = [None, image, None, prompt, 4, 0, 0, [], None, 2, "greedy", "vcd", "vdd", "vhr"]
    assert visitor.ask(visitor.event("answer")["id"], asked).error is None
    drawn = visitor.ask(visitor.event("draw")["id"], [None, None, 0, [], []])
    assert "Click the word again" in drawn.value
    assert status(drawn.value) == ""
    assert visitor.ask(visitor.event("pick")["id"], [None, [], []], {"column": 0, "word": 0}).error is None
    assert "of its attention" in visitor.ask(visitor.event("draw")["id"], [None, None, 0, [], []]).value


def test_a_model_that_fails_has_a_plain_reason(scene, compared, tmp_path):
    image, asked, columns, _ = compared(4)
    model, broken = mmhall.load("embedded", device="cpu"), [False]

    def fail(*_):
        if broken[0]:
            raise RuntimeError("no room\nmore than anybody wants to know")

    model.model.get_output_embeddings().register_forward_pre_hook(fail)
    shown, app = Shown(image, asked, columns), app_of(model, tmp_path)
    told = trace_columns(app, shown, 0)
    next(told)
    broken[0] = True
    assert next(told)[1] == "out of memory or another failure of the model: no room"
    with pytest.raises(MmhallError, match="out of memory"):
        next(trace_columns(app, shown, 1))


@pytest.mark.slow
def test_threads_may_share_them(embedded, scene):
    traces = TraceCache(embedded, room=1)
    found = []
    threads = [
        threading.Thread(target=lambda spec=spec: found.append(traces.get_or_trace(scene.image, PROMPT, spec, SHORT)))
        for spec in ("greedy", "vcd", "greedy", "vcd")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4


@pytest.mark.parametrize(
    ("asked", "number", "other", "found"),
    [
        ("a dog and a cat", 1, "the dog", 1),
        ("a dog and a cat", 4, "the dog", None),
        ("Dog runs", 0, "a dog", 1),
        ("a cup a cup", 1, "cup one cup two", 0),
        ("a cup a cup", 3, "cup one cup two", 2),
        ("cup cup cup", 2, "cup one cup two", 2),
        ("cup", 0, "", None),
        ("dogs", 0, "dog", None),
    ],
)
def test_the_same_word_is_found_by_its_turn(asked, number, other, found):
    assert find_same_word(words(asked), words(other), number) == found
