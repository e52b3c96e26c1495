"""Answers as one piece of self-contained HTML, for notebooks and files.

The HTML alone, without scripts, is text with marks: it stays readable where scripts and styles are taken out, as in a
notebook that is not trusted. The scripts of the comparison page draw the words anew over it, with the maps: point at a
word, or walk with the arrow keys.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mmhall.answers import Answer
from mmhall.display.gaze import gaze_record
from mmhall.display.records import answer_record
from mmhall.text import printable
from mmhall.words import Span, Word, find_words, tokens_in_span

_LONGEST_SIDE = 640  # pixels of the picture
_GAP = 4  # characters of an answer that may stand between two of its tokens
_ENDS = {"cut": "cut at the limit of tokens", "stopped": "stopped"}
_SAYS = {
    "supported": "in the picture",
    "hallucinated": "not in the picture",
    "unknown": "an object; it is not known whether it is there",
}
_EXPORT = re.compile(r"^export ", re.MULTILINE)


def to_html(
    records: Sequence[Mapping[str, Any]], gazes: Sequence[Mapping[str, Any] | None] = (), picture: Any = None
) -> str:
    """Draw answers side by side.

    Args:
        records: Column records; see `mmhall.display.records`.
        gazes: Gaze record of each; None, or an empty sequence: an answer without maps. See `mmhall.display.gaze`.
        picture: The picture (of Pillow); None: none is shown.
    """
    data = {"records": list(records), "gazes": list(gazes)}
    environment = Environment(
        loader=PackageLoader("mmhall.display", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    columns = [{"record": record, "marked": marked(record), "facts": facts(record)} for record in records]
    return environment.get_template("page.html").render(
        columns=columns,
        picture="" if picture is None else _data_url(picture),
        maps=any(gazes),
        style=Markup(_read("words.css") + _read("show.css")),
        script=Markup("".join(_EXPORT.sub("", _read(name)) for name in ("words.js", "gaze.js", "show.js"))),
        data=Markup(json.dumps(data).replace("<", r"\u003c")),
    )


def answer_html(answer: Answer) -> str:
    """Draw an answer alone: its objects, and the signals of its words if it has uncertainty."""
    return to_html([answer_record(answer, (answer.text, _words(answer)), "")])


def trace_html(trace: Any) -> str:
    """Draw a trace: its answer, and over its first picture the attention of each word.

    Args:
        trace: An `mmhall.Trace`.
    """
    at, located = 0, list[tuple[Word, int]]()
    for word in trace.words:
        located.append((word, at := trace.answer.text.find(word.text, at)))
        at += len(word.text)
    record = answer_record(trace.answer, (trace.answer.text, located), trace.prompt)
    return to_html([record], [gaze_record(trace)], trace.pictures[0]) if trace.pictures else to_html([record])


def to_page(body: str, title: str) -> str:
    """Return a display as a whole HTML page."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    style = "margin: 0; color-scheme: light dark; background: light-dark(#fff, #16181d)"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body style="{style}">{body}</body></html>\n'


def marked(record: Mapping[str, Any]) -> Markup:
    """Return the text of a record as HTML, in which objects are marked by words and signs, not by colour alone."""
    parts, at = list[Markup](), 0
    for word in record.get("words", ()):
        parts.append(_text(record["text"][at : word["start"]]))
        parts.append(_word(word))
        at = word["end"]
    return Markup("").join([*parts, _text(record["text"][at:])])


def facts(record: Mapping[str, Any]) -> str:
    """Return what the page says of an answer: how it ended, whether it is right, its objects, its cost."""
    told = [f"No answer: {record['error']}" if record["state"] == "failed" else _ENDS.get(record["state"], "")]
    told += _objects(record) if record["verdict"] is None else [_verdict(**record["verdict"])]
    if record["passes_per_token"] is not None:
        told.append(f"{record['passes_per_token']:.1f} passes per token")
    return " · ".join(filter(None, [*told, f"{record['seconds']:.1f} s"]))


def _verdict(says: str, truth: str, right: bool | None) -> str:
    said = says or "neither yes nor no"
    if right is None:
        return f"says {says}; truth not known" if says else said
    return f"{said}: right" if right else f"{said}: wrong, it is {truth}"


def _objects(record: Mapping[str, Any]) -> list[str]:
    objects, told = record["objects"], list[str]()
    made_up, unknown = objects["made_up"], objects["unknown"]
    if record["known"] is not None:
        so_far = "" if record["state"] == "done" else " so far"
        clean = "none known to be made up" if unknown else f"nothing made up{so_far}"
        told.append(f"{len(made_up)} made up: {', '.join(made_up)}" if made_up else clean)
        told.append(f"named {len(objects['named']) - len(made_up) - len(unknown)} of {record['known']}")
    return told + ([f"{len(unknown)} not known: {', '.join(unknown)}"] if unknown else [])


def _words(answer: Answer) -> list[tuple[Word, int]]:
    """Return the words of an answer, their places, and those of their tokens whose text stands in the answer."""
    spans, at = list[Span](), 0
    for number, token in enumerate(answer.tokens):
        piece = token.strip()
        start = answer.text.find(piece, at, at + len(piece) + _GAP)
        if piece and start >= 0:
            spans.append(Span(number, start, at := start + len(piece)))
    return [(Word(word, tokens_in_span(spans, at, at + len(word))), at) for word, at in find_words(answer.text)]


def _word(word: Mapping[str, Any]) -> Markup:
    text, mark = _text(word["text"]), word["mark"]
    if mark not in _SAYS:
        return text
    tag = "mark" if mark == "hallucinated" else "u"
    sign = "✗" if mark == "hallucinated" and word["head"] else ""
    return Markup('<{} title="{}: {}">{}{}</{}>').format(tag, word["object"], _SAYS[mark], sign, text, tag)


def _text(text: str) -> Markup:
    return escape(printable(text))


def _data_url(picture: Any) -> str:
    small, file = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    small.save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


@cache
def _read(name: str) -> str:
    return files("mmhall.display").joinpath(name).read_text(encoding="utf-8")
