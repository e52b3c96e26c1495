"""Benchmark runs on the page: results, items on which strategies disagree, and single items to ask again.

Only runs below the folder that the page's owner names are shown; visitors choose them by name and give no path. Use an
opened run only in the thread that opened it.
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
class AnswerGroup:
    """One answer, with all strategies that gave it word for word.

    Attributes:
        strategies: Strategies, as written for the run.
        pieces: Plain, right and wrong pieces of the text.
        wrong: Hallucinated objects, or `WHOLE`.
        missing: Present objects that this answer leaves out and other answers name.
    """

    strategies: tuple[str, ...]
    pieces: tuple[Piece, ...]
    wrong: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An item that some strategies answer correctly and others do not.

    Attributes:
        item: Id of the item.
        prompt: The prompt.
        picture: Id of the picture; None: a question without a picture.
        thumbnail: The picture as a data URL; "" if there is none or it can no longer be opened.
        present: Objects known to be in the picture.
        answers: The answers, each with its strategies.
        causes: Causes of objects that only some strategies hallucinate.
        visibilities: Visibilities of objects that only some strategies name.
    """

    item: str
    prompt: str
    picture: str | None
    thumbnail: str
    present: tuple[str, ...]
    answers: tuple[AnswerGroup, ...]
    causes: tuple[str, ...]
    visibilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadedItem:
    """An item of a run, to be asked again.

    Attributes:
        picture: The picture; None: a question without a picture.
        prompt: The prompt.
        strategies: The baseline, then strategies that disagree with it, then others; as many as may be compared.
        present: Objects in the picture; None: not known.
        max_new_tokens: Maximum number of tokens in an answer.
        model: Name of the run's model.
    """

    picture: Image.Image | None
    prompt: str
    strategies: tuple[str, ...]
    present: tuple[str, ...] | None
    max_new_tokens: int
    model: str


@dataclass(frozen=True, slots=True)
class _Contest:
    """An item and its contested objects: name to whether it is present; "" stands for the whole answer."""

    item: Item
    texts: Mapping[str, str]
    claims: Mapping[str, Mapping[str, bool]]
    contested: Mapping[str, bool]
    causes: tuple[str, ...]
    visibilities: tuple[str, ...]


def list_runs(root: Path) -> list[str]:
    """List the runs below a folder, the one written last first.

    Args:
        root: The folder; if it is a run itself, that run is called ".".

    Returns:
        Names relative to the folder, at most `DEPTH` folders deep. Links are not followed.
    """
    home = root.resolve()
    dated = [(_write_time(folder), folder.relative_to(home).as_posix()) for folder in _folders(home, DEPTH)]
    return [name for date, name in sorted(dated, key=lambda entry: (-entry[0], entry[1])) if date]


def open_run(root: Path, name: str) -> Run:
    """Open a run by its name in `list_runs`.

    Raises:
        RunError: There is no run of that name, or it cannot be read.
    """
    if not isinstance(name, str) or name not in list_runs(root):
        raise RunError(f"there is no run called {name!r} here; choose one of the list")
    folder = root.resolve() / name
    try:
        return reopen(folder)
    except MmhallError as error:
        raise RunError(str(error).replace(str(folder), name)) from error


def no_runs_notice() -> str:
    """Return the notice for a folder without runs, as HTML."""
    return notice("No runs here yet", "Run `mmhall bench ... --out runs/first` first, then look again.")


def overview(run: Run) -> str:
    """Return a run's results as HTML: tables with intervals and differences, cost, and quality against cost."""
    if not run.answered:
        return notice("No answers yet", "Look again once `mmhall bench` has written some.")
    evaluated = run.evaluate()
    tables = sections(evaluated)
    return render(
        "runs.html",
        setup=run.current_setup,
        arms=run.arms,
        parts=run.parts,
        answered=run.answered,
        expected=run.expected,
        main=[section for section in tables if not section.table],
        others=[section for section in tables if section.table],
        costs=cost_lines(evaluated),
        cost_columns=COST,
        plot=plot_against_cost(evaluated),
        remarks=remarks(evaluated, run.fitted, run.left_out),
    )


def filters(run: Run, benchmark: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the causes and the visibilities that occur in a benchmark's disagreements.

    Raises:
        RunError: The run has no such benchmark.
        MmhallError: The run can no longer be read.
    """
    contests = _contests(run, _part(run, benchmark))
    return (
        _ordered(CAUSES, [cause for contest in contests for cause in contest.causes]),
        _ordered(VISIBILITIES, [name for contest in contests for name in contest.visibilities]),
    )


def disagreements(
    run: Run, benchmark: str, cause: str = ANY, visibility: str = ANY, limit: int = LIMIT
) -> list[Disagreement]:
    """Return the items on which strategies disagree; items with most contested hallucinations come first.

    Only items that all strategies have answered are compared.

    Args:
        run: The run.
        benchmark: Name of one of its benchmarks.
        cause: Keep items with a contested absent object of this cause: CHAIR's, or the setting of POPE's question.
        visibility: Keep items with a contested present object of this visibility.
        limit: Maximum number of items.

    Raises:
        RunError: The run has no such benchmark.
        MmhallError: The run can no longer be read.
    """
    part = _part(run, benchmark)
    contests = [
        contest
        for contest in _contests(run, part)
        if cause in (ANY, *contest.causes) and visibility in (ANY, *contest.visibilities)
    ]
    present = _present_objects(run)
    return [_disagreement(part, contest, present) for contest in contests[: max(0, limit)]]


def disagreements_html(shown: Sequence[Disagreement], cause: str = ANY, visibility: str = ANY) -> str:
    """Return disagreements as HTML, each with a button that holds its 0-based place in the list and its item.

    Args:
        shown: As `disagreements` returns them.
        cause: Filter by which they were chosen.
        visibility: Filter by which they were chosen.
    """
    if shown:
        return render("disagreements.html", shown=shown)
    if (cause, visibility) == (ANY, ANY):
        return notice("No disagreements", "The strategies agree on every item that all of them have answered.")
    criteria = " and ".join(
        f"{what} “{value}”" for what, value in (("cause", cause), ("visibility", visibility)) if value != ANY
    )
    return notice(
        "No such item", f"On no item do the strategies disagree with {criteria}. Choose “{ANY}” to see the others."
    )


def load(run: Run, benchmark: str, item: str) -> LoadedItem:
    """Return an item of a run, to be asked again.

    Raises:
        RunError: The run has no such benchmark or item.
        ImageError: The picture can no longer be opened.
        MmhallError: The run can no longer be read.
    """
    part = _part(run, benchmark)
    chosen = next((candidate for candidate in part.items if candidate.id == item), None)
    if chosen is None:
        raise RunError(f"{benchmark} has no item {item!r} in this run; choose one of the list")
    path = part.picture(chosen)
    texts = {row.strategy: row.text for row in run.rows(part) if row.item == item and row.error is None}
    return LoadedItem(
        picture=None if path is None else _open_picture(path, chosen),
        prompt=chosen.prompt,
        strategies=_strategies_to_compare(run, part, chosen, texts),
        present=_present_objects(run).get(path),
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


def _write_time(folder: Path) -> float:
    """Return the time at which a run was last written; 0 if the folder is no run."""
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
        raise RunError(f"this run has no benchmark {benchmark!r}, only {has}")
    return part


def _contests(run: Run, part: Part) -> list[_Contest]:
    texts: dict[str, dict[str, str]] = {}
    for row in run.rows(part):
        if row.error is None:
            texts.setdefault(row.item, {})[row.strategy] = row.text
    complete = [item for item in part.items if len(texts.get(item.id, {})) == len(run.strategies)]
    contests = [_contest(part, item, {s: texts[item.id][s] for s in run.strategies}) for item in complete]

    def by_hallucinations(contest: _Contest) -> tuple[int, int]:
        hallucinated = sum(not present for present in contest.contested.values())
        return -hallucinated, hallucinated - len(contest.contested)

    return sorted((contest for contest in contests if contest.contested), key=by_hallucinations)


def _contest(part: Part, item: Item, texts: Mapping[str, str]) -> _Contest:
    claims = {strategy: part.benchmark.claims(item, text) for strategy, text in texts.items()}
    contested = {
        name: right
        for claim in claims.values()
        for name, right in claim.items()
        if any(other.get(name) != right for other in claims.values())
    }
    if "" in contested:
        contested[""] = item.truth.get("label") == "yes"
    return _Contest(item, texts, claims, contested, _causes(item, contested), _visibilities(item, contested))


def _causes(item: Item, contested: Mapping[str, bool]) -> tuple[str, ...]:
    """Return the causes of contested hallucinations: CHAIR's of each object, or the settings of POPE's question."""
    hallucinated = [name for name, present in contested.items() if not present]
    if "causes" in item.truth:
        return _ordered(CAUSES, [item.truth["causes"].get(name, "random") for name in hallucinated])
    if hallucinated == [""] and item.truth.get("label") == "no":
        return _ordered(CAUSES, [group for group in item.groups if group in SETTINGS])
    return ()


def _visibilities(item: Item, contested: Mapping[str, bool]) -> tuple[str, ...]:
    """Return the visibilities of contested present objects: CHAIR's of each object, or that of POPE's question."""
    truth: Any = item.truth.get("visibility") or {}
    by_name = truth if isinstance(truth, Mapping) else {"": truth}
    names = [name for name, present in contested.items() if present and by_name.get(name)]
    return _ordered(VISIBILITIES, [by_name[name] for name in names])


def _ordered(order: Sequence[str], occurring: Sequence[str]) -> tuple[str, ...]:
    """Return the occurring names, each once: those of `order` first, then the others by name."""
    first = [name for name in order if name in occurring]
    return (*first, *sorted(set(occurring) - set(order)))


def _disagreement(part: Part, contest: _Contest, present: Mapping[Path | None, tuple[str, ...]]) -> Disagreement:
    item, path = contest.item, part.picture(contest.item)
    by_text: dict[str, list[str]] = {}
    for strategy, text in contest.texts.items():
        by_text.setdefault(text, []).append(strategy)
    return Disagreement(
        item=item.id,
        prompt=item.prompt,
        picture=item.picture,
        thumbnail=data_url(path, SIDE, "jpeg"),
        present=present.get(path, ()),
        answers=tuple(_answer_group(part, contest, text, strategies) for text, strategies in by_text.items()),
        causes=contest.causes,
        visibilities=contest.visibilities,
    )


def _answer_group(part: Part, contest: _Contest, text: str, strategies: Sequence[str]) -> AnswerGroup:
    claims = contest.claims[strategies[0]]
    return AnswerGroup(
        strategies=tuple(strategies),
        pieces=tuple(pieces(part.benchmark, contest.item, text)),
        wrong=tuple(name or WHOLE for name, right in claims.items() if not right),
        missing=tuple(name for name, present in contest.contested.items() if name and present and name not in claims),
    )


def _present_objects(run: Run) -> dict[Path | None, tuple[str, ...]]:
    """Return the objects of each picture whose objects are all known to a benchmark of the run."""
    truths = [(part.picture(item), item.truth.get("objects")) for part in run.parts for item in part.items]
    return {path: tuple(objects) for path, objects in truths if path is not None and isinstance(objects, list)}


def _open_picture(path: Path, item: Item) -> Image.Image:
    try:
        return open_image(path)
    except ImageError as error:
        reason = str(error).removeprefix(f"{path}: ").split(";")[0]
        raise ImageError(f"the picture {item.picture} of this item can no longer be shown: it {reason}") from error


def _strategies_to_compare(run: Run, part: Part, item: Item, texts: Mapping[str, str]) -> tuple[str, ...]:
    """Return the strategies to compare on an item: the baseline, those that disagree with it, then others."""
    claims = {strategy: part.benchmark.claims(item, text) for strategy, text in texts.items()}
    baseline, *others = run.strategies
    differing = [name for name in others if name in claims and claims[name] != claims.get(baseline)]
    chosen = (baseline, *differing, *(name for name in others if name not in differing))
    return chosen[: STRATEGIES[1]]
