"""What the page shows of a comparison, as HTML: every text escaped, every mark told in words too."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Sequence
from typing import Any

from PIL import Image

from mmhall.demo.compare import Column, time_ratio
from mmhall.demo.rendering import notice, render
from mmhall.demo.scenes import BundledScene
from mmhall.demo.words import SIGNALS, TRUTH, Piece, named_objects, pieces, signal_range

_STATES = {
    "waiting": "waiting for its turn",
    "writing": "writing …",
    "done": "",
    "stopped": "stopped",
    "failed": "failed",
}
_ENDS = {"length": "cut off: the most tokens it may have", "stopped": "stopped"}
_SHOWN = 448  # pixels of the longer side


def columns_html(
    columns: Sequence[Column],
    tokenizer: Any,
    present: Collection[str] | None,
    mode: str | None = None,
    absent: Collection[str] | None = None,
) -> str:
    """Show the columns of a comparison side by side.

    Args:
        columns: As they are now.
        tokenizer: Of the model.
        present: Objects in the picture; None: not known.
        mode: `TRUTH`, or the name of one of `SIGNALS`; None: the truth where it is known, else the first signal.
        absent: Objects that are not in it; None: all others.
    """
    mode = resolve_mode(mode, present)
    cut = _cut(columns, tokenizer, present, absent)
    signal = next((index for index, one in enumerate(SIGNALS) if one.name == mode), None)
    ends = None if signal is None else signal_range(cut, signal)
    shown = [
        {
            "index": index,
            "strategy": column.strategy,
            "state": column.state,
            "told": _told(column),
            "text": column.text,
            "error": column.error,
            "pieces": [_piece(piece, signal, ends) for piece in cut[index]],
            "facts": _facts(column, columns[0]),
            "verdict": _verdict(cut[index], cut[0], present if signal is None else None) if cut[index] else (),
        }
        for index, column in enumerate(columns)
    ]
    return render("columns.html", columns=shown)


def legend_html(
    columns: Sequence[Column], tokenizer: Any, present: Collection[str] | None, mode: str | None = None
) -> str:
    """Explain the marks on the words; "" while there are none.

    Args:
        columns: As in `columns_html`.
        tokenizer: As in `columns_html`.
        present: As in `columns_html`.
        mode: As in `columns_html`.
    """
    mode = resolve_mode(mode, present)
    cut = _cut(columns, tokenizer, present)
    if not any(cut):
        return ""
    if mode == TRUTH:
        return render("legend.html", signal=None, several=len(columns) > 1)
    index, signal = next((index, one) for index, one in enumerate(SIGNALS) if one.name == mode)
    ends = signal_range(cut, index)
    if ends is None:
        return notice(f"No {signal.label}", "This model, or a stopped answer, has no such figure.")
    low, high = (_figure(value, signal.unit) for value in ends)
    return render("legend.html", signal=signal, low=low, high=high)


def resolve_mode(mode: str | None, present: Collection[str] | None) -> str:
    """Return the marks to show: the ones asked for, as far as they are known."""
    if mode in (None, TRUTH):
        return SIGNALS[0].name if present is None else TRUTH
    assert mode is not None
    return mode


def scenes_html(scenes: Sequence[BundledScene]) -> str:
    """Show the scenes that come with the page, as buttons."""
    told = [{"image": data_url(one.scene.image, 160), "alt": one.alt, "title": one.title} for one in scenes]
    return render("scenes.html", scenes=told)


def data_url(image: Image.Image, longest: int = _SHOWN) -> str:
    """Return a picture as a data URL, at most so many pixels on its longer side."""
    small = image.copy()
    small.thumbnail((longest, longest))
    written = io.BytesIO()
    small.save(written, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(written.getvalue()).decode()


def _cut(
    columns: Sequence[Column], tokenizer: Any, present: Collection[str] | None, absent: Collection[str] | None = None
) -> list[tuple[Piece, ...]]:
    first = named_objects(columns[0].text, present or ()) if columns else []
    return [
        pieces(tokenizer, column.answer, present, first if index else None, absent) if column.answer is not None else ()
        for index, column in enumerate(columns)
    ]


def _piece(piece: Piece, signal: int | None, ends: tuple[float, float] | None) -> dict[str, Any]:
    """Say how a stretch is marked."""
    kind = piece.kind if signal is None else ""
    told = {"hallucinated": "not in the picture"}.get(kind, "")
    value = None if signal is None or not piece.values else piece.values[signal]
    level = None
    if value is not None and ends is not None:
        level = (value - ends[0]) / (ends[1] - ends[0]) if ends[1] > ends[0] else 0.0
    tips = [f"{piece.object}: {'in the picture' if kind == 'supported' else told}"] if kind else []
    tips += ["not named by the first column"] if piece.missing_in_first else []
    tips += [
        f"{one.label}: {_figure(v, one.unit)}" for one, v in zip(SIGNALS, piece.values, strict=False) if v is not None
    ]
    marks = {kind: bool(kind), "own": piece.missing_in_first, "level": level is not None}
    classes = " ".join(f"mm-{mark}" for mark, applies in marks.items() if applies)
    return {
        "text": piece.text,
        "word": piece.word,
        "classes": classes,
        "told": told,
        "tip": "; ".join(tips),
        "level": level,
        "value": None if value is None or signal is None else _figure(value, SIGNALS[signal].unit),
    }


def _told(column: Column) -> str:
    if column.state == "done" and column.answer is not None:
        return _ENDS.get(column.answer.stopped_by, "")
    return _STATES[column.state]


def _facts(column: Column, first: Column) -> list[tuple[str, str, str]]:
    """Return time, rate and ratio of a column, each with a hint."""
    if not column.steps and column.answer is None:
        return []
    prefill_hint = f"Of this column's own steps; {column.prefill_seconds:.2f} s of it to read picture and prompt"
    facts = [("time", f"{column.seconds:.2f} s", prefill_hint)]
    if column.rate is not None:
        rate = f"{column.rate:.0f}" if column.rate >= 10 else f"{column.rate:.1f}"
        facts.append(("tokens per second", rate, "Once the prompt is read; tokens are pieces of words"))
    compared = time_ratio(column, first)
    if column is not first and compared is not None:
        hint = "Compared with the first column, once the prompt is read: roughly, it is one answer"
        facts.append(("time per token", f"{compared:.1f}×", hint))
    return facts


def _verdict(cut: Sequence[Piece], first: Sequence[Piece], present: Collection[str] | None) -> list[tuple[str, str]]:
    """Sum up what an answer names; against what is present, where that is to be told."""
    objects = dict.fromkeys(piece.object for piece in cut if piece.object)
    told = []
    if present is not None:
        wrong = dict.fromkeys(piece.object for piece in cut if piece.kind == "hallucinated")
        right = dict.fromkeys(piece.object for piece in cut if piece.kind == "supported")
        unknown = [name for name in objects if name not in wrong and name not in right]
        if wrong:
            told.append(("made-up", f"made up: {', '.join(wrong)}"))
        elif objects and not unknown:
            told.append(("clean", "no object made up"))
        if unknown:
            told.append(("unknown", f"not known: {', '.join(unknown)}"))
        told.append(("named", f"{len(right)} of {len(present)} objects named" if objects else "names no object"))
    real = dict.fromkeys(piece.object for piece in first if piece.object and piece.kind != "hallucinated")
    lacking = [name for name in real if name not in objects]
    return [*told, ("lacks", f"does not name: {', '.join(lacking)}")] if lacking else told


def _figure(value: float, unit: str) -> str:
    return f"{100 * value:.0f} %" if unit == "%" else f"{value:.2f} {unit}"
