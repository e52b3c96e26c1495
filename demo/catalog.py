"""Strategies to choose from, grouped by what they do, and the options of one, as data."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mmhall.decoders import STRATEGIES
from mmhall.demo import limits
from mmhall.options import Rule, parse, rules, split
from mmhall.strategies import LearnedStrategy, card, heading, strategy

if TYPE_CHECKING:
    from mmhall.adapters import Adapter
    from mmhall.strategies import Card, Strategy

FIRST = ("greedy", "vcd", "vdd", "vhr")
"""Strategies that are offered before the model is loaded."""

_GROUPS = (  # title, and claims of a strategy that belongs there; the first that fits
    ("Ask otherwise", {"the wording of the prompt"}),
    ("Search among answers", {"the search"}),
    ("Contrast two predictions", {"the contrast of two distributions"}),
    (
        "Steer attention and states",
        {
            "the rows of attention",
            "the gains of heads",
            "the update of attention",
            "the update of the MLP",
            "the output of a layer",
            "the cached keys and values",
        },
    ),
)
_PLAIN, _OTHERS, _OWNERS = "Plain decoding", "Others", "Of this page's owner"


def first_groups() -> list[dict[str, Any]]:
    """Return a few strategies, without an import of their modules, for use before the model is loaded."""
    return [{"title": "Strategies", "strategies": [_entry(name) for name in FIRST]}]


def groups(owner_specs: Sequence[str]) -> list[dict[str, Any]]:
    """Return all strategies that visitors may choose, in groups with a title.

    Those that open a file or a model, or that need a fit, are offered by the page's owner only.

    Args:
        owner_specs: Specifications that the owner offers.
    """
    listed: dict[str, list[dict[str, Any]]] = {
        title: [] for title in (_PLAIN, *(title for title, _ in _GROUPS), _OTHERS)
    }
    for name in STRATEGIES.names():
        if _needs_nothing(STRATEGIES.load(name)):
            listed[_group(name)].append(_entry(name))
    listed[_OWNERS] = [{**_entry(parse(split(spec)[0])[0]), "name": spec} for spec in owner_specs]
    return [{"title": title, "strategies": entries} for title, entries in listed.items() if entries]


def describe(spec: str, adapter: Adapter, owner_specs: Collection[str]) -> dict[str, Any]:
    """Return the options of a strategy on a model, the cards of its parts, and its normal form.

    Raises:
        MmhallError: It does not exist, the model does not support it, or visitors may not use it.
    """
    (method,) = limits.strategies([spec], owner_specs)
    cards, fields = list[dict[str, Any]](), list[dict[str, Any]]()
    for part in limits.parts(method):
        described = card(part.name)
        cards.append({"name": part.name, "title": described.title, "sections": dict(described.sections)})
        fields += _fields(part, described, adapter)
    return {"spec": str(method), "cards": cards, "fields": fields}


def _fields(part: Strategy, described: Card, adapter: Adapter) -> Iterator[dict[str, Any]]:
    """Yield the options of one part that visitors may set."""
    plain = strategy(part.name)
    fitted, default, origins = part.fitted(adapter), plain.fitted(adapter), part.origins(adapter)
    helps = {entry.name: entry.help for entry in described.options}
    for option, rule in rules(type(part)).items():
        if rule.opens or rule.learned:
            continue
        given = getattr(part, option) != getattr(plain, option)
        yield {
            "strategy": part.name,
            "option": option,
            "kind": _kind(rule),
            "value": _plain(getattr(fitted, option)),
            "default": _plain(getattr(default, option)),
            "low": rule.low,
            "high": rule.high,
            "choices": [_plain(choice) for choice in rule.choices],
            "allowed": rule.describe(),
            "help": helps.get(option, ""),
            "source": "set here" if given else origins.get(option, "its default"),
        }


def _kind(rule: Rule) -> str:
    if rule.choices and not rule.also:
        return "choice"
    if isinstance(rule.general, bool):
        return "bool"
    if isinstance(rule.general, int | float) and not rule.also:
        return "integer" if isinstance(rule.general, int) else "number"
    return "text"


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; others as they are written in a specification."""
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


@lru_cache(maxsize=256)
def _entry(name: str) -> dict[str, Any]:
    """Return name, title and cost of a strategy, read from its source."""
    title, sections = heading(STRATEGIES, name)
    cost = re.split(r"[.;] |\.$", " ".join(sections.get("Cost", "").split()))[0]
    return {"name": name, "line": title, "passes": cost}


@lru_cache(maxsize=256)
def _group(name: str) -> str:
    claims = card(name).claims
    found = next((title for title, some in _GROUPS if claims & some), None)
    return found or (_PLAIN if name == "greedy" else _OTHERS)


def _needs_nothing(kind: type[Strategy]) -> bool:
    needs_fit = issubclass(kind, LearnedStrategy) and not kind.optional
    return not needs_fit and not any(rule.opens for rule in rules(kind).values())
