"""Capability scores: how well a model answers ordinary questions with a strategy, beside what it hallucinates.

A method may hallucinate less because it says less, or knows less. Its score in a general benchmark shows the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mmhall.errors import DataError

NOT_MEASURED = "capability not measured"


@dataclass(frozen=True, slots=True)
class Capability:
    """The scores of one strategy.

    Attributes:
        source: File of the scores.
        scores: Benchmark, such as "MMStar", to its score in percent.
        documents: Benchmark to the number of documents that were scored, where it is known.
        strategy: The strategy, as `mmhall.strategy` reads it; "": unknown.
        model: The model; "": unknown.
    """

    source: str
    scores: Mapping[str, float]
    documents: Mapping[str, int] = field(default_factory=dict)
    strategy: str = ""
    model: str = ""


def merge(files: Sequence[Capability]) -> Capability:
    """Merge the scores of one strategy from several files.

    Raises:
        DataError: Two files score the same benchmark.
    """
    first, *rest = files
    for other in rest:
        twice = sorted(set(first.scores) & set(other.scores))
        if twice:
            raise DataError(f"{other.source}: scores {twice[0]} again, after {first.source}; give one of them")
        both = {**first.documents, **other.documents}
        first = replace(first, scores={**first.scores, **other.scores}, documents=both)
    return first


def change(benchmark: str, own: Capability | None, base: Capability | None) -> float | None:
    """Return by how many points a score differs from the baseline's; None: one of them was not measured.

    70.2 of the baseline and 56.4 are -13.8.

    Raises:
        DataError: The two were measured on different numbers of documents.
    """
    if own is None or base is None or benchmark not in own.scores or benchmark not in base.scores:
        return None
    numbers = [each.documents.get(benchmark) for each in (base, own)]
    if None not in numbers and numbers[0] != numbers[1]:
        raise DataError(
            f"{own.source}: scores {numbers[1]} documents of {benchmark}, {base.source} {numbers[0]}; measure the same"
        )
    return own.scores[benchmark] - base.scores[benchmark]
