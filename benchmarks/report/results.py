"""Results of a run, or of several with different seeds, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmhall.benchmarks.report.aggregate import aggregate
from mmhall.benchmarks.report.capability import as_record
from mmhall.benchmarks.report.formats import as_csv, as_latex, as_markdown, as_text, records
from mmhall.benchmarks.report.summary import Summary, make_summary, summarise
from mmhall.benchmarks.report.table import Evaluated, as_data, events
from mmhall.benchmarks.run.runs import Run
from mmhall.errors import MmhallError, RunError
from mmhall.results.capability import Capability
from mmhall.text import shorten

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An item about which strategies claim different things.

    Attributes:
        benchmark: Name of the benchmark.
        item: Id of the item.
        picture: File of the picture; None: the item has none.
        prompt: Prompt of the item.
        answers: Strategy to its answer.
        claims: Strategy to its claims: object (or "" for a whole answer) to whether it is right.
    """

    benchmark: str
    item: str
    picture: Path | None
    prompt: str
    answers: Mapping[str, str]
    claims: Mapping[str, Mapping[str, bool]]


class Results:
    """Results of a run, or of several that are read together. Made by `mmhall.bench` and `mmhall.open_run`.

    Printed, it is the first screen of `mmhall report`; in a notebook, its table.

    Attributes:
        runs: The runs.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        """Take runs; nothing is evaluated before it is asked for.

        Args:
            runs: At least one run.
        """
        self.runs = tuple(runs)

    def __repr__(self) -> str:
        """Return folder, strategies and the number of answers, on one line."""
        folders = shorten(", ".join(str(run.store.path.parent) for run in self.runs), 40)
        answered, expected = sum(run.answered for run in self.runs), sum(run.expected for run in self.runs)
        return f"Results({folders}: {shorten(', '.join(self.runs[0].arms), 32)}; {answered} of {expected} answers)"

    def __str__(self) -> str:
        """Return the first screen of the report."""
        return self.table()

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.table())}</pre>"

    @property
    def evaluated(self) -> Evaluated:
        """Evaluation of each benchmark."""
        return self._evaluated[0]

    @cached_property
    def summary(self) -> Summary:
        """The first screen of the report as data."""
        evaluated, told = self._evaluated
        if len(self.runs) == 1:
            return summarise(self.runs[0], evaluated)
        fitted = self.runs[0].fitted
        title = f"{len(self.runs)} runs of {', '.join(fitted)}"
        return make_summary(title, list(fitted), evaluated, told, events(evaluated, fitted))

    def table(self, width: int = 100) -> str:
        """Return the first screen of the report as text.

        Args:
            width: Characters of a line.
        """
        return as_text(self.summary, width)

    def to_markdown(self) -> str:
        """Return the table of the first screen as Markdown, each figure with its interval and difference."""
        return as_markdown(self.summary)

    def to_latex(self) -> str:
        """Return the table of the first screen for LaTeX, with the packages booktabs and amssymb."""
        return as_latex(self.summary)

    def to_records(self) -> list[dict[str, Any]]:
        """Return every figure as a flat record: shares as fractions, differences from the baseline beside them."""
        return records(self.evaluated)

    def to_csv(self) -> str:
        """Return every figure as CSV, a line for each; see `to_records`."""
        return as_csv(self.evaluated)

    def to_pandas(self) -> pandas.DataFrame:
        """Return every figure as a data frame, a line for each; see `to_records`.

        Raises:
            MmhallError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MmhallError("to_pandas needs pandas; run: pip install pandas") from error
        return pandas.DataFrame(self.to_records())

    def to_dict(self) -> dict[str, Any]:
        """Return what `mmhall report --json` prints, as JSON values."""
        return as_json(self.runs, *self._evaluated)

    def report(self, path: str | Path) -> Path:
        """Write the report as one HTML page; return its path.

        Args:
            path: File to write.

        Raises:
            RunError: The file cannot be written, or these are several runs.
        """
        from mmhall.benchmarks.report.page import write_page

        if len(self.runs) > 1:
            folders = ", ".join(str(run.store.path.parent) for run in self.runs)
            raise RunError(f"{folders}: a page shows single runs; call report of mmhall.open_run(FOLDER) for each")
        try:
            write_page([(self.runs[0], self.evaluated)], Path(path))
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror}") from error
        return Path(path)

    def disagreements(self, first: str | None = None, second: str | None = None) -> list[Disagreement]:
        """Return the items about which two strategies claim different things, with both answers.

        Args:
            first: A strategy; by default the baseline.
            second: Another one; by default all others, so that an item is there if any of them differs from `first`.

        Raises:
            RunError: The run has no such strategy.
        """
        return [one for run in self.runs for one in _disagreements(run, first, second)]

    @cached_property
    def _evaluated(self) -> tuple[Evaluated, tuple[str, ...]]:
        """The evaluation, and what runs that are read together differ in."""
        if len(self.runs) == 1:
            return self.runs[0].evaluate(), ()
        found = aggregate(self.runs)
        return found.evaluated, found.remarks


def as_json(
    runs: Sequence[Run],
    evaluated: Evaluated,
    remarks: Sequence[str] = (),
    capabilities: Mapping[str, Capability] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the results of one run, or of several that were evaluated together, as JSON values.

    Args:
        runs: The runs.
        evaluated: Their evaluation.
        remarks: What several runs differ in.
        capabilities: Strategy to its capability, where it was measured; of a single run.
    """
    first = runs[0]
    if len(runs) == 1:
        return as_data(evaluated, first.current_setup) | {"capability": as_record(first, capabilities)}
    return as_data(evaluated, first.current_setup | {"strategies": list(first.fitted)}) | {"aggregated": remarks}


def _disagreements(run: Run, first: str | None, second: str | None) -> list[Disagreement]:
    base = run.arms[0] if first is None else first
    others = [arm for arm in run.arms if arm != base] if second is None else [second]
    for name in (base, *others):
        if name not in run.strategies:
            raise RunError(f"{run.store.path.parent}: has no strategy {name!r}, only {', '.join(run.strategies)}")
    found = []
    for part in run.parts:
        rows = [row for row in run.rows(part) if row.error is None]
        texts = {name: {row.item: row.text for row in rows if row.strategy == name} for name in (base, *others)}
        for item in part.items:
            answers = {name: own[item.id] for name, own in texts.items() if item.id in own}
            claims = {name: dict(part.benchmark.claims(item, text)) for name, text in answers.items()}
            if base in claims and any(own != claims[base] for own in claims.values()):
                picture = part.picture(item)
                found.append(Disagreement(part.benchmark.name, item.id, picture, item.prompt, answers, claims))
    return found
