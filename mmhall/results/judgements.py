"""What judges said of a run's answers, beside them in the run's file.

Raw replies are kept, never what was read from them, so that they can be read by another rule. Judges do not mix:
those of the judge heard last count, of the items of which it has judged every strategy's answer.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from mmhall.errors import RunError
from mmhall.results.store import FILE, Row, Store, differences

_SCHEMA = """
create table if not exists judges (judge text primary key, told text not null);
create table if not exists judgements (
    benchmark text not null, item text not null, strategy text not null, judge text not null,
    answer text not null, reply text, error text, number integer not null,
    primary key (benchmark, item, strategy, judge)
);
"""
_ADD = """
insert into judgements values (?, ?, ?, ?, ?, ?, ?, (select coalesce(max(number), 0) + 1 from judgements))
on conflict (benchmark, item, strategy, judge) do update set
    answer = excluded.answer, reply = excluded.reply, error = excluded.error, number = excluded.number
where judgements.reply is null
"""
_COLUMNS = "benchmark, item, strategy, judge, answer, reply, error"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said of one answer.

    Attributes:
        benchmark: The answer's benchmark.
        item: Its item.
        strategy: Its strategy, as written for the run.
        judge: The judge's name.
        answer: The answer that was judged.
        reply: What the judge said, untouched; None: it could not be asked.
        error: Why not.
    """

    benchmark: str
    item: str
    strategy: str
    judge: str
    answer: str
    reply: str | None
    error: str | None = None


class Judgements:
    """The judgements of one run."""

    def __init__(self, path: Path) -> None:
        """Take the run's file; `open` finds it."""
        self.path = path

    @classmethod
    def open(cls, folder: Path) -> Judgements:
        """Open a run folder's judgements.

        Raises:
            RunError: The folder holds no run, or one that cannot be read.
        """
        Store.open(folder).close()
        return cls(folder / FILE)

    def add(self, judge: str, facts: Mapping[str, Any], judgements: Iterable[Judgement]) -> None:
        """Commit what a judge said; a reply that is there stays, a failure gives way.

        Args:
            judge: Its name.
            facts: What must be known of it, such as model and template; anything JSON can write.
            judgements: What it said.

        Raises:
            RunError: They cannot be written, or another judge has this name.
        """
        with self._writing() as connection, connection:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute("insert or ignore into judges values (?, ?)", (judge, json.dumps(facts)))
            (stored,) = connection.execute("select told from judges where judge = ?", (judge,)).fetchone()
            self._compare(judge, json.loads(stored), facts)
            connection.executemany(_ADD, [astuple(judgement) for judgement in judgements])

    def check(self, judge: str, facts: Mapping[str, Any]) -> None:
        """Refuse a judge that was another one before.

        Args:
            judge: Its name.
            facts: What must be known of it.

        Raises:
            RunError: Another judge has this name.
        """
        stored = self.judges().get(judge)
        if stored is not None:
            self._compare(judge, stored, facts)

    def _compare(self, judge: str, stored: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Refuse what differs; what only the old one tells, such as an address, does not count."""
        if any(differences(stored, json.loads(json.dumps(facts)))):
            raise RunError(
                f"{self.path}: judge {judge!r} was {json.dumps(stored)}, now {json.dumps(facts)}; give it another name"
            )

    def all(self, benchmark: str) -> list[Judgement]:
        """Return what is known of a benchmark's answers, in the order it was said."""
        query = f"select {_COLUMNS} from judgements where benchmark = ? order by number"
        return [Judgement(*values) for values in self._read("judgements", query, (benchmark,))]

    def judges(self) -> dict[str, Any]:
        """Return what is known of each judge, by name."""
        return {judge: json.loads(facts) for judge, facts in self._read("judges", "select judge, told from judges")}

    def _read(self, table: str, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a query, none where nothing was judged yet; the folder may be read-only."""
        with closing(Store.open(self.path.parent)) as store:
            exists = store.read("select 1 from sqlite_master where name = ?", (table,))
            return store.read(query, values) if exists else []

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise RunError(f"{self.path}: cannot write judgements: {error}") from error


def with_judgements(rows: Sequence[Row], judgements: Sequence[Judgement]) -> list[Row]:
    """Return answers of a benchmark with what counts of their judgements, as `Row.extra["judgement"]`.

    A judgement of another text than the answer's counts for nothing.

    Args:
        rows: The benchmark's answers.
        judgements: In the order they were said.
    """
    replied = [j for j in judgements if j.reply is not None]
    if not replied:
        return list(rows)
    latest = {(j.item, j.strategy): j for j in replied if j.judge == replied[-1].judge}
    answered = [row for row in rows if row.error is None]
    unjudged = {r.item for r in answered if _of(r, latest) is None}
    return [row if row.item in unjudged else _with(row, _of(row, latest)) for row in rows]


def _of(row: Row, judgements: Mapping[tuple[str, str], Judgement]) -> Judgement | None:
    judgement = judgements.get((row.item, row.strategy))
    return judgement if judgement is not None and judgement.answer == row.text else None


def _with(row: Row, judgement: Judgement | None) -> Row:
    if judgement is None:
        return row
    record = {"judge": judgement.judge, "reply": judgement.reply}
    return replace(row, extra={**(row.extra or {}), "judgement": record})
