"""One setting for all benchmarks: whether a strategy ran with the same options everywhere, and what differs if not.

A configuration is the strategy with all its options; the option `artifact` names what was fitted by its digest. A
method whose strength was chosen for each benchmark is not one method.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from mmhall.benchmarks.run.runs import Run
from mmhall.options import parse, split

Configurations = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Name of a strategy to place, such as a benchmark, to its configurations there."""


def configuration_digest(spec: str) -> str:
    """Return the SHA-256 digest of a strategy with all options in force, 16 hex digits."""
    return hashlib.sha256(spec.encode()).hexdigest()[:16]


def setting_lines(runs: Sequence[Run]) -> list[str]:
    """Say for the benchmarks of some runs whether each strategy has one setting; nothing for a single benchmark."""
    folders = len({part.benchmark.name for run in runs for part in run.parts}) < sum(len(run.parts) for run in runs)
    places: dict[str, dict[str, tuple[str, ...]]] = {}
    for run in runs:
        for part in run.parts:
            place = f"{part.benchmark.name} in {run.store.path.parent}" if folders else part.benchmark.name
            for spec in run.fitted.values():
                own = places.setdefault(_name(spec), {})
                own[place] = (*own.get(place, ()), spec)
    return compare_settings(places)


def compare_settings(places: Configurations) -> list[str]:
    """Say whether each strategy has one setting in all places where it ran; nothing where none ran twice.

    >>> compare_settings({"vista": {"chair": ("vista(strength=0.17)",), "pope": ("vista(strength=0.01)",)}})
    ['settings differ: vista: strength 0.17 (chair), 0.01 (pope)']
    >>> compare_settings({"vcd": {"chair": ("vcd(alpha=1.0)",), "pope": ("vcd(alpha=1.0)",)}})
    ['one setting of each strategy for chair, pope']
    """
    several = {name: own for name, own in places.items() if len(own) > 1}
    differing = {name: own for name, own in several.items() if len(set(map(_sorted, own.values()))) > 1}
    if differing:
        return [f"settings differ: {name}: {_difference(own)}" for name, own in differing.items()]
    named = dict.fromkeys(place for own in several.values() for place in own)
    return [f"one setting of each strategy for {', '.join(named)}"] if several else []


def _name(spec: str) -> str:
    return "+".join(name for name, _ in map(parse, split(spec)))


def _sorted(specs: Sequence[str]) -> tuple[str, ...]:
    """Return configurations as texts that do not depend on the order of strategies and of options."""
    parts = [[(name, sorted(options.items())) for name, options in map(parse, split(spec))] for spec in specs]
    return tuple(sorted(map(repr, parts)))


def _difference(places: Mapping[str, tuple[str, ...]]) -> str:
    """Name the options that differ, with their values; where a place has several settings, all of them."""
    if any(len(specs) > 1 for specs in places.values()):
        return "; ".join(f"{', '.join(specs)} ({place})" for place, specs in places.items())
    options = {place: _options(specs[0]) for place, specs in places.items()}
    names = dict.fromkeys(name for own in options.values() for name in own)
    varied = [name for name in names if len({repr(own.get(name)) for own in options.values()}) > 1]
    texts = {name: [f"{own.get(name, 'default')} ({place})" for place, own in options.items()] for name in varied}
    return "; ".join(f"{name} {', '.join(values)}" for name, values in texts.items())


def _options(spec: str) -> dict[str, Any]:
    parts = [parse(part) for part in split(spec)]
    alone = len(parts) == 1
    return {(key if alone else f"{name}.{key}"): value for name, own in parts for key, value in own.items()}
