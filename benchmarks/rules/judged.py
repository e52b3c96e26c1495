"""The base class of benchmarks whose answers a judge scores, and prompts for the judge."""

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
        template: Prompt for a judge, with {name} for fields of the item; "": the user gives one.
    """

    template: ClassVar[str] = ""

    @property
    @abstractmethod
    def wants_judge(self) -> bool:
        """Whether a judge scores the answers under the current rule."""

    @abstractmethod
    def judge_fields(self, item: Item, text: str) -> Mapping[str, str]:
        """Return the fields for the judge's prompt, by name, in the order of a template with plain {}."""


def judge_reply(row: Row) -> str | None:
    """Return the judge's reply to an answer; None without judgement."""
    record = (row.extra or {}).get("judgement")
    return None if record is None else str(record["reply"])


def fill_template(template: str, fields: Mapping[str, str]) -> str:
    """Fill fields into a template: {name} by name, or plain {} in order, one for each field.

    >>> fill_template("{answer}? {question}!", {"question": "Why {answer}", "answer": "So"})
    'So? Why {answer}!'
    >>> fill_template("{}, {}", {"question": "Why", "answer": "So"})
    'Why, So'

    Raises:
        DataError: The template lacks the answer, or has another number of plain {}.
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
