"""Benchmark runs on the page: their list, the table that opens a run with its downloads, and further tables.

Only runs below the folder that the page's owner names are shown; visitors choose them by name and give no path. What
was computed about a run is kept until its file changes. Nothing is asked of a model.
"""

from __future__ import annotations

import base64
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

from mmhall.benchmarks.report.forest import draw_forest
from mmhall.benchmarks.report.formats import as_csv, as_latex, as_markdown
from mmhall.benchmarks.report.plots import plot_against_cost
from mmhall.benchmarks.report.summary import SIGNS, Summary, by_strategy, evaluate_first, summarise
from mmhall.benchmarks.report.table import COST, Evaluated, cost_lines, remarks, sections
from mmhall.benchmarks.report.templates import environment
from mmhall.benchmarks.run.runs import Part, Run, reopen
from mmhall.errors import MmhallError, RunError
from mmhall.results.store import FILE, Row

DEPTH = 3
Answers = Mapping[str, Mapping[str, Row]]
"""Strategy to item to its answer."""
Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True, eq=False)
class OpenRun:
    """A run that was read; its file is closed.

    Attributes:
        name: Name in `list_runs`.
        folder: Its folder.
        model: Name of the model.
        strategies: Strategies with a row of their own, the baseline first.
        everyone: Those and random twins.
        parts: Benchmarks.
        evaluated: Evaluation of the figures that the first table shows.
        summary: The first table.
        progress: Number of answers, and of those of a finished run.
    """

    name: str
    folder: Path
    model: str
    strategies: tuple[str, ...]
    everyone: tuple[str, ...]
    parts: tuple[Part, ...]
    evaluated: Evaluated
    summary: Summary
    progress: tuple[int, int]

    def part(self, benchmark: Any) -> Part:
        """Return a benchmark.

        Raises:
            RunError: The run has none of that name.
        """
        found = next((part for part in self.parts if part.benchmark.name == benchmark), None)
        if found is None:
            has = ", ".join(part.benchmark.name for part in self.parts)
            raise RunError(f"this run has no benchmark {benchmark!r}, only {has}")
        return found

    def answers(self, benchmark: str) -> Answers:
        """Return the answers to a benchmark; failures are left out.

        Raises:
            RunError: The run can no longer be read.
        """
        return _answers(self, benchmark)

    def check_strategy(self, strategy: Any) -> None:
        """Check that the run has a strategy.

        Raises:
            RunError: It has none of that name.
        """
        if strategy not in self.strategies:
            raise RunError(f"this run has no strategy {strategy!r}, only {', '.join(self.strategies)}")


class Cache(Generic[Kept]):
    """Results by their arguments; who asks for one that is being computed waits for it."""

    def __init__(self, make: Callable[..., Kept], most: int) -> None:
        """Keep what a function returns.

        Args:
            make: The function, of hashable arguments.
            most: Number of results; the least recently used go first.
        """
        self._make, self._most, self._lock = make, most, Lock()
        self._kept: OrderedDict[Hashable, Future[Kept]] = OrderedDict()

    def __call__(self, *key: Hashable) -> Kept:
        """Return the result for arguments; failures are not kept."""
        with self._lock:
            is_new = key not in self._kept
            future = self._kept.setdefault(key, Future())
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        if is_new:
            try:
                future.set_result(self._make(*key))
            except BaseException as error:
                with self._lock:
                    self._kept.pop(key, None)
                future.set_exception(error)
        return future.result()


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


def open_run(root: Path, name: Any) -> OpenRun:
    """Read a run by its name in `list_runs`, and evaluate the figures that its first table shows.

    Raises:
        RunError: There is no run of that name, or it cannot be read.
    """
    if not isinstance(name, str) or name not in list_runs(root):
        raise RunError(f"there is no run called {name!r} here; choose one of the list")
    folder = root.resolve() / name
    return _opened(folder, name, _state(folder))


def view(root: Path, name: Any) -> dict[str, Any]:
    """Return what a run shows first: {name, title, html}, with a table whose cells open their items.

    Raises:
        RunError: There is no run of that name, or it cannot be read.
    """
    run = open_run(root, name)
    files = {"csv": as_csv(run.evaluated), "md": as_markdown(run.summary), "tex": as_latex(run.summary)}
    html = render("run.html", run=run, forest=draw_forest(run.summary.leading), signs=SIGNS, files=_as_links(files))
    return {"name": run.name, "title": run.summary.title, "html": html}


def more_tables(root: Path, name: Any) -> dict[str, Any]:
    """Return every table of a run: {html}. For 20 000 answers this takes the better part of a minute, once.

    Raises:
        RunError: There is no run of that name, or it cannot be read.
    """
    return {"html": _tables(open_run(root, name))}


@contextmanager
def _reading(folder: Path, name: str) -> Iterator[Run]:
    """Open a run, and close it; errors tell its name, not its folder."""
    try:
        run = reopen(folder)
        with closing(run.store):
            yield run
    except MmhallError as error:
        raise RunError(str(error).replace(str(folder), name)) from error


def _open(folder: Path, name: str, state: Hashable) -> OpenRun:
    with _reading(folder, name) as run:
        evaluated = evaluate_first(run)
        return OpenRun(
            name=name,
            folder=folder,
            model=str(run.store.setup()["model"]),
            strategies=run.arms,
            everyone=run.strategies,
            parts=run.parts,
            evaluated=evaluated,
            summary=summarise(run, evaluated),
            progress=(run.answered, run.expected),
        )


def _read_answers(opened: OpenRun, benchmark: str) -> Answers:
    answers: dict[str, dict[str, Row]] = {}
    with _reading(opened.folder, opened.name) as run:
        for row in run.rows(next(part for part in run.parts if part.benchmark.name == benchmark)):
            if row.error is None:
                answers.setdefault(row.strategy, {})[row.item] = row
    return answers


def _draw_tables(opened: OpenRun) -> str:
    with _reading(opened.folder, opened.name) as run:
        evaluated = run.evaluate()
        summary = summarise(run, evaluated)
        return render(
            "tables.html",
            run=run,
            setup=run.current_setup,
            summary=summary,
            statements=by_strategy(summary),
            sections=sections(evaluated),
            costs=cost_lines(evaluated),
            cost_columns=COST,
            plot=plot_against_cost(evaluated),
            remarks=remarks(evaluated, run.fitted, run.left_out),
        )


_opened, _answers, _tables = Cache(_open, 4), Cache(_read_answers, 4), Cache(_draw_tables, 8)


def render(template: str, **values: Any) -> str:
    """Render a template of `templates/`."""
    return environment(("mmhall.demo", "templates")).get_template(template).render(**values)


def _as_links(texts: Mapping[str, str]) -> dict[str, str]:
    """Return texts as data URLs, so that a browser saves them without asking the server again."""
    coded = {end: base64.b64encode(text.encode("utf-8", "backslashreplace")).decode() for end, text in texts.items()}
    return {end: f"data:text/plain;charset=utf-8;base64,{letters}" for end, letters in coded.items()}


def _state(folder: Path) -> tuple[tuple[int, int], ...]:
    """Return time and size of a run's file and its log; they change with every answer."""
    found = []
    for file in (folder / FILE, folder / f"{FILE}-wal"):
        with suppress(OSError):
            status = file.stat()
            found += [(status.st_mtime_ns, status.st_size)] if status.st_size else []  # readers leave empty logs
    return tuple(found)


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
