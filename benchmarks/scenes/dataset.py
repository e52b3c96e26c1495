"""Scenes as a data set: PNG files and one COCO detection file."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from mmhall.benchmarks.scenes.hard import plan_hard_scene
from mmhall.benchmarks.scenes.plan import Plan, plan_scene
from mmhall.benchmarks.scenes.render import SIZE, VisibleObject, render
from mmhall.benchmarks.scenes.world import CATEGORIES
from mmhall.errors import DataError, OptionError


class Planner(Protocol):
    """A function that plans a test scene."""

    def __call__(self, rng: random.Random, *, conflict: bool) -> Plan:
        """Plan one scene."""


ANNOTATIONS = "annotations.json"
_LEAST_AREA, _LEAST_VISIBLE = 150, 0.3
KINDS: dict[str, Planner] = {"usual": plan_scene, "hard": plan_hard_scene}


@dataclass(frozen=True, slots=True)
class Scene:
    """A drawn scene.

    Attributes:
        image: RGB, 224 x 224 pixels.
        plan: Plan of the scene.
        objects: Visible objects, in random order.
    """

    image: Image.Image
    plan: Plan
    objects: tuple[VisibleObject, ...]


def make_scene(seed: int, index: int, conflict: float = 0.5, kind: str = "usual") -> Scene:
    """Draw scene `index` of a seed; the same arguments give the same bytes.

    A plan with a hardly visible object is discarded and drawn again, so that the truth
    has all objects that a person can see, and no others.

    Args:
        seed: Seed of the series.
        index: 0-based place in the series, independent of its length.
        conflict: Share of scenes that break co-occurrence, in [0, 1].
        kind: "usual", or "hard": see `mmhall.benchmarks.scenes.hard`.

    Raises:
        OptionError: There is no such kind.
    """
    rng = random.Random(f"{'scene' if kind == 'usual' else kind}/{seed}/{index}")
    breaks, planner = rng.random() < conflict, _planner(kind)
    while True:
        plan = planner(rng, conflict=breaks)
        rendered = render(plan)
        shows = [s.area >= _LEAST_AREA and s.visible >= _LEAST_VISIBLE for s in rendered.objects]
        if len(shows) == len(plan.objects) and all(shows):
            objects = rng.sample(rendered.objects, len(rendered.objects))  # POPE asks for what is listed first
            return Scene(rendered.image, plan, tuple(objects))


def _planner(kind: str) -> Planner:
    if kind not in KINDS:
        raise OptionError("scenes", "kind", kind, " or ".join(KINDS))
    return KINDS[kind]


def picture_name(index: int) -> str:
    """Return the file name of a scene's picture.

    >>> picture_name(0)
    '000001.png'
    """
    return f"{index + 1:06d}.png"


def write_scenes(folder: Path, count: int, seed: int, conflict: float = 0.5, kind: str = "usual") -> Iterator[int]:
    """Write scenes to a folder, yielding how many are done; the annotation file comes last.

    Args:
        folder: Made if need be; files of the same names are overwritten.
        count: How many scenes, >= 1.
        seed: Seed of the series.
        conflict: Share of scenes that break co-occurrence, in [0, 1].
        kind: "usual" or "hard".

    Raises:
        OptionError: A number is out of range.
        DataError: The folder cannot be written.
    """
    if count < 1:
        raise OptionError("scenes", "n", count, "an integer >= 1")
    if not 0 <= conflict <= 1:
        raise OptionError("scenes", "conflict", conflict, "a number in [0, 1]")
    _planner(kind)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ANNOTATIONS).unlink(missing_ok=True)  # old truth must never stand beside new pictures
        for index in range(count):
            scene = make_scene(seed, index, conflict, kind)
            name = picture_name(index)
            scene.image.save(folder / name)
            images.append(
                {
                    "id": index + 1,
                    "file_name": name,
                    "width": SIZE,
                    "height": SIZE,
                    "place": scene.plan.place.name,
                    "conflict": scene.plan.conflict,
                }
            )
            annotations += [
                _annotation(len(annotations) + i, index + 1, shown) for i, shown in enumerate(scene.objects, 1)
            ]
            yield index + 1
        data: dict[str, Any] = {
            "info": {"description": "mmhall scenes", "seed": seed, "conflict": conflict, "count": count},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": c.coco_id, "name": c.name, "supercategory": c.supercategory} for c in CATEGORIES],
        }
        if kind != "usual":
            data["info"]["kind"] = kind
        scratch = folder / f"{ANNOTATIONS}.part"
        scratch.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        scratch.replace(folder / ANNOTATIONS)
    except OSError as error:
        raise DataError(f"{folder}: cannot write scenes: {error.strerror or error}") from error


def _annotation(number: int, image: int, shown: VisibleObject) -> dict[str, Any]:
    category = next(c for c in CATEGORIES if c.name == shown.name)
    return {
        "id": number,
        "image_id": image,
        "category_id": category.coco_id,
        "bbox": list(shown.box),
        "area": shown.area,
        "iscrowd": 0,
        "visibility": shown.visibility,
    }
