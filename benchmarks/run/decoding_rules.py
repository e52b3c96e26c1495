"""The decoding rule of each strategy of a run, in words: greedy, sampling, beams, or a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmhall.benchmarks.evidence import GREEDY, SAMPLING
from mmhall.decoders import STRATEGIES
from mmhall.options import parse, split

_SAMPLING = ("temperature", "top_p", "top_k")


def decoding_rules(setup: Mapping[str, Any], benchmark: str, strategies: Iterable[str]) -> dict[str, str]:
    """Return the rule of each strategy: "greedy", "beam 5", "search of opera, 5 beams", or sampling with its settings.

    The seed is not named: with another one the rule is the same.

    Args:
        setup: Set-up of the run.
        benchmark: Name of the benchmark.
        strategies: Strategies as written for the run.
    """
    settings, beams = setup["benchmarks"][benchmark].get("settings", {}), setup.get("num_beams", {})
    drawn = ", ".join(f"{key} {settings[key]}" for key in _SAMPLING if settings.get(key) is not None)
    shared = f"{SAMPLING} ({drawn})" if settings.get("do_sample") else GREEDY
    plain = {each: shared if beams.get(each, 1) == 1 else f"beam {beams[each]}" for each in strategies}
    return plain | {each: _search_rule(each, beams.get(each, 1)) for each in setup.get("searches", ())}


def _search_rule(spec: str, beams: int) -> str:
    """Name the search of a strategy: the parts that search, and their beams."""
    known = [name for name, _ in map(parse, split(spec)) if name in STRATEGIES.names()]
    searching = known if len(known) == 1 else [name for name in known if STRATEGIES.load(name).searches]
    return f"search of {'+'.join(searching) or spec}{f', {beams} beams' if beams > 1 else ''}"
