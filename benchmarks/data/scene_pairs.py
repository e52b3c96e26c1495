"""Before-after questions about drawn scenes: each scene with and without one object.

The scenes are those of an annotation file, drawn again from its seed; their plans are then edited and painted.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmhall.benchmarks.data.beaf import Kind, PairQuestion
from mmhall.benchmarks.data.pope_wording import question_about
from mmhall.benchmarks.data.redrawn import redraw
from mmhall.benchmarks.rules.yesno import Label
from mmhall.benchmarks.scenes.dataset import Scene
from mmhall.benchmarks.scenes.pairs import removable_objects, without_object
from mmhall.benchmarks.scenes.plan import Plan
from mmhall.benchmarks.scenes.world import NAMES
from mmhall.errors import DataError

EDITED = "edited"
"""Folder of the edited pictures, beside those of the scenes."""


@dataclass(frozen=True, slots=True)
class DrawnPairs:
    """Pairs of drawn scenes.

    Attributes:
        questions: Questions by scene, those about the original first.
        edits: Name of each edited picture to its plan.
        skipped: Number of scenes in which no object can be removed.
    """

    questions: tuple[PairQuestion, ...]
    edits: Mapping[str, Plan]
    skipped: int


def draw_pairs(annotations: Path, seed: int, edits: int, limit: int | None = None, *, check: bool = True) -> DrawnPairs:
    """Plan edited versions of drawn scenes, and the questions about both.

    Every picture is asked for all categories of its scene, and for as many that are absent, drawn at random.

    Args:
        annotations: Annotation file of the scenes.
        seed: Seed of the choice of objects.
        edits: Most edited versions of a scene, each without one object.
        limit: Number of scenes, from the first; None: all.
        check: Whether to compare the scenes with their stored pictures.

    Raises:
        DataError: The scenes are of another version, or no object can be removed in any.
    """
    questions: list[PairQuestion] = []
    plans: dict[str, Plan] = {}
    skipped = 0
    for index, name, scene in redraw(annotations, limit, check=check):
        rng = random.Random(f"beaf/{seed}/{index}")
        removable = removable_objects(scene.plan)
        chosen = sorted(rng.sample(removable, min(edits, len(removable))))
        skipped += not chosen
        shown = {placed.name for placed in scene.plan.objects}
        absent = [category for category in NAMES if category not in shown]
        asked = _asked(scene, [scene.plan.objects[i].name for i in chosen], rng, absent)
        plans |= {_edited_name(name, i): without_object(scene.plan, i) for i in chosen}
        if chosen:
            questions += _questions(name, {_edited_name(name, i): scene.plan.objects[i].name for i in chosen}, asked)
    if not questions:
        raise DataError(f"{annotations}: no scene has an object that can be removed; draw more scenes")
    return DrawnPairs(tuple(questions), plans, skipped)


def _asked(scene: Scene, removed: Sequence[str], rng: random.Random, absent: Sequence[str]) -> dict[str, bool]:
    """Return the categories to ask for, present ones first, and whether each is removed in some picture."""
    present = list(dict.fromkeys(placed.name for placed in scene.plan.objects))
    drawn = rng.sample(absent, min(len(present), len(absent)))
    return {name: name in removed for name in (*present, *drawn)}


def _questions(original: str, edits: Mapping[str, str], asked: Mapping[str, bool]) -> Iterator[PairQuestion]:
    """Yield the questions about a scene and its edited versions.

    Args:
        original: Name of the scene's picture.
        edits: Name of each edited picture to the category that it lacks.
        asked: Category to whether it is removed in some picture; the present ones come first.
    """
    present = list(asked)[: (len(asked) + 1) // 2]
    for image, gone in ((original, ""), *edits.items()):
        for name, removed in asked.items():
            label: Label = "yes" if name in present and name != gone else "no"
            kind: Kind = "original" if not gone else "removed" if name == gone else "other" if removed else "kept"
            text = question_about(name, "official")
            yield PairQuestion(f"{image}/{name}", image, original, text, label, kind)


def _edited_name(original: str, index: int) -> str:
    """Return the name of a scene's picture without one object, as BEAF writes it.

    >>> _edited_name("000001.png", 3)
    '000001_03.png'
    """
    return f"{Path(original).stem}_{index:02d}.png"
