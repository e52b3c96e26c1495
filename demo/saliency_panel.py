"""The panel below the answers: heat maps of where each strategy looked while it wrote the chosen word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from mmhall.demo.events import QUEUED, UNQUEUED, on_model
from mmhall.demo.guard import show_errors
from mmhall.demo.rendering import render
from mmhall.demo.state import AppState, Shown
from mmhall.demo.trace_cache import find_same_word, word_attention
from mmhall.demo.view import data_url
from mmhall.errors import MmhallError, OptionError

if TYPE_CHECKING:
    from mmhall.analysis import Trace
    from mmhall.demo.board import Board
    from mmhall.demo.compare import Column
    from mmhall.words import Word

_OTHER_ANSWER = "another answer came out when it was decoded again: this can happen in low precision"


def _notice(title: str, text: str) -> str:
    return render("saliency.html", columns=(), title=title, text=text)


HINT = _notice(
    "Where did it look?", "Click a word of an answer, or walk through the words with the arrow keys and press Enter."
)
_EXPIRED = _notice("This was a while ago", "Click the word again: its traces are no longer in memory.")


def panel(app: AppState, board: Board) -> None:
    """Build the panel and connect it to the words of the answers."""
    gr.Markdown("### Where each one looked")
    board.saliency.render()
    spot = gr.State((0, 0))
    with gr.Row():
        slider = gr.Slider(0, 1, 0, step=1, label="Word", info="Walk through the words of the column.", elem_id="word")
        layers = gr.Dropdown(
            [],
            multiselect=True,
            label="Layers",
            info="Stages of the model, early to late. None chosen: the mean of all.",
            elem_id="layers",
        )
        heads = gr.Dropdown(
            [],
            multiselect=True,
            label="Heads",
            info="Each layer looks in several ways at once. None chosen: the mean of all.",
            elem_id="heads",
        )
    events = _SaliencyEvents(app)
    outputs = [board.saliency, spot, slider, layers, heads]
    board.answers.select(events.pick, [board.shown, layers, heads], outputs, **on_model(board.saliency))
    inputs = [board.shown, spot, slider, layers, heads]
    slider.input(events.draw, inputs, board.saliency, **QUEUED)
    slider.input(None, slider, None, js="word => { window.mmhallWord && window.mmhallWord(word); }", **UNQUEUED)
    for choice in (layers, heads):
        choice.input(events.draw, inputs, board.saliency, **QUEUED)


@dataclass(frozen=True, slots=True)
class _SaliencyEvents:
    """Handlers of choosing a word, layers and heads."""

    app: AppState

    @show_errors
    def pick(self, event: gr.EventData, shown: Shown | None, layers: Any, heads: Any) -> Iterator[Any]:
        """Trace all columns and show their heat maps at the chosen word; yields the values of the panel."""
        column, word = _checked_word(shown, event._data)
        assert shown is not None
        words = _answer_words(self.app, shown, column, word)
        with self.app.exclusive_model():
            for traces in trace_columns(self.app, shown, column):
                html = saliency_html(shown, traces, words, (column, word), layers, heads)
                yield html, gr.skip(), gr.skip(), gr.skip(), gr.skip()
        trace = next((trace for trace in traces if trace is not None and not isinstance(trace, str)), None)
        yield (
            gr.skip(),
            (column, word),
            gr.Slider(0, max(1, len(words) - 1), word, label=f"Word of column {column + 1}"),
            gr.skip() if trace is None else gr.Dropdown([(f"layer {layer}", layer) for layer in trace.layers]),
            gr.skip() if trace is None else gr.Dropdown([(f"head {head}", head) for head in trace.heads]),
        )

    @show_errors
    def draw(self, shown: Shown | None, spot: Any, word: Any, layers: Any, heads: Any) -> Any:
        """Show the heat maps at another word, or of other layers and heads, from traces in the cache."""
        if shown is None:
            return gr.skip()
        column, word = _checked_word(shown, {"column": spot[0], "word": int(word)})
        words = _answer_words(self.app, shown, column, word)
        traces = [_cached_trace(self.app, shown, index) for index in range(len(shown.columns))]
        if traces[column] is None:
            return _EXPIRED
        return saliency_html(shown, traces, words, (column, word), layers, heads)


def _checked_word(shown: Shown | None, data: Any) -> tuple[int, int]:
    """Return the column and word, 0-based, that a client sends; the word may still be beyond the answer.

    Raises:
        OptionError: There is no such answer.
    """
    if shown is None:
        raise OptionError("demo", "word", data, "a word of an answer on this page; press Run first")
    column, word = (data.get(name) if isinstance(data, dict) else None for name in ("column", "word"))
    answered = [index for index, entry in enumerate(shown.columns) if entry.answer is not None]
    if isinstance(column, int) and column in answered and isinstance(word, int) and word >= 0:
        return column, word
    raise OptionError("demo", "word", data, "a word of an answer on this page")


def _answer_words(app: AppState, shown: Shown, column: int, word: int) -> tuple[Word, ...]:
    """Return the words of an answer.

    Raises:
        OptionError: The chosen word is not among them.
    """
    from mmhall.words import split_words

    answer = shown.columns[column].answer
    words = split_words(app.lvlm.adapter.tokenizer, answer.token_ids) if answer is not None else ()
    if word >= len(words):
        raise OptionError("demo", "word", word, f"one of the {len(words)} words of the answer")
    return words


def _trace_request(shown: Shown, index: int) -> tuple[Any, ...]:
    """Return what to trace for a column; a stopped answer is traced up to its length."""
    column, settings = shown.columns[index], dict(shown.setup.settings)
    if column.state == "stopped" and column.answer is not None:
        settings["max_new_tokens"] = max(1, len(column.answer.token_ids))
    return shown.picture, shown.setup.prompt, column.strategy, settings


def _cached_trace(app: AppState, shown: Shown, index: int) -> Trace | str | None:
    if shown.columns[index].answer is None:
        return None
    trace = app.traces.lookup(*_trace_request(shown, index))
    return None if trace is None else _compare_answers(shown.columns[index], trace)


def _compare_answers(column: Column, trace: Trace) -> Trace | str:
    """Return a trace if its answer is the one on the page, else the reason; a stopped answer may be a prefix."""
    assert column.answer is not None
    shown, traced = column.answer.token_ids, trace.answer.token_ids
    if column.state == "stopped":
        shown, traced = shown[: len(traced)], traced[: len(shown)]
    return trace if shown == traced else _OTHER_ANSWER


def trace_columns(app: AppState, shown: Shown, first: int) -> Iterator[list[Trace | str | None]]:
    """Trace every column, the chosen one first; yields traces or, for columns that cannot be traced, reasons.

    Raises:
        MmhallError: The chosen column cannot be traced.
    """
    traces: list[Trace | str | None] = [None] * len(shown.columns)
    for index in sorted(range(len(shown.columns)), key=lambda index: index != first):
        if shown.columns[index].answer is None:
            continue
        try:
            trace = app.traces.get_or_trace(*_trace_request(shown, index))
            traces[index] = _compare_answers(shown.columns[index], trace)
        except MmhallError as error:
            if index == first:
                raise
            traces[index] = str(error)
        yield traces


def saliency_html(
    shown: Shown,
    traces: Sequence[Trace | str | None],
    words: Sequence[Word],
    spot: tuple[int, int],
    layers: Any,
    heads: Any,
) -> str:
    """Return the heat map of every column, at the word chosen in one of them, as HTML.

    Args:
        shown: The comparison.
        traces: One for each column; a text: why there is none; None: not traced yet.
        words: Words of the chosen column.
        spot: The chosen column and word, 0-based.
        layers: As in `word_attention`.
        heads: As in `word_attention`.
    """
    from mmhall.demo.maps import draw_findings

    column, word = spot
    text = words[word].text
    captions: list[dict[str, Any]] = []
    for index, trace in enumerate(traces):
        entry = {"number": index + 1, "strategy": shown.columns[index].strategy, "maps": [], "notes": {}}
        if trace is None or isinstance(trace, str):
            reason = trace or ("no answer" if shown.columns[index].answer is None else "not read yet")
            captions.append({**entry, "image": data_url(shown.picture), "alt": "the picture", "caption": reason})
            continue
        number = word if index == column else find_same_word(words, trace.words, word)
        attention = word_attention(trace, number, layers or (), heads or ())
        if attention.word is None:
            caption, alt = f"does not write “{text}”", "the picture, without heat"
        else:
            caption = f"“{attention.word.text}”, {attention.share:.0%} of its attention on the picture"
            alt = f"heat map of where {shown.columns[index].strategy} looked while it wrote {attention.word.text}"
        entry |= {"image": data_url(attention.picture), "alt": alt, "caption": caption}
        entry |= {"maps": draw_findings(trace), "notes": trace.notes}
        captions.append(entry)
    return render("saliency.html", columns=captions)
