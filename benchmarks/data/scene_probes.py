"""Aspect questions about drawn scenes: each scene changed in one object for each aspect, and what that changes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmhall.benchmarks.data.aspects import AspectQuestion
from mmhall.benchmarks.data.redrawn import redraw
from mmhall.benchmarks.rules.choices import LETTERS
from mmhall.benchmarks.scenes.plan import Plan
from mmhall.benchmarks.scenes.probes import ASPECTS, Asked, Change
from mmhall.benchmarks.scenes.render import render
from mmhall.errors import DataError

PROBES = "probes"
"""Folder of the changed pictures, beside those of the scenes."""


@dataclass(frozen=True, slots=True)
class DrawnProbes:
    """Probes of drawn scenes.

    Attributes:
        questions: Questions by scene, aspect and pair.
        plans: Name of each changed picture to its plan.
        skipped: Aspect to the number of scenes in which nothing could be changed.
    """

    questions: tuple[AspectQuestion, ...]
    plans: Mapping[str, Plan]
    skipped: Mapping[str, int]


def draw_probes(
    annotations: Path, seed: int, limit: int | None = None, *, choice: bool, check: bool = True
) -> DrawnProbes:
    """Plan changed versions of drawn scenes, and the questions about them.

    Args:
        annotations: Annotation file of the scenes.
        seed: Seed of the changes and questions.
        limit: Number of scenes, from the first; None: all.
        choice: Whether to ask with options instead of for yes or no.
        check: Whether to compare the scenes with their stored pictures.

    Raises:
        DataError: The scenes are of another version, or nothing can be changed in any.
    """
    questions: list[AspectQuestion] = []
    plans: dict[str, Plan] = {}
    skipped: Counter[str] = Counter()
    for index, name, scene in redraw(annotations, limit, check=check):
        shown = render(scene.plan)
        for aspect, changes_of in ASPECTS.items():
            rng = random.Random(f"probes/{seed}/{index}/{aspect}")
            changes = changes_of(rng, scene.plan, shown, choice)
            skipped[aspect] += not changes
            for number, change in enumerate(changes):
                prefix = f"{Path(name).stem}_{'choice_' if choice else ''}{aspect}{number}"
                before = name if change.before is None else f"{prefix}_a.png"
                after = f"{prefix}_b.png"
                plans |= {after: change.after} | ({} if change.before is None else {before: change.before})
                questions += _questions(name, prefix, aspect, change, before, after)
    if not questions:
        raise DataError(f"{annotations}: no object of any scene can be changed; draw more scenes")
    return DrawnProbes(tuple(questions), plans, {aspect: count for aspect, count in skipped.items() if count})


def _questions(
    scene: str, prefix: str, aspect: str, change: Change, before: str, after: str
) -> Iterator[AspectQuestion]:
    """Yield each question about both pictures."""
    for number, asked in enumerate(change.asked):
        pair = f"{prefix}/{number}"
        for image, answer, which in ((before, asked.before, "before"), (after, asked.after, "after")):
            yield AspectQuestion(
                f"{pair}/{which}", image, scene, aspect, asked.text, _label(asked, answer), asked.options, pair,
                change.kind,
            )  # fmt: skip


def _label(asked: Asked, answer: str) -> str:
    return LETTERS[asked.options.index(answer)] if asked.options else answer
