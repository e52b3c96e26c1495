"""Typesetting of marked text in a picture: lines wrapped between words, at most as wide as requested."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from pathlib import Path

import matplotlib
from PIL import ImageDraw, ImageFont

from mmhall.demo.words import Piece
from mmhall.text import printable

INK, GREY = "#1b1f24", "#59636e"
BLUE, VERMILLION, TINT = "#0072b2", "#d55e00", "#fbe2d0"
SUPPORTED, HALLUCINATED = "supported", "hallucinated"
_CROSS, _DASH, _INSET = "✗", 5, 10
_BREAK = re.compile(r"\n|[ \t]+|[^ \t\n]{1,100}")  # measuring a word of thousands of letters at once is slow


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib; Pillow's own font covers ASCII only."""
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece of text with one mark.

    Attributes:
        text: The text; within a line it has no newline.
        kind: "supported", "hallucinated" or "", as in `mmhall.demo.words.Piece`.
        last: Whether it is the end of a marked object.
    """

    text: str
    kind: str = ""
    last: bool = False

    def width(self, face: ImageFont.FreeTypeFont) -> float:
        """Return the width in pixels, including the cross after a hallucinated object."""
        return face.getlength(self.text) + (_cross_width(face) if self.has_cross else 0)

    @property
    def has_cross(self) -> bool:
        """Whether a cross follows: it is the end of a hallucinated object."""
        return self.last and self.kind == HALLUCINATED


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Wrapped text.

    Attributes:
        lines: Fragments of each line.
        size: Font size in pixels.
        bold: Whether the text is bold.
        ink: Text colour.
        ground: Colour of a box behind the text; "": no box.
    """

    lines: tuple[tuple[Fragment, ...], ...]
    size: int
    bold: bool = False
    ink: str = INK
    ground: str = ""

    @property
    def height(self) -> int:
        """Height in pixels."""
        return len(self.lines) * self._step

    @property
    def width(self) -> float:
        """Width of the longest line in pixels."""
        face = font(self.size, self.bold)
        return max((sum(part.width(face) for part in line) for line in self.lines), default=0.0)

    def draw(self, canvas: ImageDraw.ImageDraw, x: float, y: float) -> None:
        """Draw the paragraph with its upper left corner at (x, y)."""
        face = font(self.size, self.bold)
        if self.ground:
            canvas.rectangle((x, y, x + self.width + 2 * _INSET, y + self.height), fill=self.ground)
            x += _INSET
        for number, line in enumerate(self.lines):
            at, baseline = x, y + number * self._step + round(1.08 * self.size)
            for part in line:
                _draw(canvas, part, (at, baseline), face, self.ink)
                at += part.width(face)

    @property
    def _step(self) -> int:
        return round(1.5 * self.size)


def plain(text: str, width: float, size: int, *, bold: bool = False, ink: str = INK) -> Paragraph:
    """Wrap text without marks.

    Args:
        text: The text.
        width: Maximum width in pixels.
        size: Font size in pixels.
        bold: Whether the text is bold.
        ink: Text colour.
    """
    return Paragraph(wrap([Fragment(printable(text))], width, font(size, bold)), size, bold, ink)


def tag(text: str, width: float, size: int) -> Paragraph:
    """Wrap a short text, white on grey; arguments as for `plain`."""
    return replace(plain(text, width - 2 * _INSET, size, bold=True, ink="white"), ground=GREY)


def to_fragments(cut: Sequence[Piece]) -> list[Fragment]:
    """Convert pieces of an answer to fragments; the words of one object, and blanks between them, share one mark."""
    marked = list[Fragment]()
    for index, piece in enumerate(cut):
        after = cut[index + 1 : index + 3]
        continues = len(after) == 2 and after[0].text.isspace() and _same_object(piece, after[1])
        between = 0 < index < len(cut) - 1 and piece.text.isspace() and _same_object(cut[index - 1], cut[index + 1])
        kind = cut[index - 1].kind if between else piece.kind
        marked.append(Fragment(printable(piece.text), kind, bool(piece.kind) and not continues))
    return marked


def wrap(parts: Sequence[Fragment], width: float, face: ImageFont.FreeTypeFont) -> tuple[tuple[Fragment, ...], ...]:
    """Break fragments into lines, between words if possible; a word wider than a line is broken anywhere.

    Args:
        parts: The text.
        width: Maximum width in pixels.
        face: The font.
    """
    lines = list[tuple[Fragment, ...]]()
    line, room = list[Fragment](), width
    for chunk in _chunks(parts):
        if chunk[0].text == "\n":
            lines.append(_trim(line))
            line, room = [], width
            continue
        if _exceeds(chunk, room, face) and not chunk[0].text.isspace() and line:
            lines.append(_trim(line))
            line, room = [], width
        while _exceeds(chunk, room, face) and not chunk[0].text.isspace():
            head, chunk = _split_chunk(chunk, width, face)
            lines.append(head)
        if line or not (chunk and chunk[0].text.isspace()):
            line += chunk
            room -= _width(chunk, face)
    return (*lines, _trim(line)) if _trim(line) else tuple(lines)


def _same_object(first: Piece, second: Piece) -> bool:
    return bool(first.kind) and (first.kind, first.object) == (second.kind, second.object)


def _chunks(parts: Sequence[Fragment]) -> list[list[Fragment]]:
    """Split fragments into newlines, blanks, and words with adjacent marks; the parts of a word stay together."""
    chunks = list[list[Fragment]]()
    for part in parts:
        pieces = _BREAK.findall(part.text)
        for number, text in enumerate(pieces):
            text = text.replace("\t", "    ")
            piece = replace(part, text=text, last=part.last and number == len(pieces) - 1)
            if chunks and not text.isspace() and not chunks[-1][0].text.isspace():
                chunks[-1].append(piece)
            else:
                chunks.append([piece])
    return chunks


def _split_chunk(
    chunk: Sequence[Fragment], width: float, face: ImageFont.FreeTypeFont
) -> tuple[tuple[Fragment, ...], list[Fragment]]:
    """Split a chunk into the part that fits in a line, at least one letter, and the rest."""
    head, room = list[Fragment](), width
    for index, part in enumerate(chunk):
        if part.width(face) <= room:
            head.append(part)
            room -= part.width(face)
            continue
        low, high = 0, len(part.text) - (1 if part.has_cross else 0)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if face.getlength(part.text[:middle]) <= room else (low, middle - 1)
        if not low and not head and len(part.text) == 1:
            return (part,), list(chunk[index + 1 :])
        low = low if low or head else 1
        if low:
            head.append(replace(part, text=part.text[:low], last=False))
        return tuple(head), [replace(part, text=part.text[low:]), *chunk[index + 1 :]]
    return tuple(head), []


def _trim(line: Sequence[Fragment]) -> tuple[Fragment, ...]:
    end = len(line)
    while end and line[end - 1].text.isspace():
        end -= 1
    return tuple(line[:end])


def _width(parts: Sequence[Fragment], face: ImageFont.FreeTypeFont) -> float:
    return sum(part.width(face) for part in parts)


def _exceeds(parts: Sequence[Fragment], room: float, face: ImageFont.FreeTypeFont) -> bool:
    return any(total > room for total in accumulate(part.width(face) for part in parts))


def _cross_width(face: ImageFont.FreeTypeFont) -> float:
    return face.getlength(_CROSS) + 4


def _draw(
    canvas: ImageDraw.ImageDraw, part: Fragment, at: tuple[float, float], face: ImageFont.FreeTypeFont, ink: str
) -> None:
    x, baseline = at
    end, size = x + part.width(face), face.size
    under = baseline + round(0.26 * size)
    if part.kind == HALLUCINATED:
        canvas.rectangle((round(x) - 2, baseline - round(0.95 * size), round(end) + 1, under + 1), fill=TINT)
        for dash in range(round(x) // _DASH, round(end) // _DASH + 1):
            if dash % 2 == 0:
                left, right = max(dash * _DASH, round(x) - 2), min(dash * _DASH + _DASH, round(end) + 1)
                canvas.rectangle((left, under - 1, max(left, right), under + 1), fill=VERMILLION)
    elif part.kind == SUPPORTED:
        canvas.rectangle((round(x), under - 1, round(end) - 1, under + 1), fill=BLUE)
    canvas.text((x, baseline), part.text, fill=ink, font=face, anchor="ls")
    if part.has_cross:
        canvas.text((end, baseline), _CROSS, fill=VERMILLION, font=face, anchor="rs")
