"""The part that each strategy of a run plays: an arm with a row of its own, a random twin of one, a plain control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmhall.errors import OptionError
from mmhall.options import parse, split

GREEDY, SAMPLING = "greedy", "sampling"  # decoding rules, the second with its settings behind it
LEAST_SEEDS = 3  # of sampled answers, below which nothing is claimed
TWIN = "twin"  # the option of `mmhall.strategies.twin_option`
PLAIN_CONTROLS = frozenset({"apc", "brief", "olm", "yes-prompt", "yes-shift"})
"""Names of strategies that change the decoding rule, the threshold or the prompt, and nothing else."""
PLAIN_SEARCHES = frozenset({"beam", "self-verify"})
"""Names of strategies that search with the plain model."""


@dataclass(frozen=True, slots=True)
class Lineup:
    """What each strategy of a table is compared with.

    Attributes:
        arms: Strategies with a row of their own, the baseline first.
        twins: Arm to its random twins.
        controls: Strategies that are plain controls; they may be arms, too.
        rules: Strategy to its decoding rule in words, such as "greedy"; where it is missing, the baseline's.
        searches: Strategies that search with the plain model; they may be arms, too.
        seeds: Number of decoding seeds that the answers were drawn with; several are answers of several runs.
    """

    arms: tuple[str, ...]
    twins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    rules: Mapping[str, str] = field(default_factory=dict)
    searches: tuple[str, ...] = ()
    seeds: int = 1

    @property
    def everyone(self) -> tuple[str, ...]:
        """All strategies, each once."""
        twins = (twin for arm in self.arms for twin in self.twins.get(arm, ()))
        return tuple(dict.fromkeys((*self.arms, *twins, *self.controls, *self.searches)))

    @property
    def plain_captions(self) -> tuple[str, ...]:
        """Strategies whose captions are controls of others.

        They are plain controls that decode by the baseline's rule, and, of a greedy baseline, plain searches.
        """
        same = (name for name in self.controls if self.rule(name) == self.rule(self.arms[0]))
        return (*same, *(self.searches if self.is_greedy else ()))

    @property
    def is_greedy(self) -> bool:
        """Whether the baseline decodes greedily, or nothing is known of its rule."""
        return self.rule(self.arms[0]) in ("", GREEDY)

    def lacks_seeds(self, strategy: str) -> bool:
        """Tell whether the answers of a strategy are sampled, with too few seeds to claim anything."""
        return self.rule(strategy).startswith(SAMPLING) and self.seeds < LEAST_SEEDS

    def rule(self, strategy: str) -> str:
        """Return the decoding rule of a strategy."""
        return self.rules.get(strategy, self.rules.get(self.arms[0], ""))


def lineup_of(specs: Sequence[str], rules: Mapping[str, str] | None = None) -> Lineup:
    """Tell arms, twins and controls apart by how strategies are written.

    A twin is written as another strategy of the run, with `twin=SEED` in addition; without that strategy it is an arm.

    Args:
        specs: Strategies as written for the run, the baseline first.
        rules: Decoding rule of each strategy.

    >>> lineup_of(["greedy", "vdd(alpha=0.5)", "vdd(alpha=0.5, twin=1)", "apc"]).twins
    {'vdd(alpha=0.5)': ('vdd(alpha=0.5, twin=1)',)}
    """
    parts = {spec: _parts(spec) for spec in specs}
    twins: dict[str, tuple[str, ...]] = {}
    for spec, own in parts.items():
        plain = [(name, {key: value for key, value in options.items() if key != TWIN}) for name, options in own]
        arm = next((other for other in specs if own != plain == parts[other]), None)
        if arm is not None:
            twins[arm] = (*twins.get(arm, ()), spec)
    drawn = {twin for group in twins.values() for twin in group}
    controls, searches = (
        tuple(spec for spec, own in parts.items() if all(name in names for name, _ in own))
        for names in (PLAIN_CONTROLS, PLAIN_SEARCHES)
    )
    arms = tuple(spec for spec in specs if spec not in drawn)
    return Lineup(arms, twins, controls, dict(rules or {}), searches)


def _parts(spec: str) -> list[tuple[str, dict[str, Any]]]:
    """Return names and options of a strategy; an imported one may have any name."""
    try:
        return [parse(part) for part in split(spec)]
    except OptionError:
        return [(spec, {})]
