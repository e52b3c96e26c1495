"""Poster of a comparison, one picture for slides: the photo, the prompt and a card for every strategy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from mmhall import __version__
from mmhall.demo.compare import Column, time_ratio
from mmhall.demo.setups import Setup
from mmhall.demo.typeset import GREY, HALLUCINATED, SUPPORTED, Fragment, Paragraph, font, plain, tag, to_fragments, wrap
from mmhall.demo.words import Piece, pieces

WIDTH, MARGIN = 1600, 56
_GUTTER, _PADDING, _GAP = 28, 28, 12
_PHOTO, _HIGH, _LOW, _NARROW = 440, 560, 380, 400
_CARD, _LINE = "#f5f6f8", "#d0d5da"
_TITLE, _NAME, _BODY, _SMALL = 34, 30, 26, 20
_LONG_PROMPT, _LONG_ERROR = 240, 600
_STATES = {"waiting": "not begun", "writing": "unfinished", "stopped": "stopped early", "failed": "failed"}
_LEGEND = {SUPPORTED: "in the picture", HALLUCINATED: "hallucinated: not in the picture"}
_UNKNOWN = "It is not known what the picture shows, so no word is marked."


@dataclass(frozen=True, slots=True)
class _Card:
    """One column as a card: the answer at the top, its cost at the bottom."""

    top: tuple[Paragraph, ...]
    bottom: tuple[Paragraph, ...]

    def draw(self, canvas: ImageDraw.ImageDraw, box: tuple[int, int, int, int], foot: int) -> None:
        """Draw the card; `foot` is the height of the cost, equal for all cards of a row."""
        left, top, right, bottom = box
        canvas.rectangle((left, top, right - 1, bottom - 1), fill=_CARD)
        _draw(canvas, self.top, left + _PADDING, top + _PADDING)
        cost = bottom - _PADDING - foot
        canvas.line((left + _PADDING, cost - _GAP, right - _PADDING - 1, cost - _GAP), fill=_LINE)
        _draw(canvas, self.bottom, left + _PADDING, cost)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Layout: the cards are beside the photo under the prompt, or below both.

    Attributes:
        head: The prompt and its settings.
        cards: The cards, in order.
        across: Number of cards in a row.
        left: Left edge of the cards in pixels.
        photo: Width and height of the photo in pixels.
        beside: Whether the cards are beside the photo.
    """

    head: tuple[Paragraph, ...]
    cards: tuple[_Card, ...]
    across: int
    left: int
    photo: tuple[int, int]
    beside: bool

    @property
    def top(self) -> int:
        """Upper edge of the cards in pixels."""
        head = _stack_height(self.head)
        return MARGIN + _GUTTER + (head if self.beside else max(head, self.photo[1]))

    @property
    def width(self) -> int:
        """Width of a card in pixels."""
        return _card_width(self.left, self.across)

    @property
    def rows(self) -> list[tuple[tuple[_Card, ...], int, int]]:
        """The cards of each row, the height of the row, and the height of its costs."""
        rows = [self.cards[start : start + self.across] for start in range(0, len(self.cards), self.across)]
        feet = [max(_stack_height(card.bottom) for card in row) for row in rows]
        heads = [max(_stack_height(card.top) for card in row) for row in rows]
        return [
            (row, head + foot + 2 * _PADDING + 3 * _GAP + 1, foot)
            for row, head, foot in zip(rows, heads, feet, strict=True)
        ]

    @property
    def bottom(self) -> int:
        """Lower edge of cards and photo in pixels."""
        cards = self.top + sum(height + _GUTTER for _, height, _ in self.rows) - _GUTTER
        return max(cards, MARGIN + self.photo[1])


def poster(
    image: Image.Image,
    setup: Setup,
    columns: Sequence[Column],
    present: Collection[str] | None,
    model: str,
    tokenizer: Any,
) -> Image.Image:
    """Draw a comparison, `WIDTH` pixels wide and as high as needed.

    Args:
        image: The picture.
        setup: The set-up.
        columns: The answers.
        present: Objects in the picture; None: not known, and no word is marked.
        model: Name of the model that answered.
        tokenizer: Tokenizer of the model.
    """
    words = [
        () if column.answer is None else pieces(tokenizer, column.answer, present, absent=setup.absent)
        for column in columns
    ]
    choices = [_layout(image, setup, columns, words, beside) for beside in (True, False)]
    layout = min(choices, key=lambda choice: (choice.width < _NARROW, choice.bottom))
    legend = _legend({piece.kind for column in words for piece in column}, truth_known=present is not None)
    footer = plain(f"mmhall {__version__}, {model}", _inner_width(), _SMALL, ink=GREY)
    one_line = legend.width + footer.width + 3 * _GUTTER <= _inner_width()
    feet = max(legend.height, footer.height) if one_line else legend.height + footer.height
    canvas_image = Image.new("RGB", (WIDTH, layout.bottom + _GUTTER + feet + MARGIN), "white")
    canvas = ImageDraw.Draw(canvas_image)
    canvas_image.paste(image.convert("RGB").resize(layout.photo, Image.Resampling.LANCZOS), (MARGIN, MARGIN))
    _draw(canvas, layout.head, MARGIN + layout.photo[0] + _GUTTER, MARGIN)
    _draw_cards(canvas, layout)
    at = layout.bottom + _GUTTER
    legend.draw(canvas, MARGIN, at)
    footer.draw(canvas, WIDTH - MARGIN - footer.width, at if one_line else at + legend.height)
    return canvas_image


def _layout(
    image: Image.Image, setup: Setup, columns: Sequence[Column], words: Sequence[Sequence[Piece]], beside: bool
) -> _Layout:
    scale = min(_PHOTO / image.width, (_HIGH if beside else _LOW) / image.height)
    photo = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    left = MARGIN + photo[0] + _GUTTER if beside else MARGIN
    across = 2 if len(columns) == 4 else len(columns)
    width = _card_width(left, across) - 2 * _PADDING
    cards = [
        _card(column, columns[0], column_words, width, setup.max_new_tokens)
        for column, column_words in zip(columns, words, strict=True)
    ]
    return _Layout(_head(setup, _inner_width() - photo[0] - _GUTTER), tuple(cards), across, left, photo, beside)


def _card_width(left: int, across: int) -> int:
    return (WIDTH - MARGIN - left - _GUTTER * (across - 1)) // across


def _inner_width() -> int:
    return WIDTH - 2 * MARGIN


def _head(setup: Setup, width: int) -> tuple[Paragraph, ...]:
    short = len(setup.prompt) <= _LONG_PROMPT
    sampling = (
        f"sampled at temperature {setup.temperature:g}, seed {setup.seed}" if setup.temperature else "not sampled"
    )
    return (
        plain(setup.prompt, width, _TITLE if short else _SMALL, bold=short),
        plain(f"{sampling}, at most {setup.max_new_tokens} tokens", width, _SMALL, ink=GREY),
    )


def _card(column: Column, first: Column, words: Sequence[Piece], width: int, max_tokens: int) -> _Card:
    top, answer = [plain(column.strategy, width, _NAME, bold=True)], column.answer
    if answer is not None and answer.strategy != column.strategy:
        top.append(plain(answer.strategy, width, _SMALL, ink=GREY))
    state = _STATES.get(column.state, "")
    if answer is not None and answer.stopped_by == "length":
        state = f"cut off at {max_tokens} tokens"
    if state:
        top.append(tag(state, width, _SMALL))
    if column.error:
        top.append(plain(_shorten(column.error), width, _SMALL))
    text = to_fragments(words) if words else [Fragment(part) for part in ([column.text] if column.text else [])]
    if text:
        top.append(Paragraph(wrap(text, width, font(_BODY)), _BODY))
    return _Card(tuple(top), _costs(column, first, words, width))


def _costs(column: Column, first: Column, words: Sequence[Piece], width: int) -> tuple[Paragraph, ...]:
    figures = [f"{column.seconds:.2f} s", f"{column.tokens} tokens"]
    if column.rate is not None:
        figures.append(f"{column.rate:.3g} tokens/s")
    spent = " · ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in figures)
    times = time_ratio(column, first)
    if times is not None and column is not first:
        spent += f"\n{times:.2f}× the time per token"
    costs = plain(spent, width, _SMALL, ink=GREY)
    objects = {kind: {piece.object for piece in words if piece.kind == kind} for kind in (SUPPORTED, HALLUCINATED)}
    if not any(objects.values()):
        return (costs,)
    counted = ", ".join(f"{len(names)} {kind}" for kind, names in objects.items())
    return plain(f"Objects: {counted}", width, _SMALL, bold=True), costs


def _legend(kinds: Collection[str], *, truth_known: bool) -> Paragraph:
    if not truth_known:
        return plain(_UNKNOWN, _inner_width(), _SMALL, ink=GREY)
    parts = list[Fragment]()
    for kind, meaning in _LEGEND.items():
        if kind in kinds:
            parts += [Fragment("object", kind, last=True), Fragment(f"  {meaning}          ")]
    return Paragraph(wrap(parts, _inner_width(), font(_SMALL)), _SMALL)


def _shorten(text: str) -> str:
    return text if len(text) <= _LONG_ERROR else text[: _LONG_ERROR - 1] + "…"


def _stack_height(parts: Sequence[Paragraph]) -> int:
    return sum(part.height for part in parts) + _GAP * (len(parts) - 1)


def _draw(canvas: ImageDraw.ImageDraw, parts: Sequence[Paragraph], x: int, y: int) -> None:
    for part in parts:
        part.draw(canvas, x, y)
        y += part.height + _GAP


def _draw_cards(canvas: ImageDraw.ImageDraw, layout: _Layout) -> None:
    top = layout.top
    for row, height, foot in layout.rows:
        for place, card in enumerate(row):
            left = layout.left + place * (layout.width + _GUTTER)
            card.draw(canvas, (left, top, left + layout.width, top + height), foot)
        top += height + _GUTTER
