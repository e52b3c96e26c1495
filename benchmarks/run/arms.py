"""The arms of a run: the named strategies or all, their random twins, and artifacts for those that are fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmhall import decoders
from mmhall.adapters import Adapter
from mmhall.decoders import STRATEGIES
from mmhall.errors import MmhallError
from mmhall.fitting import fit
from mmhall.generation import make_recipe
from mmhall.lvlm import LVLM
from mmhall.options import rules
from mmhall.strategies import Composed, LearnedStrategy, PairSet, QuestionSet, Strategy

ARTIFACTS = "artifacts"  # folder of the run's own artifacts
TWIN = "twin"  # the option of `mmhall.strategies.twin_option`


@dataclass(frozen=True, slots=True)
class Arms:
    """The strategies of a run.

    Attributes:
        strategies: The strategies, `in_order`.
        left_out: Name of a strategy that the model cannot carry, to the reason.
    """

    strategies: tuple[Strategy, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)


def choose_arms(
    named: Sequence[Strategy],
    adapter: Adapter,
    *,
    every: bool,
    twins: int,
    settings: Sequence[Mapping[str, Any]] = (),
) -> Arms:
    """Return the arms of a run.

    Args:
        named: Strategies that the user names, the baseline first.
        adapter: The model, with its artifacts.
        every: Whether to add each installed strategy that the model can carry, with its default options, and its
            `controls`.
        twins: Number of random twins of each strategy that has them.
        settings: Generation settings of each benchmark. Of all strategies, those are added that decode with them:
            beams and searches do not sample.
    """
    strategies, left_out = list(named), dict[str, str]()
    present = {str(method.fitted(adapter)) for method in named} if every else set()
    for name in STRATEGIES.names() if every else ():
        kind: type[Strategy] = STRATEGIES.load(name)
        try:
            found = {str(each.fitted(adapter)): each for each in (kind(**options) for options in ({}, *kind.controls))}
            for each in settings:
                make_recipe(adapter, kind(), each)
        except MmhallError as error:  # the model cannot carry it, it needs a file, or it does not sample
            left_out[name] = str(error).removeprefix(f"{name}: ")
            continue
        strategies += [method for text, method in found.items() if text not in present]
        present |= found.keys()
    seeds = range(1, twins + 1)
    drawn = [twin for method in strategies for twin in random_twins(method, seeds)]
    once = {str(method): method for method in (*strategies, *drawn)}  # a twin may be named, too
    return Arms(in_order(tuple(once.values())), left_out)


def in_order(strategies: Sequence[Strategy]) -> tuple[Strategy, ...]:
    """Return strategies in the order of a run, in whatever order they were named or added.

    The baseline stays first; the others follow as `mmhall list strategies` lists them, twins last.
    """
    return (*strategies[:1], *sorted(strategies[1:], key=_place))


def _place(method: Strategy) -> tuple[bool, list[int], str]:
    listed = list(decoders.BUILT_IN)
    parts = method.parts if isinstance(method, Composed) else (method,)
    places = [listed.index(part.name) if part.name in listed else len(listed) for part in parts]
    return any(getattr(part, TWIN, 0) != 0 for part in parts), places, str(method)


def random_twins(method: Strategy, seeds: Sequence[int]) -> list[Strategy]:
    """Return the random twins of a strategy; none if it has no option `twin`, or is a twin itself.

    In a composition, each part that has twins is replaced by its own.
    """
    if isinstance(method, Composed):
        parts = [random_twins(part, seeds) or [part] * len(seeds) for part in method.parts]
        able = any(random_twins(part, (1,)) for part in method.parts)
        return [Composed(together) for together in zip(*parts, strict=True)] if able else []
    if TWIN not in rules(type(method)) or getattr(method, TWIN) != 0:
        return []
    return [replace(method, **{TWIN: seed}) for seed in seeds]


def fit_learners(lvlm: LVLM, folder: Path, draw: Callable[[str], PairSet | QuestionSet], seed: int) -> dict[str, str]:
    """Write an artifact of each strategy that is fitted to the model, where the folder has none.

    Artifacts that the model has been loaded with are copied.

    Args:
        lvlm: The model.
        folder: Folder of the artifacts.
        draw: Makes what strategies learn from, as their `learns_from` names it; called once for each kind in need.
        seed: Seed of the fits.

    Returns:
        Name of a strategy that could not be fitted, to the reason.
    """
    failed, drawn = dict[str, str](), dict[str, PairSet | QuestionSet]()
    for name, kind in unfitted_learners(folder).items():
        artifact = lvlm.adapter.artifacts.get(name)
        try:
            if artifact is None or artifact.refused is not None:
                if kind.learns_from not in drawn:
                    drawn[kind.learns_from] = draw(kind.learns_from)
                artifact = fit(lvlm, kind(), drawn[kind.learns_from], seed)
            artifact.write(folder / f"{name}.safetensors")
        except MmhallError as error:
            failed[name] = str(error).removeprefix(f"{name}: ")
    return failed


def unfitted_learners(folder: Path) -> dict[str, type[LearnedStrategy]]:
    """Return the installed strategies that are fitted to a model and have no artifact in a folder, by name."""
    kinds = {name: STRATEGIES.load(name) for name in STRATEGIES.names()}
    return {
        name: kind
        for name, kind in kinds.items()
        if issubclass(kind, LearnedStrategy) and not (folder / f"{name}.safetensors").exists()
    }
