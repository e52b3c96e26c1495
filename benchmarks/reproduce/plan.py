"""The plan of a reproduction: answers, time and memory of each step, before anything is downloaded."""

from __future__ import annotations

from dataclasses import dataclass

from mmhall.benchmarks.base import Benchmark
from mmhall.benchmarks.reproduce.data import Given, locate
from mmhall.benchmarks.reproduce.probe import ArmCost, Probe
from mmhall.benchmarks.reproduce.protocol import Shape, Step
from mmhall.benchmarks.reproduce.record import Record
from mmhall.benchmarks.run.arms import choose_arms
from mmhall.benchmarks.run.runs import Part, make_strategies
from mmhall.errors import DataError

TEXT_TOKENS = 64
"""Tokens of a prompt beside the picture: room for the longest template of the protocols."""


@dataclass(frozen=True, slots=True)
class PartPlan:
    """The plan of one benchmark.

    Attributes:
        benchmark: The benchmark.
        items: Number of items.
        counted: Whether the data is at hand, so that the items were counted; else it is the published number.
        usual: Usual tokens of an answer.
        seconds: Strategy to estimated seconds of its answers; None: not measured.
        remarks: In what the data differs from the published one.
    """

    benchmark: Benchmark
    items: int
    counted: bool
    usual: int
    seconds: dict[str, float | None]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The plan of one step.

    Attributes:
        step: The step.
        parts: Its benchmarks.
        arms: Its strategies, random twins included.
        missing: Why it cannot run; "": it can.
    """

    step: Step
    parts: tuple[PartPlan, ...]
    arms: tuple[ArmCost, ...]
    missing: str = ""

    @property
    def able(self) -> tuple[ArmCost, ...]:
        """The strategies that the model can carry."""
        return tuple(arm for arm in self.arms if not arm.refused)

    @property
    def answers(self) -> int:
        """Number of answers."""
        return len(self.able) * sum(part.items for part in self.parts)

    @property
    def token_rows(self) -> int:
        """Rows of all forward passes that write answers of the usual length, the first token's aside."""
        rows = sum(arm.token_rows for arm in self.able)
        return rows * sum(part.items * max(0, part.usual - 1) for part in self.parts)

    @property
    def seconds(self) -> float | None:
        """Estimated seconds; None: not measured."""
        each = [part.seconds.get(arm.strategy) for part in self.parts for arm in self.able]
        return None if not each or None in each else sum(value for value in each if value is not None)

    def cache_bytes(self, shape: Shape, batch_size: int, width: int) -> int:
        """Return the memory of keys and values at the end of the longest answers of a full batch.

        Args:
            shape: Size of the model.
            batch_size: Items decoded together.
            width: Bytes of a value.
        """
        rows = max((arm.token_rows for arm in self.able), default=0)
        longest = max((part.benchmark.max_new_tokens for part in self.parts), default=0)
        return batch_size * rows * shape.cache_bytes(shape.image_tokens + TEXT_TOKENS + longest, width)


def plan_step(step: Step, given: Given, record: Record, probe: Probe, batch_size: int) -> StepPlan:
    """Plan one step; local data is read and counted, data of the hub has its published number of items.

    Args:
        step: The step.
        given: The data.
        record: What is asked for.
        probe: The model that is measured.
        batch_size: Items decoded together.

    Raises:
        DataError: Local data is damaged.
    """
    arms = choose_arms(make_strategies(step.strategies), probe.lvlm.adapter, every=False, twins=record.twins).strategies
    costs = tuple(probe.cost(arm) for arm in arms)
    try:
        located = locate(step, given, record.datasets)
    except DataError as error:
        return StepPlan(step, (), costs, str(error))
    built = [located.benchmark(spec) for spec in step.benchmarks]
    if crowded := probe.without_room(max(one.max_new_tokens for one in built)):
        return StepPlan(step, (), costs, crowded)
    limit, parts = limit_of(step, given), []
    for benchmark, published in zip(built, step.items, strict=True):
        usual = min(step.usual[benchmark.name], benchmark.max_new_tokens)
        if located.on_hub:
            parts.append(PartPlan(benchmark, published, False, usual, {}, located.remarks))
            continue
        material = benchmark.material(located.source(benchmark.name, limit))
        part = Part(benchmark, list(material.items), material.pictures)
        able = [arm for arm, cost in zip(arms, costs, strict=True) if not cost.refused]
        seconds = {str(arm): probe.seconds(part, arm, batch_size, usual) for arm in able}
        parts.append(PartPlan(benchmark, len(material.items), True, usual, seconds, located.remarks))
    return StepPlan(step, tuple(parts), costs)


def limit_of(step: Step, given: Given) -> int | None:
    """Return the number of pictures of a step: the smaller of the protocol's and the user's; None: all."""
    limits = [limit for limit in (step.pictures, given.limit) if limit is not None]
    return min(limits, default=None)
