"""Objects asked about one by one, as POPE does: what each strategy says, and how probable it finds yes.

What is said and the probability may differ: a strategy that searches looks further than its first token. A few objects
are asked about at a time, so that a large model has room for them, and whoever waits may stop in between.
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
from mmhall.demo.rendering import render
from mmhall.demo.words import canonical_name
from mmhall.errors import MmhallError, OptionError

if TYPE_CHECKING:
    from mmhall.lvlm import LVLM
    from mmhall.strategies import Strategy

MOST = 10
COMMON = ("person", "chair", "car", "dining table", "cup", "bottle", "bowl", "truck", "bench", "backpack")
"""Frequent objects of COCO, asked about where nothing else is known."""

_TOKENS = 8
_LEAST = 3
_AT_ONCE, _ROWS = 4, 16  # objects of one batch, and hypotheses of one


@dataclass(frozen=True, slots=True)
class Cell:
    """What one strategy has to say of one object.

    Attributes:
        text: Its answer.
        said: How it is read; None: neither yes nor no.
        probability: Of yes rather than no as the first token; None: this model's tokens cannot tell.
        right: Whether that is so; None: nobody knows.
    """

    text: str
    said: Label | None
    probability: float | None
    right: bool | None


@dataclass(frozen=True, slots=True)
class ProbeColumn:
    """One strategy's answers.

    Attributes:
        strategy: As it was asked for.
        searches: Whether it looks further than its first token.
        state: "waiting", "asking", "done", "stopped" or "failed".
        cells: One for each object asked about so far.
        error: Why it failed.
    """

    strategy: str
    searches: bool
    state: str = "waiting"
    cells: tuple[Cell, ...] = ()
    error: str = ""

    @property
    def known(self) -> int:
        """Answers that can be told right from wrong."""
        return sum(cell.right is not None for cell in self.cells)

    @property
    def right(self) -> int:
        """Right ones among them."""
        return sum(cell.right is True for cell in self.cells)

    @property
    def yes_ratio(self) -> float | None:
        """Share of answers that are yes; None before there are any."""
        return sum(cell.said == "yes" for cell in self.cells) / len(self.cells) if self.cells else None


@dataclass(frozen=True, slots=True)
class ProbeTable:
    """The table so far.

    Attributes:
        objects: What is asked about.
        present: Whether each is in the picture; None: not known.
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
    """Ask every strategy whether each object is there; yields the table at the start and whenever it has grown.

    A strategy that fails leaves its column with the reason; the others go on.

    Args:
        lvlm: The model.
        image: RGB.
        objects: Names.
        strategies: One a column.
        present: Objects in the picture; None: not known. A synonym is as good as a name: a sofa is a couch.
        absent: Objects that are not; None: all others, if it is known what is there.
        left: Asked before every few objects; True: stop, and keep what was said.
    """
    truth = tuple(_truth(name, present, absent) for name in objects)
    columns = [_untested(one) for one in strategies]
    yield ProbeTable(tuple(objects), truth, tuple(columns))
    requests = [(image, question_about(name, "official")) for name in objects]
    for index, method in enumerate(strategies):
        for columns[index] in _asked(lvlm, requests, method, truth, should_stop):
            yield ProbeTable(tuple(objects), truth, tuple(columns))


def default_objects(present: Collection[str] | None, named: Sequence[str] = ()) -> tuple[str, ...]:
    """Choose whom to ask about: objects that are there, and as many that are not, but might well be.

    Args:
        present: Objects in the picture; None: not known.
        named: Objects that answers name, which come first: those of them that are not there are made up.

    Returns:
        At most `MOST` names.
    """
    there = list(dict.fromkeys(present or ()))[: MOST // 2]
    partners = sorted(((-weight, other) for name in there for other, weight in PARTNERS.get(name, {}).items()))
    likely = dict.fromkeys((*named, *(other for _, other in partners), *COMMON))
    known = {canonical_name(name) for name in present or ()}
    absent = [name for name in likely if canonical_name(name) not in known]
    if present is None:
        return tuple(absent[: max(2 * len(named), 2 * _LEAST)][:MOST])
    return (*there, *absent[: max(len(there), _LEAST)])


def as_data(table: ProbeTable) -> dict[str, Any]:
    """Return a table as JSON writes it."""
    return {
        "objects": [{"name": name, "present": is_} for name, is_ in zip(table.objects, table.present, strict=True)],
        "strategies": [
            {
                "strategy": column.strategy,
                "state": column.state,
                "error": column.error,
                "searches": column.searches,
                "answers": [
                    {
                        "object": name,
                        "says": cell.said,
                        "text": cell.text,
                        "yes_probability": cell.probability,
                        "right": cell.right,
                    }
                    for name, cell in zip(table.objects, column.cells, strict=False)
                ],
                "right": column.right,
                "known": column.known,
                "yes_ratio": column.yes_ratio,
            }
            for column in table.columns
        ],
    }


def probe_html(table: ProbeTable) -> str:
    """Return a table as HTML."""
    return render("probe.html", table=table, percent=percent)


def percent(share: float) -> str:
    """Write a share so that only what is certain reads so.

    >>> percent(0.0), percent(0.004), percent(0.5), percent(0.997), percent(1.0)
    ('0 %', '<1 %', '50 %', '>99 %', '100 %')
    """
    if 0 < share < 0.005:
        return "<1 %"
    if 0.995 <= share < 1:
        return ">99 %"
    return f"{100 * share:.0f} %"


def _untested(method: Strategy) -> ProbeColumn:
    return ProbeColumn(str(method), method.searches or method.beams > 1)


def _asked(
    lvlm: LVLM,
    requests: Sequence[tuple[Image.Image, str]],
    method: Strategy,
    truth: Sequence[bool | None],
    should_stop: Callable[[], bool],
) -> Iterator[ProbeColumn]:
    """Ask one strategy, a few objects at a time; yields its column as it grows."""
    column, size = _untested(method), max(1, min(_AT_ONCE, _ROWS // method.beams))
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


def _truth(name: str, present: Collection[str] | None, absent: Collection[str] | None) -> bool | None:
    """Say whether an object is in the picture, as far as that is known."""
    name = canonical_name(name)
    if name in map(canonical_name, present or ()):
        return True
    gone = present is not None if absent is None else name in map(canonical_name, absent)
    return False if gone else None


def _cells(
    lvlm: LVLM, requests: Sequence[tuple[Image.Image, str]], method: Strategy, truth: Sequence[bool | None]
) -> tuple[Cell, ...]:
    answers = lvlm.generate_batch(requests, method, max_new_tokens=_TOKENS)
    read = [parse_strict(answer.text) for answer in answers]
    return tuple(
        Cell(answer.text, said, probability, None if is_ is None else said == ("yes" if is_ else "no"))
        for answer, said, probability, is_ in zip(
            answers, read, _probabilities(lvlm, requests, method), truth, strict=True
        )
    )


def _probabilities(lvlm: LVLM, requests: Sequence[tuple[Image.Image, str]], method: Strategy) -> Sequence[float | None]:
    """Return how probable yes is for each question; None where yes and no are no tokens, or neither may be said."""
    try:
        choices = lvlm.choose_batch(requests, ("yes", "no"), strategy=method)
    except OptionError:
        return [None] * len(requests)
    return [choice.probabilities[0] if choice.method == "labels" else None for choice in choices]
