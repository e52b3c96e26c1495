"""Before-after questions about drawn scenes: each scene with and without one object.

The scenes are those of an annotation file, drawn again from its seed; their plans are then edited and painted.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmhall.benchmarks.data.beaf import READS, Kind, PairQuestion
from mmhall.benchmarks.data.pope_wording import question_about
from mmhall.benchmarks.data.reading import read_json
from mmhall.benchmarks.rules.yesno import Label
from mmhall.benchmarks.scenes.dataset import ANNOTATIONS, Scene, make_scene, picture_name
from mmhall.benchmarks.scenes.pairs import removable_objects, without_object
from mmhall.benchmarks.scenes.plan import Plan
from mmhall.benchmarks.scenes.render import render
from mmhall.benchmarks.scenes.world import NAMES
from mmhall.errors import DataError
from mmhall.files import atomic_path

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


def is_drawn(path: Path) -> bool:
    """Tell whether a file is the annotation file of drawn scenes."""
    return path.is_file() and path.name == ANNOTATIONS and "count" in _info(path)


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
    info = _info(annotations)
    questions: list[PairQuestion] = []
    plans: dict[str, Plan] = {}
    skipped = 0
    for index in range(min(info["count"], limit or info["count"])):
        scene = make_scene(info["seed"], index, info["conflict"])
        if check:
            _check_same(scene, annotations.parent / picture_name(index))
        rng = random.Random(f"beaf/{seed}/{index}")
        removable = removable_objects(scene.plan)
        chosen = sorted(rng.sample(removable, min(edits, len(removable))))
        skipped += not chosen
        absent = [name for name in NAMES if name not in {placed.name for placed in scene.plan.objects}]
        asked = _asked(scene, [scene.plan.objects[i].name for i in chosen], rng, absent)
        name = picture_name(index)
        plans |= {_edited_name(name, i): without_object(scene.plan, i) for i in chosen}
        if chosen:
            questions += _questions(name, {_edited_name(name, i): scene.plan.objects[i].name for i in chosen}, asked)
    if not questions:
        raise DataError(f"{annotations}: no scene has an object that can be removed; draw more scenes")
    return DrawnPairs(tuple(questions), plans, skipped)


def write_edits(pairs: DrawnPairs, folder: Path) -> dict[str, Path]:
    """Paint the edited pictures that are not there yet; returns their files.

    Raises:
        DataError: The folder cannot be written.
    """
    files = {name: folder / name for name in pairs.edits}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, plan in pairs.edits.items():
            if not files[name].is_file():
                with atomic_path(files[name]) as scratch:
                    render(plan).image.save(scratch, "PNG")
    except OSError as error:
        raise DataError(f"{folder}: cannot write the edited scenes: {error.strerror or error}") from error
    return files


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


def _check_same(scene: Scene, picture: Path) -> None:
    try:
        with Image.open(picture) as stored:
            same = np.array_equal(np.asarray(stored.convert("RGB")), np.asarray(scene.image))
    except OSError as error:
        raise DataError(f"{picture}: cannot be read: {error}; draw the scenes again") from error
    if not same:
        raise DataError(f"{picture}: was drawn by another version of mmhall; draw the scenes again with this one")


def _info(annotations: Path) -> dict[str, Any]:
    """Return how scenes were drawn: their count, seed and conflict; empty for another file."""
    data = read_json(annotations, READS)
    info = data.get("info") if isinstance(data, dict) else None
    if not isinstance(info, dict) or info.get("description") != "mmhall scenes":
        return {}
    numbers = isinstance(info.get("count"), int), isinstance(info.get("seed"), int)
    return info if all(numbers) and isinstance(info.get("conflict"), int | float) else {}
