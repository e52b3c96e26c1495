"""A store of runs, browsed: what a run found, the items on which its strategies disagree, and each of them to try anew.

Runs are those below one folder that the page's owner names; a visitor chooses among their names and gives no path.
An opened run belongs to the thread that opened it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.chair import VISIBILITIES
from mmhall.benchmarks.pope import SETTINGS
from mmhall.benchmarks.report.examples import Piece, data_url, pieces
from mmhall.benchmarks.report.plots import plot_against_cost
from mmhall.benchmarks.report.table import COST, cost_lines, remarks, sections
from mmhall.benchmarks.run.runs import Part, Run, reopen
from mmhall.demo.limits import STRATEGIES
from mmhall.demo.rendering import notice, render
from mmhall.errors import ImageError, MmhallError, RunError
from mmhall.images import open_image
from mmhall.results.store import FILE

ANY = "any"
CAUSES = ("co-occurring", "adversarial", "popular", "random")
DEPTH, LIMIT, SIDE = 3, 60, 192
WHOLE = "the answer"


@dataclass(frozen=True, slots=True)
class Told:
    """What some strategies said, word for word the same.

    Attributes:
        strategies: As written for the run.
        pieces: Plain, right and wrong stretches.
        wrong: What is wrong in it: objects that are not there, or `WHOLE`.
        missing: Objects that are there and that it leaves out, while others name them.
    """

    strategies: tuple[str, ...]
    pieces: tuple[Piece, ...]
    wrong: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An item on which not all strategies are right or wrong alike.

    Attributes:
        item: Its id.
        prompt: What was asked.
        picture: The picture's id; None: a question without one.
        thumbnail: The picture as a data URL; "" where there is none or it cannot be opened any more.
        present: Objects known to be in the picture.
        answers: What was said, by whom.
        causes: Of objects that some strategies make up and others do not.
        visibilities: Of objects that some strategies see and others do not.
    """

    item: str
    prompt: str
    picture: str | None
    thumbnail: str
    present: tuple[str, ...]
    answers: tuple[Told, ...]
    causes: tuple[str, ...]
    visibilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """An item of a run, to be asked anew.

    Attributes:
        picture: Opened; None: a question without one.
        prompt: What was asked.
        strategies: The baseline, then those that disagree with it, then others; as many as may be compared.
        present: Objects in the picture; None: not known.
        max_new_tokens: Most tokens of an answer.
        model: Whom the run asked.
    """

    picture: Image.Image | None
    prompt: str
    strategies: tuple[str, ...]
    present: tuple[str, ...] | None
    max_new_tokens: int
    model: str


@dataclass(frozen=True, slots=True)
class _Contest:
    """An item and what of it is contested: object to whether it is there, "" for the answer as a whole."""

    item: Item
    texts: Mapping[str, str]
    claims: Mapping[str, Mapping[str, bool]]
    contested: Mapping[str, bool]
    causes: tuple[str, ...]
    visibilities: tuple[str, ...]


def found(root: Path) -> list[str]:
    """Return the runs below a folder, the one that was written last first.

    Args:
        root: The folder; it may be a run itself, which is called ".".

    Returns:
        Names relative to it, at most `DEPTH` folders deep. Links are not followed.
    """
    home = root.resolve()
    dated = [(_written(folder), folder.relative_to(home).as_posix()) for folder in _folders(home, DEPTH)]
    return [name for date, name in sorted(dated, key=lambda one: (-one[0], one[1])) if date]


def open_run(root: Path, name: str) -> Run:
    """Open a run by a name that `found` gives.

    Raises:
        RunError: There is no run of that name, or it cannot be read.
    """
    if not isinstance(name, str) or name not in found(root):
        raise RunError(f"there is no run called {name!r} here; choose one of the list")
    folder = root.resolve() / name
    try:
        return reopen(folder)
    except MmhallError as error:
        raise RunError(str(error).replace(str(folder), name)) from error


def nothing_found() -> str:
    """Return what stands in place of a list without runs."""
    return notice("No runs here yet", "Run `mmhall bench ... --out runs/first` first, then look again.")


def overview(run: Run) -> str:
    """Return what a run found as HTML: tables with intervals and differences, cost, and quality against cost."""
    if not run.answered:
        return notice("No answers yet", "Look again once `mmhall bench` has written some.")
    evaluated = run.evaluate()
    laid = sections(evaluated)
    return render(
        "runs.html",
        setup=run.current_setup,
        parts=run.parts,
        answered=run.answered,
        expected=run.expected,
        main=[section for section in laid if not section.table],
        others=[section for section in laid if section.table],
        costs=cost_lines(evaluated),
        cost_columns=COST,
        plot=plot_against_cost(evaluated),
        remarks=remarks(evaluated, run.fitted),
    )


def filters(run: Run, benchmark: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the causes and the visibilities that occur among a benchmark's disagreements.

    Raises:
        RunError: The run has no such benchmark.
        MmhallError: It cannot be read any more.
    """
    contests = _contests(run, _part(run, benchmark))
    return (
        _ordered(CAUSES, [cause for one in contests for cause in one.causes]),
        _ordered(VISIBILITIES, [how for one in contests for how in one.visibilities]),
    )


def disagreements(
    run: Run, benchmark: str, cause: str = ANY, visibility: str = ANY, limit: int = LIMIT
) -> list[Disagreement]:
    """Return the items on which strategies disagree; those on which most is made up by some and not by others first.

    Only items that all strategies have answered count.

    Args:
        run: The run.
        benchmark: Name of one of its benchmarks.
        cause: Of a contested object that is not there: by CHAIR, or the setting of POPE's question.
        visibility: Of a contested object that is there.
        limit: Most items.

    Raises:
        RunError: The run has no such benchmark.
        MmhallError: It cannot be read any more.
    """
    part = _part(run, benchmark)
    fitting = [
        one for one in _contests(run, part) if cause in (ANY, *one.causes) and visibility in (ANY, *one.visibilities)
    ]
    known = _known(run)
    return [_disagreement(part, one, known) for one in fitting[: max(0, limit)]]


def disagreements_html(shown: Sequence[Disagreement], cause: str = ANY, visibility: str = ANY) -> str:
    """Return disagreements as HTML, a button each with its place in the list, from 0, and its item.

    Args:
        shown: As `disagreements` returns them.
        cause: By which they were chosen.
        visibility: By which they were chosen.
    """
    if shown:
        return render("disagreements.html", shown=shown)
    if (cause, visibility) == (ANY, ANY):
        return notice("No disagreements", "The strategies agree on every item that all of them have answered.")
    asked = " and ".join(
        f"{what} “{value}”" for what, value in (("cause", cause), ("visibility", visibility)) if value != ANY
    )
    return notice(
        "No such item", f"On no item do the strategies disagree with {asked}. Choose “{ANY}” to see the others."
    )


def load(run: Run, benchmark: str, item: str) -> Loaded:
    """Return an item to be asked anew.

    Raises:
        RunError: The run has no such benchmark or item.
        ImageError: The picture cannot be opened any more.
        MmhallError: The run cannot be read any more.
    """
    part = _part(run, benchmark)
    chosen = next((one for one in part.items if one.id == item), None)
    if chosen is None:
        raise RunError(f"{benchmark} has no item {item!r} in this run; choose one of the list")
    path = part.picture(chosen)
    said = {row.strategy: row.text for row in run.rows(part) if row.item == item and row.error is None}
    return Loaded(
        picture=None if path is None else _opened(path, chosen),
        prompt=chosen.prompt,
        strategies=_compared(run, part, chosen, said),
        present=_known(run).get(path),
        max_new_tokens=part.benchmark.max_new_tokens,
        model=str(run.store.setup()["model"]),
    )


def _folders(folder: Path, deeper: int) -> Iterator[Path]:
    yield folder
    if not deeper:
        return
    try:
        with os.scandir(folder) as entries:
            inner = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return
    for name in inner:
        if name.isprintable():
            yield from _folders(folder / name, deeper - 1)


def _written(folder: Path) -> float:
    """Return when a run was last written; 0: there is none."""
    file, log = folder / FILE, folder / f"{FILE}-wal"
    try:
        if file.is_symlink() or log.is_symlink() or not file.is_file():
            return 0.0
        logged = log.is_file() and log.stat().st_size > 0  # readers leave empty ones
        return max(file.stat().st_mtime, log.stat().st_mtime if logged else 0.0)
    except OSError:
        return 0.0


def _part(run: Run, benchmark: str) -> Part:
    part = next((part for part in run.parts if part.benchmark.name == benchmark), None)
    if part is None:
        has = ", ".join(part.benchmark.name for part in run.parts)
        raise RunError(f"this run has no {benchmark!r}, only {has}")
    return part


def _contests(run: Run, part: Part) -> list[_Contest]:
    texts: dict[str, dict[str, str]] = {}
    for row in run.rows(part):
        if row.error is None:
            texts.setdefault(row.item, {})[row.strategy] = row.text
    complete = [item for item in part.items if len(texts.get(item.id, {})) == len(run.strategies)]
    contests = [_contest(part, item, {s: texts[item.id][s] for s in run.strategies}) for item in complete]

    def most(one: _Contest) -> tuple[int, int]:
        made_up = sum(not there for there in one.contested.values())
        return -made_up, made_up - len(one.contested)

    return sorted((one for one in contests if one.contested), key=most)


def _contest(part: Part, item: Item, texts: Mapping[str, str]) -> _Contest:
    claims = {strategy: part.benchmark.claims(item, text) for strategy, text in texts.items()}
    contested = {
        name: right
        for told in claims.values()
        for name, right in told.items()
        if any(other.get(name) != right for other in claims.values())
    }
    if "" in contested:
        contested[""] = item.truth.get("label") == "yes"
    return _Contest(item, texts, claims, contested, _causes(item, contested), _visibilities(item, contested))


def _causes(item: Item, contested: Mapping[str, bool]) -> tuple[str, ...]:
    """Return causes of what is made up: by CHAIR of each object, or the settings of POPE's question."""
    made_up = [name for name, there in contested.items() if not there]
    if "causes" in item.truth:
        return _ordered(CAUSES, [item.truth["causes"].get(name, "random") for name in made_up])
    if made_up == [""] and item.truth.get("label") == "no":
        return _ordered(CAUSES, [group for group in item.groups if group in SETTINGS])
    return ()


def _visibilities(item: Item, contested: Mapping[str, bool]) -> tuple[str, ...]:
    """Return how well the objects show that some see: each of CHAIR's, or the one POPE asks for."""
    told: Any = item.truth.get("visibility") or {}
    by_name = told if isinstance(told, Mapping) else {"": told}
    return _ordered(VISIBILITIES, [by_name[name] for name, there in contested.items() if there and by_name.get(name)])


def _ordered(known: Sequence[str], occurring: Sequence[str]) -> tuple[str, ...]:
    """Return what occurs, each once: what is known in its order, then the rest by name."""
    first = [name for name in known if name in occurring]
    return (*first, *sorted(set(occurring) - set(known)))


def _disagreement(part: Part, one: _Contest, known: Mapping[Path | None, tuple[str, ...]]) -> Disagreement:
    item, path = one.item, part.picture(one.item)
    alike: dict[str, list[str]] = {}
    for strategy, text in one.texts.items():
        alike.setdefault(text, []).append(strategy)
    return Disagreement(
        item=item.id,
        prompt=item.prompt,
        picture=item.picture,
        thumbnail=data_url(path, SIDE, "jpeg"),
        present=known.get(path, ()),
        answers=tuple(
            Told(
                strategies=tuple(strategies),
                pieces=tuple(pieces(part.benchmark, item, text)),
                wrong=tuple(name or WHOLE for name, right in one.claims[strategies[0]].items() if not right),
                missing=tuple(
                    n for n, there in one.contested.items() if n and there and n not in one.claims[strategies[0]]
                ),
            )
            for text, strategies in alike.items()
        ),
        causes=one.causes,
        visibilities=one.visibilities,
    )


def _known(run: Run) -> dict[Path | None, tuple[str, ...]]:
    """Return the objects of each picture of which all are known, whichever benchmark of the run knows them."""
    told = [(part.picture(item), item.truth.get("objects")) for part in run.parts for item in part.items]
    return {path: tuple(objects) for path, objects in told if path is not None and isinstance(objects, list)}


def _opened(path: Path, item: Item) -> Image.Image:
    try:
        return open_image(path)
    except ImageError as error:
        reason = str(error).removeprefix(f"{path}: ").split(";")[0]
        raise ImageError(f"the picture {item.picture} of this item cannot be shown any more: it {reason}") from error


def _compared(run: Run, part: Part, item: Item, said: Mapping[str, str]) -> tuple[str, ...]:
    """Return the strategies that are most worth comparing on an item."""
    claims = {strategy: part.benchmark.claims(item, text) for strategy, text in said.items()}
    baseline, *others = run.strategies
    differing = [one for one in others if one in claims and claims[one] != claims.get(baseline)]
    chosen = (baseline, *differing, *(one for one in others if one not in differing))
    return chosen[: STRATEGIES[1]]
