"""POPE-style questions about single objects: the answer of each strategy, and its probability of yes.

Answer and probability may differ for strategies that search beyond the first token. Questions are asked in small
batches, which fit a large model and can be stopped in between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from mmhall.benchmarks.data.pope_wording import question_about
from mmhall.benchmarks.rules.yesno import Label, parse_strict
from mmhall.benchmarks.scenes.world import PARTNERS
from mmhall.demo.failures import as_model_errors
from mmhall.display.marks import canonical_name, is_present
from mmhall.errors import MmhallError, OptionError
from mmhall.words import decode_answer, tokenize_answer

if TYPE_CHECKING:
    from mmhall.lvlm import LVLM
    from mmhall.strategies import Strategy

MOST = 10
COMMON = ("person", "chair", "car", "dining table", "cup", "bottle", "bowl", "truck", "bench", "backpack")
"""Frequent COCO objects, for pictures without known objects."""

_TOKENS = 8
_MIN_ABSENT = 3
_BATCH, _ROWS = 4, 16  # maximum number of objects and of hypotheses in a batch


@dataclass(frozen=True, slots=True)
class Cell:
    """Answer of one strategy about one object.

    Attributes:
        text: The answer.
        label: The answer as yes or no; None: neither.
        probability: Probability of yes against no as the first token; None: yes or no is not one token.
        right: Whether the answer is right; None: not known.
    """

    text: str
    label: Label | None
    probability: float | None
    right: bool | None


@dataclass(frozen=True, slots=True)
class ProbeColumn:
    """Answers of one strategy.

    Attributes:
        strategy: Specification, as requested.
        searches: Whether the strategy searches beyond the first token.
        state: "waiting", "asking", "done", "stopped" or "failed".
        cells: Answers so far, one for each object.
        error: Reason of a failure.
    """

    strategy: str
    searches: bool
    state: str = "waiting"
    cells: tuple[Cell, ...] = ()
    error: str = ""

    @property
    def judged(self) -> int:
        """Number of answers that are right or wrong, where the truth is known."""
        return sum(cell.right is not None for cell in self.cells)

    @property
    def right(self) -> int:
        """Number of right answers."""
        return sum(cell.right is True for cell in self.cells)

    @property
    def yes_ratio(self) -> float | None:
        """Fraction of answers that are yes; None before the first answer."""
        return sum(cell.label == "yes" for cell in self.cells) / len(self.cells) if self.cells else None


@dataclass(frozen=True, slots=True)
class ProbeTable:
    """Table of answers so far.

    Attributes:
        objects: Names of the objects.
        present: Whether each object is in the picture; None: not known.
        columns: One for each strategy.
    """

    objects: tuple[str, ...]
    present: tuple[bool | None, ...]
    columns: tuple[ProbeColumn, ...]


def probe(
    lvlm: LVLM,
    image: Image.Image,
    objects: Sequence[str],
    strategies: Sequence[Strategy],
    present: Collection[str] | None,
    absent: Collection[str] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[ProbeTable]:
    """Ask every strategy whether each object is in the picture; yields the table first empty, then as it grows.

    The column of a strategy that fails holds the reason; the others go on.

    Args:
        lvlm: The model.
        image: RGB.
        objects: Names of the objects.
        strategies: One for each column.
        present: Objects in the picture, by name or synonym ("sofa" for "couch"); None: not known.
        absent: Objects that are not in it; None: all others of the vocabulary, if `present` is known.
        should_stop: Called before every batch; True: stop, and keep the answers so far.
    """
    truth = tuple(is_present(name, present, absent) for name in objects)
    columns = [_empty_column(method) for method in strategies]
    yield ProbeTable(tuple(objects), truth, tuple(columns))
    requests = [(image, question_about(name, "official")) for name in objects]
    for index, method in enumerate(strategies):
        for columns[index] in _ask(lvlm, requests, method, truth, should_stop):
            yield ProbeTable(tuple(objects), truth, tuple(columns))


def default_objects(present: Collection[str] | None, named: Sequence[str] = ()) -> tuple[str, ...]:
    """Choose objects to ask about: present objects, and as many likely but absent objects.

    Args:
        present: Objects in the picture; None: not known.
        named: Objects that answers name; absent ones among them, which are hallucinated, come first.

    Returns:
        At most `MOST` names.
    """
    shown = list(dict.fromkeys(present or ()))[: MOST // 2]
    partners = sorted(((-weight, other) for name in shown for other, weight in PARTNERS.get(name, {}).items()))
    likely = dict.fromkeys((*named, *(other for _, other in partners), *COMMON))
    names = {canonical_name(name) for name in present or ()}
    absent = [name for name in likely if canonical_name(name) not in names]
    if present is None:
        return tuple(absent[: max(2 * len(named), 2 * _MIN_ABSENT)][:MOST])
    return (*shown, *absent[: max(len(shown), _MIN_ABSENT)])


def as_data(table: ProbeTable, tokenizer: Any) -> dict[str, Any]:
    """Return a table as data for JSON; `unknown_words` are the objects that the tokenizer cannot write."""
    return {
        "unknown_words": [name for name in table.objects if not _is_written(tokenizer, name)],
        "objects": [{"name": name, "present": shown} for name, shown in zip(table.objects, table.present, strict=True)],
        "strategies": [
            {
                "strategy": column.strategy,
                "state": column.state,
                "error": column.error,
                "searches": column.searches,
                "answers": [
                    {
                        "object": name,
                        "says": cell.label,
                        "text": cell.text,
                        "yes_probability": cell.probability,
                        "right": cell.right,
                    }
                    for name, cell in zip(table.objects, column.cells, strict=False)
                ],
                "right": column.right,
                "known": column.judged,
                "yes_ratio": column.yes_ratio,
            }
            for column in table.columns
        ],
    }


def _is_written(tokenizer: Any, name: str) -> bool:
    """Return whether a tokenizer writes a name back as it was read, without unknown tokens."""
    ids = tokenize_answer(tokenizer, name)
    if getattr(tokenizer, "unk_token_id", None) in ids:
        return False
    return "".join(decode_answer(tokenizer, ids).split()).casefold() == "".join(name.split()).casefold()


def _empty_column(method: Strategy) -> ProbeColumn:
    return ProbeColumn(str(method), method.searches or method.beams > 1)


def _ask(
    lvlm: LVLM,
    requests: Sequence[tuple[Image.Image, str]],
    method: Strategy,
    truth: Sequence[bool | None],
    should_stop: Callable[[], bool],
) -> Iterator[ProbeColumn]:
    """Ask one strategy, batch by batch; yields its column as it grows."""
    column, size = _empty_column(method), max(1, min(_BATCH, _ROWS // method.beams))
    for start in range(0, len(requests), size):
        column = replace(column, state="asking")
        yield column
        if should_stop():
            yield replace(column, state="stopped")
            return
        part = slice(start, start + size)
        try:
            with as_model_errors():
                cells = _cells(lvlm, requests[part], method, truth[part])
        except MmhallError as error:
            yield replace(column, state="failed", error=str(error))
            return
        column = replace(column, cells=(*column.cells, *cells))
    yield replace(column, state="done")


def _cells(
    lvlm: LVLM, requests: Sequence[tuple[Image.Image, str]], method: Strategy, truth: Sequence[bool | None]
) -> tuple[Cell, ...]:
    answers = lvlm.generate_batch(requests, method, max_new_tokens=_TOKENS)
    labels = [parse_strict(answer.text) for answer in answers]
    return tuple(
        Cell(answer.text, label, probability, None if shown is None else label == ("yes" if shown else "no"))
        for answer, label, probability, shown in zip(
            answers, labels, _probabilities(lvlm, requests, method), truth, strict=True
        )
    )


def _probabilities(lvlm: LVLM, requests: Sequence[tuple[Image.Image, str]], method: Strategy) -> Sequence[float | None]:
    """Return each question's probability of yes; None if yes or no is not one token, or both are ruled out."""
    try:
        choices = lvlm.choose_batch(requests, ("yes", "no"), strategy=method)
    except OptionError:
        return [None] * len(requests)
    return [choice.probabilities[0] if choice.method == "labels" else None for choice in choices]
