"""What the page shows, with texts that want to be more than text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from mmhall.demo import probe as probing
from mmhall.demo.compare import Column
from mmhall.demo.rendering import notice, render
from mmhall.demo.view import columns_html, legend_html, resolve_mode
from mmhall.demo.words import SIGNALS, TRUTH, named_objects
from tests.demo.visitor import as_file

pytestmark = pytest.mark.slow

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</p></section><iframe src=//example.com>",
    "{{ 7 * 7 }} ${alert(1)} <% x %>",
    "[link](javascript:alert(1)) **bold** `code`",
    "a\u202egnp.exe\u2066x\u2069",
    "&lt;script&gt;",
    "\0\x1b[31m\x07",
]


class Tags(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.names, self.text = set(), set(), ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def harmless(html):
    """Whether a part of the page holds nothing but what its template put there."""
    seen = Tags(html)
    assert not seen.tags & {"script", "iframe", "object", "embed", "base", "form", "link", "style", "svg"}
    assert not {name for name in seen.names if name.startswith("on")}
    assert "javascript:" not in re.findall(r'(?:href|src)="([^"]*)"', html)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\0\x1b\x07]", html)
    return seen


@pytest.mark.parametrize("text", HOSTILE)
def test_columns_show_texts_as_texts(text):
    columns = (
        Column(text, "writing", text, 3, 1.0),
        Column("greedy", "failed", error=text),
        Column(text, "waiting"),
        Column(text, "stopped", text),
    )
    for present in (None, [text]):
        for mode in (None, TRUTH, "entropies"):
            seen = harmless(columns_html(columns, None, present, mode))
            assert "img" not in seen.tags
            assert legend_html(columns, None, present, mode) == ""
    if text.isprintable():
        assert text in seen.text


@pytest.mark.parametrize("text", HOSTILE)
def test_tables_and_notices_show_texts_as_texts(text):
    cells = (probing.Cell(text, None, 0.5, None), probing.Cell(text, "yes", None, False))
    columns = (
        probing.ProbeColumn(text, True, "done", cells),
        probing.ProbeColumn(text, False, "failed", error=text),
        probing.ProbeColumn(text, False),
    )
    assert "img" not in harmless(probing.probe_html(probing.ProbeTable((text, "cup"), (None, True), columns))).tags
    assert "img" not in harmless(notice(text, text)).tags
    columns = [{"number": 1, "strategy": text, "image": "data:,", "alt": text, "caption": text, "maps": []}]
    columns[0]["notes"] = {text: text}
    tags = harmless(render("saliency.html", columns=columns)).tags
    assert tags <= {"div", "figure", "img", "figcaption", "span", "bdi", "p"}


@pytest.mark.parametrize("text", HOSTILE)
def test_answers_with_words_show_them_as_texts(compared, embedded, text):
    _, _, columns, _ = compared(4, max_new_tokens=12)
    from dataclasses import replace

    tokenizer = embedded.adapter.tokenizer
    ids = tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    answer = replace(columns[0].answer, text=text, token_ids=ids, uncertainty=None)
    hostile = (replace(columns[0], strategy=text, text=text, answer=answer), columns[1])
    for mode in (TRUTH, "image_gains"):
        assert "img" not in harmless(columns_html(hostile, tokenizer, [text], mode)).tags
        harmless(legend_html(hostile, tokenizer, [text], mode))


def test_every_mark_is_told_in_words(compared, embedded):
    _, _, columns, present = compared(4)
    tokenizer = embedded.adapter.tokenizer
    shown = columns_html(columns, tokenizer, present[:1], TRUTH)
    assert shown.count("mm-hallucinated") == shown.count("(not in the picture)") > 0
    assert "made up: " in shown
    assert "not in the picture: hallucinated" in legend_html(columns, tokenizer, present, TRUTH)
    for signal in SIGNALS:
        legend = legend_html(columns, tokenizer, present, signal.name)
        assert signal.hint in legend
        levels = [
            float(one) for one in re.findall(r"--level: ([\d.]+)", columns_html(columns, tokenizer, None, signal.name))
        ]
        assert (min(levels), max(levels)) == (0, 1)
    partly = columns_html(columns, tokenizer, present[:1], TRUTH, ["cat"])
    assert "not known: " in partly
    assert "no object made up" not in partly
    assert "no object made up" in columns_html(columns, tokenizer, named_objects(columns[0].text), TRUTH, ["cat"])
    assert resolve_mode(None, None) == resolve_mode(TRUTH, None) == SIGNALS[0].name
    assert resolve_mode(None, []) == TRUTH


@pytest.mark.parametrize("text", [one for one in HOSTILE if "\0" not in one])
def test_the_open_page_escapes_what_it_is_told(visitor, scene, text):
    image = as_file(visitor.upload(scene.image))
    asked = [None, image, TRUTH, text, 4, 0, 0, [], None, 2, "greedy", "vcd", "vdd", "vhr"]
    shown = visitor.ask(visitor.event("answer")["id"], asked)
    assert shown.error is None
    assert "img" not in harmless(shown.data[0]).tags
    asked[10] = f"vcd(alpha={text!r})"
    refused = visitor.ask(visitor.event("answer")["id"], asked)
    assert refused.data is None
    seen = Tags(refused.error)
    assert (seen.tags, seen.names) == (set(), set())
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", refused.error)
    probed = visitor.ask(
        visitor.event("answer_1")["id"], [None, image, text[:40].replace(",", ""), [], None, 2, *asked[11:], "beam"]
    )
    assert "img" not in harmless(probed.data[0]).tags
    program = visitor.ask(visitor.event("compare")["id"], [image, text, [text], None])
    assert (Tags(program.error).tags, program.data) == (set(), None)
