"""Where answers looked: their traces, made when somebody asks and kept with the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from mmhall.demo.failures import as_model_errors
from mmhall.demo.state import AppState, Kept
from mmhall.errors import ModelError, OptionError
from mmhall.text import printable

if TYPE_CHECKING:
    from mmhall.analysis import Followed

_LENS_DEPTH = 0.5  # of the layers: there, patches are read as words of things best


def gaze(app: AppState, kept: Kept, key: str) -> dict[str, Any]:
    """Return the gaze record of an answer; see `mmhall.display.gaze`.

    Raises:
        MmhallError: As `LVLM.follow`; also when memory runs out.
    """
    from mmhall.display.gaze import gaze_record

    followed = _follow(app, kept)
    return gaze_record(followed.trace, followed.candidates, key)


def gaze_heads(app: AppState, kept: Kept, layers: Sequence[int] | None, heads: Sequence[int] | None) -> dict[str, Any]:
    """Return the maps of an answer's words for some layers and heads; None: all.

    Raises:
        MmhallError: As in `gaze`; also if a layer or head does not exist.
    """
    from mmhall.display.gaze import packed, word_maps

    return packed(word_maps(_follow(app, kept).trace, layers, heads))


def saliency(app: AppState, picture: Image.Image, prompt: str) -> dict[str, Any]:
    """Return the map of the gaze shift of a question.

    Raises:
        MmhallError: As in `LVLM.trace`.
    """
    from mmhall.display.gaze import map_record

    with app.exclusive_model() as lvlm, as_model_errors():
        trace = lvlm.trace(picture, prompt, max_new_tokens=1)
    return dict(map_record(trace.spread(trace.saliency()), trace.box()))


def lens(app: AppState, kept: Kept, word: Any, layer: Any) -> dict[str, Any]:
    """Return the words at the patches of an answer's picture, and where one of its words stands.

    Args:
        app: State of the server.
        kept: The answer.
        word: 0-based index of a word of it.
        layer: 0-based decoder layer; None: one in the middle.

    Raises:
        MmhallError: There is no such word or layer, or the model has no patches in its prompts.
    """
    from mmhall.analysis import extent, spread
    from mmhall.display.gaze import map_record
    from mmhall.words import split_words

    with app.exclusive_model() as lvlm:
        words = split_words(lvlm.adapter.tokenizer, kept.answer.token_ids)
        if not isinstance(word, int) or isinstance(word, bool) or not 0 <= word < len(words):
            raise OptionError("demo", "word", word, f"an integer from 0 to {len(words) - 1}")
        layer = round(_LENS_DEPTH * (len(lvlm.adapter.layers) - 1)) if layer is None else layer
        token = kept.answer.token_ids[words[word].tokens[0]]
        with as_model_errors():
            read = lvlm.lens(kept.picture, kept.prompt, layer, [token])
    rows, columns = read.grid.finest(0)
    if not rows:
        raise ModelError("this model's image tokens have no place in the picture")
    cells: list[Any] = [[] for _ in range(rows * columns)]
    views = read.grid.view.tolist()
    finest = max({*views} - {-1}, key=views.count)
    for number, (view, row, column) in enumerate(zip(views, read.grid.row, read.grid.column, strict=True)):
        if view == finest:
            cells[int(row) * columns + int(column)] = [
                (printable(text), round(value, 4)) for text, value in read.words[number]
            ]
    found = spread(read.grid, 0, read.probabilities[0])
    return dict(map_record(found, extent(read.grid, 0), layer=layer, words=cells))


def _follow(app: AppState, kept: Kept) -> Followed:
    """Follow an answer, or return what was found before."""
    with app.exclusive_model() as lvlm:
        if kept.followed is None:
            with as_model_errors():
                kept.followed = lvlm.follow(kept.picture, kept.prompt, kept.answer)
            app.answers.fit()
        return kept.followed
