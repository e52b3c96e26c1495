"""Answers as HTML: text with marks that stands alone, the data that scripts draw, and nothing from outside."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from mmhall.benchmarks.scenes import make_scene
from mmhall.display.page import facts, marked, to_html
from mmhall.display.records import Truth, answer_record, text_record
from mmhall.lvlm import LVLM
from mmhall.words import locate_words
from tests.zoo import built

PROMPT = "Please describe this image in detail."
SCENE = make_scene(2026, 4)
HOSTILE = "</script><img src=x onerror=alert(1)> a 'boat' & \"cup\" <!-- \u202e"


class Elements(HTMLParser):
    """Names of the elements, and the attributes that hold addresses."""

    def __init__(self, text):
        super().__init__()
        self.names, self.addresses = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "poster")]


def data_of(html):
    """What the scripts draw."""
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1])


@pytest.fixture(scope="module")
def answer(embedded):
    return embedded.generate(SCENE.image, PROMPT, uncertainty=True, max_new_tokens=48)


@pytest.fixture(scope="module")
def trace(embedded):
    return embedded.trace(SCENE.image, PROMPT, "vhr", max_new_tokens=12)


def test_objects_are_marked_by_words_and_signs():
    record = text_record("A wine glass & a <dog>.", "", Truth(["dog"]))
    assert str(marked(record)) == (
        'A <mark title="wine glass: not in the picture">✗wine</mark> '
        '<mark title="wine glass: not in the picture">glass</mark> &amp; a &lt;'
        '<u title="dog: in the picture">dog</u>&gt;.'
    )
    assert 'title="dog: an object; it is not known whether it is there"' in marked(text_record("A dog.", ""))


@pytest.mark.parametrize(
    ("text", "prompt", "truth", "more", "told"),
    [
        ("A dog.", "What?", Truth(["cat", "dog"]), {}, "nothing made up · named 1 of 2"),
        (
            "A boat",
            "What?",
            Truth(["dog"]),
            {"state": "cut"},
            "cut at the limit of tokens · 1 made up: boat · named 0 of 1",
        ),
        ("A dog", "What?", Truth(["dog"]), {"state": "stopped"}, "stopped · nothing made up so far · named 1 of 1"),
        (
            "A dog on a boat.",
            "What?",
            Truth(["dog"], ["cat"]),
            {},
            "none known to be made up · named 1 of 1 · 1 not known: boat",
        ),
        ("A boat.", "What?", Truth(), {}, "1 not known: boat"),
        ("Yes.", "Is there a cup in the image?", Truth(["dog"]), {}, "yes: wrong, it is no"),
        ("No.", "Is there a cup in the image?", Truth(["dog"]), {}, "no: right"),
        ("No.", "Is there a cup in the image?", Truth(), {}, "says no; truth not known"),
        ("A cup.", "Is there a cup in the image?", Truth(), {}, "neither yes nor no"),
        ("", "What?", Truth(), {"state": "failed", "error": "no room"}, "No answer: no room"),
    ],
)
def test_what_is_said_of_an_answer(text, prompt, truth, more, told):
    record = text_record(text, prompt, truth, seconds=1.5, passes_per_token=2.0, **more)
    assert facts(record) == f"{told} · 2.0 passes per token · 1.5 s"


def test_no_text_leaves_its_place():
    html = to_html([text_record(HOSTILE, HOSTILE, Truth(["cup"]), strategy=HOSTILE)])
    assert Elements(html).names.count("script") == 2
    assert "img" not in Elements(html).names
    assert "\u202e" not in html
    assert data_of(html)["records"][0]["text"] == HOSTILE.replace("\u202e", "\\u202e")


def test_a_display_names_no_address(trace):
    html = trace._repr_html_()
    assert [address.split(",")[0] for address in Elements(html).addresses] == ["data:image/jpeg;base64"]
    outside = r"https?:|//[a-z]|url\(|@import|\bimport\b|\bfetch\b|XMLHttpRequest|WebSocket"
    inner = r'data:image/jpeg;base64,[^"]*|^\s*//.*$|<script type="application/json">.*?</script>'
    assert not re.search(outside, re.sub(inner, "", html, flags=re.MULTILINE))


def test_an_answer_has_the_words_and_signals_of_the_page(embedded, answer):
    """The display has no tokenizer: it finds the tokens of each word in their texts."""
    (shown,) = data_of(answer._repr_html_())["records"]
    expected = answer_record(answer, locate_words(embedded.adapter.tokenizer, answer.token_ids), "")
    assert shown == json.loads(json.dumps(expected))
    assert all(word["gain"] is not None for word in shown["words"])
    assert data_of(answer._repr_html_())["gazes"] == []


def test_tokens_without_text_of_their_own_are_left_out(answer):
    broken = replace(answer, text="é dog", tokens=("�", "�", " dog"), token_ids=(5, 6, 7), uncertainty=None)
    (shown,) = data_of(broken._repr_html_())["records"]
    assert [(word["text"], word["tokens"]) for word in shown["words"]] == [("é", []), ("dog", [2])]


def test_a_trace_has_the_map_of_each_word(trace):
    data = data_of(trace._repr_html_())
    (record,), (gaze,) = data["records"], data["gazes"]
    assert [word["text"] for word in record["words"]] == [word.text for word in trace.words]
    rows, columns = gaze["grid"]
    maps = np.frombuffer(base64.b64decode(gaze["maps"]), np.uint8).reshape(-1, rows, columns)
    assert len(maps) == len(trace.words)
    for drawn, word in zip(maps, trace.words, strict=True):
        found = drawn * gaze["scale"] / 255
        np.testing.assert_allclose(found, trace.heatmap(word.tokens).numpy(), atol=0.51 * gaze["scale"] / 255)


def test_a_model_without_places_is_drawn_and_says_so(picture_file):
    shown = LVLM(*built("blip_2")).trace(picture_file, "What?", max_new_tokens=2)._repr_html_()
    assert "no place in the picture" in data_of(shown)["gazes"][0]["error"]
