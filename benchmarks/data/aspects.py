"""Questions tagged by an aspect, about pairs of pictures that differ in one thing, or about single pictures.

A file has JSON Lines, or a JSON array, of

    {"image": "a.jpg", "aspect": "number", "question": "Are there two dogs in the image?", "answer": "yes"}
    {"image": "b.jpg", "aspect": "colour", "question": "Which colour is the car?", "options": ["red", "blue"],
     "answer": "B"}

Optional fields: `id`; `pair`, the same text in two lines that ask one question about two pictures; `scene`, the same
text for pictures that are not independent, such as those of a pair (else the picture); `change`, in words how the two
pictures of a pair differ. An `answer` is yes or no, or one of the options or its letter.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmhall.benchmarks.data.reading import Record, check_unique, read_records
from mmhall.benchmarks.rules.choices import LETTERS
from mmhall.errors import DataError

LINES = 'JSON Lines such as {"image": "a.jpg", "aspect": "number", "question": "Are there two dogs?", "answer": "yes"}'


@dataclass(frozen=True, slots=True)
class AspectQuestion:
    """One question about one picture.

    Attributes:
        id: Unique.
        image: File name of the picture.
        scene: Questions of one scene are resampled together.
        aspect: What it asks about, such as colour.
        text: The question, without options.
        label: yes or no, or the letter of the right option.
        options: The options; none: yes or no.
        pair: The same for the question about the other picture; "": none.
        change: How the two pictures differ, such as removed; "": not told.
    """

    id: str
    image: str
    scene: str
    aspect: str
    text: str
    label: str
    options: tuple[str, ...] = ()
    pair: str = ""
    change: str = ""


def read_aspects(path: Path, aspects: Collection[str]) -> list[AspectQuestion]:
    """Read questions; see the module.

    Args:
        path: The file.
        aspects: Names of known aspects.

    Raises:
        DataError: The file is missing or malformed, has another aspect, an id twice, or a pair that is none.
    """
    records = read_records(path, LINES)
    questions = [_question(record, number, aspects) for number, record in enumerate(records, 1)]
    check_unique(((record.where, q.id) for record, q in zip(records, questions, strict=True)), "question")
    _check_pairs(records, questions)
    return questions


def _question(record: Record, number: int, aspects: Collection[str]) -> AspectQuestion:
    image, aspect = record.text("image"), record.text("aspect")
    if aspect not in aspects:
        names = " ".join(aspects)
        raise DataError(
            f"{record.where}: the aspect {aspect!r} is none of {names}; use one of them, or name it in the option "
            f"aspects, as in agnosia(aspects='{'_'.join(aspect.split()) or 'material'}')"
        )
    options = tuple(record.texts("options")) if "options" in record.fields else ()
    optional = {name: record.text(name) for name in ("id", "scene", "pair", "change") if name in record.fields}
    return AspectQuestion(
        optional.get("id", str(number)),
        image,
        optional.get("scene", image),
        aspect,
        record.text("question"),
        _label(record, options),
        options,
        optional.get("pair", ""),
        optional.get("change", ""),
    )


def _label(record: Record, options: Sequence[str]) -> str:
    if not options:
        return record.choice("answer", ("yes", "no"))
    if not 2 <= len(options) <= len(LETTERS) or len({option.lower() for option in options}) < len(options):
        raise DataError(f"{record.where}: 'options' must be 2 to {len(LETTERS)} different texts, got {list(options)!r}")
    letters = LETTERS[: len(options)]
    given = record.choice("answer", (*options, *letters))
    return letters[options.index(given)] if given in options else given


def _check_pairs(records: Sequence[Record], questions: Sequence[AspectQuestion]) -> None:
    """Check that a pair asks the same about two pictures of one scene."""
    members: dict[str, list[tuple[Record, AspectQuestion]]] = {}
    for record, question in zip(records, questions, strict=True):
        if question.pair:
            members.setdefault(question.pair, []).append((record, question))
    for name, pair in members.items():
        where = pair[0][0].where
        if len(pair) != 2:
            raise DataError(f"{where}: the pair {name!r} has {len(pair)} questions; a pair has 2")
        first, second = (question for _, question in pair)
        for field in ("text", "aspect", "options", "scene"):
            a, b = getattr(first, field), getattr(second, field)
            if a != b:
                told = {"text": "question"}.get(field, field)
                hint = "; give both the same field scene" if field == "scene" else ""
                raise DataError(f"{where}: the pair {name!r} has two values of {told}: {a!r} and {b!r}{hint}")
        if first.image == second.image:
            raise DataError(f"{where}: the pair {name!r} asks twice about {first.image}; it needs two pictures")
