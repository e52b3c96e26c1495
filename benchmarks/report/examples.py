"""Examples: the items on which strategies disagree most, with their answers, right and wrong spans marked."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmhall.benchmarks.base import Benchmark, Item
from mmhall.benchmarks.run.runs import Part, Run
from mmhall.errors import ImageError
from mmhall.images import open_image

MOST = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """A span of an answer; `kind` is "right", "wrong" or "" for plain text."""

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Example:
    """One item with the answers of all strategies.

    Attributes:
        picture: Picture as a data URL; "" if there is none or it cannot be opened.
        prompt: Prompt of the item.
        truth: Truth of the item, as short text.
        answers: Strategy and pieces of its answer.
    """

    picture: str
    prompt: str
    truth: str
    answers: tuple[tuple[str, tuple[Piece, ...]], ...]


def examples(run: Run, part: Part) -> list[Example]:
    """Return the items of a benchmark whose answers differ most in their number of wrong spans."""
    texts: dict[str, dict[str, str]] = {}
    for row in run.rows(part):
        if row.error is None and row.strategy in run.arms:
            texts.setdefault(row.item, {})[row.strategy] = row.text
    complete = [item for item in part.items if len(texts.get(item.id, {})) == len(run.arms)]
    ranked = [(_spread(part.benchmark, item, list(texts[item.id].values())), item) for item in complete]
    chosen = sorted((one for one in ranked if one[0]), key=lambda one: -one[0])[:MOST]
    return [
        Example(
            data_url(part.picture(item)),
            item.prompt,
            _truth(item),
            tuple((s, tuple(pieces(part.benchmark, item, texts[item.id][s]))) for s in run.arms),
        )
        for _, item in chosen
    ]


def pieces(benchmark: Benchmark, item: Item, text: str) -> Sequence[Piece]:
    """Cut an answer into plain, right and wrong spans."""
    cut, at = [], 0
    for start, end, right in benchmark.mark(item, text):
        cut += [Piece(text[at:start], ""), Piece(text[start:end], "right" if right else "wrong")]
        at = end
    return [piece for piece in (*cut, Piece(text[at:], "")) if piece.text]


def _spread(benchmark: Benchmark, item: Item, texts: Sequence[str]) -> int:
    wrong = [sum(not right for *_, right in benchmark.mark(item, text)) for text in texts]
    return max(wrong) - min(wrong)


def _truth(item: Item) -> str:
    truth = item.truth.get("objects", item.truth.get("label", ""))
    return ", ".join(map(str, truth)) if isinstance(truth, list | tuple) else str(truth)


def data_url(path: Path | None, side: int = 448, kind: Literal["png", "jpeg"] = "png") -> str:
    """Return a picture as a data URL, at most `side` pixels high and wide; "" if it cannot be opened."""
    try:
        image = None if path is None else open_image(path)
    except ImageError:
        return ""
    if image is None:
        return ""
    image.thumbnail((side, side))
    written = io.BytesIO()
    image.save(written, kind)
    return f"data:image/{kind};base64," + base64.b64encode(written.getvalue()).decode()
