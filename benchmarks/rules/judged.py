"""Benchmarks whose answers a judge scores, and what the judge is shown."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mmhall.benchmarks.base import Benchmark, Item
from mmhall.errors import DataError
from mmhall.results.store import Row


@dataclass(frozen=True)
class Judged(Benchmark):
    """A benchmark whose answers a judge may score.

    Attributes:
        template: Prompt for a judge, {name} where something of the item goes; "": the user gives one.
    """

    template: ClassVar[str] = ""

    @property
    @abstractmethod
    def wants_judge(self) -> bool:
        """Whether a judge scores it, by the rule that is set."""

    @abstractmethod
    def judge_fields(self, item: Item, text: str) -> Mapping[str, str]:
        """Return what the judge is shown, by name, in the order of a template with plain {}."""


def judge_reply(row: Row) -> str | None:
    """Return what the judge said of an answer, None where nothing counts."""
    record = (row.extra or {}).get("judgement")
    return None if record is None else str(record["reply"])


def fill_template(template: str, fields: Mapping[str, str]) -> str:
    """Put what the judge is shown into a template: {name} by name, or plain {} in order, one for each.

    >>> fill_template("{answer}? {question}!", {"question": "Why {answer}", "answer": "So"})
    'So? Why {answer}!'
    >>> fill_template("{}, {}", {"question": "Why", "answer": "So"})
    'Why, So'

    Raises:
        DataError: The template does not show the answer, or has another number of plain {}.
    """
    plain = template.count("{}")
    if plain == len(fields):
        left = iter(fields.values())
        return re.sub(r"\{\}", lambda match: next(left), template)
    if plain or "{answer}" not in template:
        names = ", ".join(f"{{{name}}}" for name in fields)
        raise DataError(
            f"judge: the template must hold {names}, or {len(fields)} times {{}}; it holds {plain} of those"
        )
    return re.sub(r"\{(\w+)\}", lambda match: fields.get(match[1], match[0]), template)
