"""Below the answers: where each strategy looked while it wrote the chosen word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    from mmhall.demo.compare import Column
    from mmhall.demo.compare_tab import Board
    from mmhall.words import Word

_ANEW = "another answer came out when it was decoded again: this can happen in low precision"


def _notice(title: str, text: str) -> str:
    return render("saliency.html", looks=(), title=title, text=text)


HINT = _notice(
    "Where did it look?", "Click a word of an answer, or walk through the words with the arrow keys and press Enter."
)
_GONE = _notice("This was a while ago", "Click the word again: what was read for it has made room for others.")


def panel(app: AppState, board: Board) -> None:
    """Lay the panel out and wire it to the words of the answers."""
    gr.Markdown("### Where each one looked")
    heat = board.heat
    heat.render()
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

    @show_errors
    def pick(event: gr.EventData, shown: Shown | None, layers: Any, heads: Any) -> Iterator[Any]:
        column, word = _spot(shown, event._data)
        assert shown is not None
        words = _words(app, shown, column, word)
        with app.exclusive_model():
            for traces in trace_columns(app, shown, column):
                html = saliency_html(shown, traces, words, (column, word), layers, heads)
                yield html, gr.skip(), gr.skip(), gr.skip(), gr.skip()
        read = next((one for one in traces if one is not None and not isinstance(one, str)), None)
        yield (
            gr.skip(),
            (column, word),
            gr.Slider(0, max(1, len(words) - 1), word, label=f"Word of column {column + 1}"),
            gr.skip() if read is None else gr.Dropdown([(f"layer {layer}", layer) for layer in read.layers]),
            gr.skip() if read is None else gr.Dropdown([(f"head {head}", head) for head in read.heads]),
        )

    @show_errors
    def draw(shown: Shown | None, spot: Any, word: Any, layers: Any, heads: Any) -> Any:
        if shown is None:
            return gr.skip()
        column, word = _spot(shown, {"column": spot[0], "word": int(word)})
        words = _words(app, shown, column, word)
        traces = [_kept(app, shown, index) for index in range(len(shown.columns))]
        if traces[column] is None:
            return _GONE
        return saliency_html(shown, traces, words, (column, word), layers, heads)

    outputs = [heat, spot, slider, layers, heads]
    board.answers.select(
        pick,
        [board.shown, layers, heads],
        outputs,
        **on_model(heat),
    )
    slider.input(draw, [board.shown, spot, slider, layers, heads], heat, **QUEUED)
    slider.input(None, slider, None, js="word => { window.mmhallWord && window.mmhallWord(word); }", **UNQUEUED)
    for choice in (layers, heads):
        choice.input(draw, [board.shown, spot, slider, layers, heads], heat, **QUEUED)


def _spot(shown: Shown | None, data: Any) -> tuple[int, int]:
    """Return which word was chosen, as far as a client may say so."""
    if shown is None:
        raise OptionError("demo", "word", data, "of an answer on this page; press Run first")
    column, word = (data.get(name) if isinstance(data, dict) else None for name in ("column", "word"))
    answered = [index for index, one in enumerate(shown.columns) if one.answer is not None]
    if isinstance(column, int) and column in answered and isinstance(word, int) and word >= 0:
        return column, word
    raise OptionError("demo", "word", data, "one that an answer holds")


def _asked(shown: Shown, index: int) -> tuple[Any, ...]:
    """Return what a trace is kept by; one that was stopped is followed as far as it came."""
    column, settings = shown.columns[index], dict(shown.setup.settings)
    if column.state == "stopped" and column.answer is not None:
        settings["max_new_tokens"] = max(1, len(column.answer.token_ids))
    return shown.picture, shown.setup.prompt, column.strategy, settings


def _words(app: AppState, shown: Shown, column: int, word: int) -> tuple[Word, ...]:
    """Return the words of an answer, of which one was chosen."""
    from mmhall.words import words_of

    answer = shown.columns[column].answer
    words = words_of(app.lvlm.adapter.tokenizer, answer.token_ids) if answer is not None else ()
    if word >= len(words):
        raise OptionError("demo", "word", word, f"one of the {len(words)} words of the answer")
    return words


def _kept(app: AppState, shown: Shown, index: int) -> Trace | str | None:
    if shown.columns[index].answer is None:
        return None
    trace = app.traces.lookup(*_asked(shown, index))
    return None if trace is None else _checked(shown.columns[index], trace)


def _checked(column: Column, trace: Trace) -> Trace | str:
    """Return a trace if it is of the answer that is shown, as far as a stopped one came; else say that it is not."""
    assert column.answer is not None
    said, again = column.answer.token_ids, trace.answer.token_ids
    if column.state == "stopped":
        said, again = said[: len(again)], again[: len(said)]
    return trace if said == again else _ANEW


def trace_columns(app: AppState, shown: Shown, first: int) -> Iterator[list[Trace | str | None]]:
    """Trace every column, the chosen one first; of one that cannot be traced, give the reason.

    Raises:
        MmhallError: The chosen one cannot be traced.
    """
    traces: list[Trace | str | None] = [None] * len(shown.columns)
    for index in sorted(range(len(shown.columns)), key=lambda index: index != first):
        if shown.columns[index].answer is None:
            continue
        try:
            traces[index] = _checked(shown.columns[index], app.traces.get_or_trace(*_asked(shown, index)))
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
    """Show each column's look at the word chosen in one of them.

    Args:
        shown: The comparison.
        traces: Of each column; a text: why there is none; None: not read yet.
        words: Of the chosen column.
        spot: The chosen column and word, 0-based.
        layers: As in `word_attention`.
        heads: As in `word_attention`.
    """
    from mmhall.demo.maps import maps_of

    column, word = spot
    text = words[word].text
    looks = []
    for index, trace in enumerate(traces):
        told = {"number": index + 1, "strategy": shown.columns[index].strategy, "maps": []}
        if trace is None or isinstance(trace, str):
            reason = trace or ("no answer" if shown.columns[index].answer is None else "not read yet")
            looks.append({**told, "image": data_url(shown.picture), "alt": "the picture", "told": reason})
            continue
        number = word if index == column else find_same_word(words, trace.words, word)
        seen = word_attention(trace, number, layers or (), heads or ())
        if seen.word is None:
            said, alt = f"does not write “{text}”", "the picture, without heat"
        else:
            said = f"“{seen.word.text}”, {seen.share:.0%} of its attention on the picture"
            alt = f"heat map of where {shown.columns[index].strategy} looked while it wrote {seen.word.text}"
        looks.append({**told, "image": data_url(seen.picture), "alt": alt, "told": said, "maps": maps_of(trace)})
    return render("saliency.html", looks=looks)
