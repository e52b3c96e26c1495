"""Documentation of strategies and benchmarks: the card at the head of their files, and their options.

A card is a module's docstring: a title, then sections such as "Formula", each named at the start of a line and indented
below. Titles are read from the source, so that listing strategies imports none of them.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmhall.options import Rule, option_helps, rules
from mmhall.registry import Registry
from mmhall.strategies._learned import LearnedStrategy
from mmhall.strategies._registry import STRATEGIES

SECTIONS = ("Paper", "Idea", "Formula", "Defaults", "Cost", "Compared", "Differs")
OPTIONAL = frozenset({"Compared"})  # where paper, released code and mmhall differ
_HEAD = re.compile(r"([A-Z]\w+) {2,}(?=\S)")


@dataclass(frozen=True, slots=True)
class OptionHelp:
    """The documentation of an option.

    Attributes:
        name: Its name.
        help: What it does; "" if its class has no text for it.
        allowed: Its allowed values.
        default: Its default; None if it depends on the model.
        general: If it depends on the model: its value for models without a tuned or published one.
        published: Likewise, the values of its paper, by (model_type, decoder layers).
        tries: Likewise, the values that `mmhall tune` tries.
    """

    name: str
    help: str
    allowed: str
    default: Any
    general: Any
    published: Mapping[tuple[str, int], Any]
    tries: tuple[Any, ...]

    @property
    def by_model(self) -> bool:
        """Whether its value depends on the model."""
        return self.default is None

    @property
    def example(self) -> str:
        """An example such as "alpha=1.0"."""
        return f"{self.name}={self.general!r}"


@dataclass(frozen=True, slots=True)
class Card:
    """The documentation of a strategy or a benchmark.

    Attributes:
        name: Its name.
        title: One line.
        sections: The card's sections by name, in order; lines are kept.
        options: Its options, in order.
        claims: See `Strategy.claims`.
        refuses: Which models it does not support; "" if it supports all.
    """

    name: str
    title: str
    sections: Mapping[str, str]
    options: tuple[OptionHelp, ...]
    claims: frozenset[str]
    refuses: str


def card(name: str, registry: Registry = STRATEGIES) -> Card:
    """Return the documentation of a strategy or benchmark; without a card, that of its class.

    Raises:
        UnknownNameError: There is none of that name.
        PluginError: It cannot be imported.
    """
    kind = registry.load(name)
    title, sections = _titled(sys.modules[kind.__module__].__doc__, kind.__doc__ if "__doc__" in vars(kind) else None)
    helps = option_helps(kind)
    options = tuple(_option(kind, option, rule, helps.get(option, "")) for option, rule in rules(kind).items())
    return Card(name, title, sections, options, _claims(kind), _refusal(kind))


def heading(registry: Registry, name: str) -> tuple[str, dict[str, str]]:
    """Return title and sections of a card, read from the source without an import.

    Raises:
        UnknownNameError: There is none of that name.
        PluginError: The source does not define the class, and it cannot be imported.
    """
    module, _, attribute = registry.target(name).partition(":")
    tree = _source(module)
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            return _titled(ast.get_docstring(tree), ast.get_docstring(node))
    kind = registry.load(name)
    return _titled(sys.modules[kind.__module__].__doc__, kind.__doc__)


def parsed(text: str) -> tuple[str, dict[str, str]]:
    """Split a card into title and sections; lines are kept.

    >>> parsed('''A method (AM).
    ...
    ... Idea      Look twice.
    ... Cost      Two passes.
    ... ''')
    ('A method (AM).', {'Idea': 'Look twice.', 'Cost': 'Two passes.'})
    """
    title, _, rest = inspect.cleandoc(text).partition("\n")
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    width = 0
    for line in rest.splitlines():
        head = _HEAD.match(line)
        if head is not None:
            width = head.end()
            lines = sections.setdefault(head.group(1), [])
        elif line and not line.startswith(" "):
            lines = []  # text between sections belongs to none
        lines.append(line[width:] if not line[:width].strip() or head else line.strip())
    return title, {name: "\n".join(lines).strip() for name, lines in sections.items()}


def _titled(module: str | None, own: str | None) -> tuple[str, dict[str, str]]:
    """Read the module's card; where it has none, the class's docstring gives the title."""
    title, sections = parsed(module or "")
    return (title, sections) if sections or not own else (parsed(own)[0], {})


def _source(module: str) -> ast.Module:
    """Return a module's syntax tree; an empty one if its source cannot be read."""
    try:
        spec = importlib.util.find_spec(module)
        origin = None if spec is None else spec.origin
        return ast.parse("" if origin is None else Path(origin).read_text(encoding="utf-8"))
    except (ImportError, OSError, ValueError, SyntaxError):
        return ast.parse("")


def _option(kind: type, option: str, rule: Rule, text: str) -> OptionHelp:
    published = kind.published if rule.by_model else {}  # type: ignore[attr-defined]
    return OptionHelp(
        name=option,
        help=text,
        allowed=rule.describe(),
        default=None if rule.by_model else rule.general,
        general=rule.general,
        published={model: values[option] for model, values in published.items() if option in values},
        tries=rule.tries,
    )


def _claims(kind: type) -> frozenset[str]:
    """Return the claims of a strategy with default options; if it cannot be built, those of its class."""
    try:
        return frozenset(kind().claims)
    except Exception:  # a plugin's required options
        claims: Any = getattr(kind, "claims", None)
        return claims if isinstance(claims, frozenset) else frozenset()


def _refusal(kind: type) -> str:
    """Return the models that a strategy refuses, from the docstring of `refusal`, and whether it must be fitted."""
    own = next((base for base in kind.__mro__ if "refusal" in vars(base)), None)
    refused = []
    if own is not None and own.__module__ != "mmhall.strategies._base":
        first = inspect.cleandoc(vars(own)["refusal"].__doc__ or "").partition("\n")[0]
        refused.append(first.removeprefix("Refuse ").removesuffix("."))
    if issubclass(kind, LearnedStrategy) and not kind.optional:
        refused.append(f"a model that `mmhall fit {kind.name}` was not run for{kind.unless}")
    return "; ".join(filter(None, refused))
