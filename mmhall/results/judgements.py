"""Judgements of a run's answers, stored beside the answers in the run's file.

The raw replies are stored, so that another rule can read them later. Replies of several judges are not mixed: the
judge with the latest reply counts, on the items of which it has judged the answers of all strategies.
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
    """The judgement of one answer.

    Attributes:
        benchmark: Benchmark of the answer.
        item: Id of the item.
        strategy: Strategy, as written for the run.
        judge: Name of the judge.
        answer: Text that was judged.
        reply: Raw reply of the judge; None: there is no reply.
        error: Why there is no reply.
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
        """Use the run's file; `open` finds it."""
        self.path = path

    @classmethod
    def open(cls, folder: Path) -> Judgements:
        """Open the judgements of a run folder.

        Raises:
            RunError: The folder holds no run, or one that cannot be read.
        """
        Store.open(folder).close()
        return cls(folder / FILE)

    def add(self, judge: str, facts: Mapping[str, Any], judgements: Iterable[Judgement]) -> None:
        """Commit judgements; stored replies stay, stored failures are overwritten.

        Args:
            judge: Name of the judge.
            facts: What identifies the judge, such as model and template, as JSON values.
            judgements: Its judgements.

        Raises:
            RunError: The file cannot be written, or another judge has this name.
        """
        with self._writing() as connection, connection:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute("insert or ignore into judges values (?, ?)", (judge, json.dumps(facts)))
            (stored,) = connection.execute("select told from judges where judge = ?", (judge,)).fetchone()
            self._compare(judge, json.loads(stored), facts)
            connection.executemany(_ADD, [astuple(judgement) for judgement in judgements])

    def check(self, judge: str, facts: Mapping[str, Any]) -> None:
        """Refuse a name that another judge of this run has.

        Args:
            judge: Name of the judge.
            facts: What identifies the judge.

        Raises:
            RunError: Another judge has this name.
        """
        stored = self.judges().get(judge)
        if stored is not None:
            self._compare(judge, stored, facts)

    def _compare(self, judge: str, stored: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Refuse different facts; facts that only the stored judge has, such as an address, do not count."""
        if any(differences(stored, json.loads(json.dumps(facts)))):
            raise RunError(
                f"{self.path}: judge {judge!r} was {json.dumps(stored)}, now {json.dumps(facts)}; give it another name"
            )

    def all(self, benchmark: str) -> list[Judgement]:
        """Return the judgements of a benchmark's answers, in the order of their replies."""
        query = f"select {_COLUMNS} from judgements where benchmark = ? order by number"
        return [Judgement(*values) for values in self._read("judgements", query, (benchmark,))]

    def judges(self) -> dict[str, Any]:
        """Return the facts of each judge, by name."""
        return {judge: json.loads(facts) for judge, facts in self._read("judges", "select judge, told from judges")}

    def _read(self, table: str, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a query; none without judgements. The folder may be read-only."""
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
    """Return answers with their judgements that count, as `Row.extra["judgement"]`.

    A judgement of another text than the stored answer does not count.

    Args:
        rows: The benchmark's answers.
        judgements: Judgements in the order of their replies.
    """
    replied = [j for j in judgements if j.reply is not None]
    if not replied:
        return list(rows)
    latest = {(j.item, j.strategy): j for j in replied if j.judge == replied[-1].judge}
    answered = [row for row in rows if row.error is None]
    unjudged = {r.item for r in answered if _matching_judgement(r, latest) is None}
    return [row if row.item in unjudged else _add_judgement(row, _matching_judgement(row, latest)) for row in rows]


def _matching_judgement(row: Row, judgements: Mapping[tuple[str, str], Judgement]) -> Judgement | None:
    judgement = judgements.get((row.item, row.strategy))
    return judgement if judgement is not None and judgement.answer == row.text else None


def _add_judgement(row: Row, judgement: Judgement | None) -> Row:
    if judgement is None:
        return row
    record = {"judge": judgement.judge, "reply": judgement.reply}
    return replace(row, extra={**(row.extra or {}), "judgement": record})
