"""HTML of a comparison: every text is escaped, and every mark is also described in words."""

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
_MAX_SIDE = 448  # pixels of the longer side


def columns_html(
    columns: Sequence[Column],
    tokenizer: Any,
    present: Collection[str] | None,
    mode: str | None = None,
    absent: Collection[str] | None = None,
) -> str:
    """Return the columns of a comparison, side by side.

    Args:
        columns: The columns.
        tokenizer: Tokenizer of the model.
        present: Objects in the picture; None: not known.
        mode: `TRUTH`, or the name of one of `SIGNALS`; None: the truth if it is known, else the first signal.
        absent: Objects that are not in it; None: all others.
    """
    mode = resolve_mode(mode, present)
    cut = _cut(columns, tokenizer, present, absent)
    signal = next((index for index, entry in enumerate(SIGNALS) if entry.name == mode), None)
    ends = None if signal is None else signal_range(cut, signal)
    entries = [
        {
            "index": index,
            "strategy": column.strategy,
            "state": column.state,
            "status": _status(column),
            "text": column.text,
            "error": column.error,
            "pieces": [_piece(piece, signal, ends) for piece in cut[index]],
            "facts": _facts(column, columns[0]),
            "verdict": _verdict(cut[index], cut[0], present if signal is None else None) if cut[index] else (),
        }
        for index, column in enumerate(columns)
    ]
    return render("columns.html", columns=entries)


def legend_html(
    columns: Sequence[Column], tokenizer: Any, present: Collection[str] | None, mode: str | None = None
) -> str:
    """Return the legend of the marks on words; "" if there are no marks.

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
    index, signal = next((index, entry) for index, entry in enumerate(SIGNALS) if entry.name == mode)
    ends = signal_range(cut, index)
    if ends is None:
        return notice(f"No {signal.label}", "This model, or a stopped answer, has no such figure.")
    low, high = (_figure(value, signal.unit) for value in ends)
    return render("legend.html", signal=signal, low=low, high=high)


def resolve_mode(mode: str | None, present: Collection[str] | None) -> str:
    """Return the kind of marks to show; without a known truth, the first signal replaces `TRUTH`."""
    if mode in (None, TRUTH):
        return SIGNALS[0].name if present is None else TRUTH
    assert mode is not None
    return mode


def scenes_html(scenes: Sequence[BundledScene]) -> str:
    """Return the bundled scenes as buttons."""
    buttons = [{"image": data_url(scene.scene.image, 160), "alt": scene.alt, "title": scene.title} for scene in scenes]
    return render("scenes.html", scenes=buttons)


def data_url(image: Image.Image, longest: int = _MAX_SIDE) -> str:
    """Return a picture as a data URL, scaled down to at most `longest` pixels on its longer side."""
    small = image.copy()
    small.thumbnail((longest, longest))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _cut(
    columns: Sequence[Column], tokenizer: Any, present: Collection[str] | None, absent: Collection[str] | None = None
) -> list[tuple[Piece, ...]]:
    first = named_objects(columns[0].text, present or ()) if columns else []
    return [
        pieces(tokenizer, column.answer, present, first if index else None, absent) if column.answer is not None else ()
        for index, column in enumerate(columns)
    ]


def _piece(piece: Piece, signal: int | None, ends: tuple[float, float] | None) -> dict[str, Any]:
    """Return text, marks and tool tip of a piece."""
    kind = piece.kind if signal is None else ""
    note = {"hallucinated": "not in the picture"}.get(kind, "")
    value = None if signal is None or not piece.values else piece.values[signal]
    level = None
    if value is not None and ends is not None:
        level = (value - ends[0]) / (ends[1] - ends[0]) if ends[1] > ends[0] else 0.0
    tips = [f"{piece.object}: {'in the picture' if kind == 'supported' else note}"] if kind else []
    tips += ["not named by the first column"] if piece.missing_in_first else []
    tips += [
        f"{entry.label}: {_figure(number, entry.unit)}"
        for entry, number in zip(SIGNALS, piece.values, strict=False)
        if number is not None
    ]
    marks = {kind: bool(kind), "own": piece.missing_in_first, "level": level is not None}
    classes = " ".join(f"mm-{mark}" for mark, applies in marks.items() if applies)
    return {
        "text": piece.text,
        "word": piece.word,
        "classes": classes,
        "note": note,
        "tip": "; ".join(tips),
        "level": level,
        "value": None if value is None or signal is None else _figure(value, SIGNALS[signal].unit),
    }


def _status(column: Column) -> str:
    if column.state == "done" and column.answer is not None:
        return _ENDS.get(column.answer.stopped_by, "")
    return _STATES[column.state]


def _facts(column: Column, first: Column) -> list[tuple[str, str, str]]:
    """Return time, tokens per second and time per token of a column, each with an explanation."""
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
    """Return the summary of an answer: objects made up, named and missing; without truth, only objects it lacks."""
    objects = dict.fromkeys(piece.object for piece in cut if piece.object)
    verdict = []
    if present is not None:
        wrong = dict.fromkeys(piece.object for piece in cut if piece.kind == "hallucinated")
        right = dict.fromkeys(piece.object for piece in cut if piece.kind == "supported")
        unknown = [name for name in objects if name not in wrong and name not in right]
        if wrong:
            verdict.append(("made-up", f"made up: {', '.join(wrong)}"))
        elif objects and not unknown:
            verdict.append(("clean", "no object made up"))
        if unknown:
            verdict.append(("unknown", f"not known: {', '.join(unknown)}"))
        verdict.append(("named", f"{len(right)} of {len(present)} objects named" if objects else "names no object"))
    real = dict.fromkeys(piece.object for piece in first if piece.object and piece.kind != "hallucinated")
    lacking = [name for name in real if name not in objects]
    return [*verdict, ("lacks", f"does not name: {', '.join(lacking)}")] if lacking else verdict


def _figure(value: float, unit: str) -> str:
    return f"{100 * value:.0f} %" if unit == "%" else f"{value:.2f} {unit}"
