"""Drawn scenes, drawn again from their annotation file, so that their plans can be edited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmhall.benchmarks.data.reading import read_json
from mmhall.benchmarks.scenes.dataset import ANNOTATIONS, Scene, make_scene, picture_name
from mmhall.benchmarks.scenes.plan import Plan
from mmhall.benchmarks.scenes.render import render
from mmhall.errors import DataError
from mmhall.files import atomic_path

_READS = f"the {ANNOTATIONS} of drawn scenes"


def is_drawn(path: Path) -> bool:
    """Tell whether a file is the annotation file of drawn scenes."""
    return path.is_file() and path.name == ANNOTATIONS and "count" in scene_info(path)


def scene_info(annotations: Path) -> dict[str, Any]:
    """Return how scenes were drawn: their count, seed, conflict and kind; empty for another file.

    Raises:
        DataError: The file cannot be read, or is no JSON.
    """
    data = read_json(annotations, _READS)
    info = data.get("info") if isinstance(data, dict) else None
    if not isinstance(info, dict) or info.get("description") != "mmhall scenes":
        return {}
    numbers = isinstance(info.get("count"), int), isinstance(info.get("seed"), int)
    known = all(numbers) and isinstance(info.get("conflict"), int | float)
    return {"kind": "usual", **info} if known else {}


def redraw(annotations: Path, limit: int | None = None, *, check: bool = True) -> Iterator[tuple[int, str, Scene]]:
    """Yield the scenes of an annotation file: place in the series, file name and scene.

    Args:
        annotations: Annotation file of the scenes.
        limit: Number of scenes, from the first; None: all.
        check: Whether to compare the scenes with their stored pictures.

    Raises:
        DataError: The scenes are of another version, or a picture cannot be read.
    """
    info = scene_info(annotations)
    for index in range(min(info["count"], limit or info["count"])):
        scene, name = make_scene(info["seed"], index, info["conflict"], info["kind"]), picture_name(index)
        if check:
            _check_same(scene, annotations.parent / name)
        yield index, name, scene


def write_plans(plans: Mapping[str, Plan], folder: Path) -> dict[str, Path]:
    """Paint the pictures that are not there yet; returns their files.

    Args:
        plans: File name of each picture to its plan.
        folder: Made if need be.

    Raises:
        DataError: The folder cannot be written.
    """
    files = {name: folder / name for name in plans}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, plan in plans.items():
            if not files[name].is_file():
                with atomic_path(files[name]) as scratch:
                    render(plan).image.save(scratch, "PNG")
    except OSError as error:
        raise DataError(f"{folder}: cannot write the edited scenes: {error.strerror or error}") from error
    return files


def _check_same(scene: Scene, picture: Path) -> None:
    try:
        with Image.open(picture) as stored:
            same = np.array_equal(np.asarray(stored.convert("RGB")), np.asarray(scene.image))
    except OSError as error:
        raise DataError(f"{picture}: cannot be read: {error}; draw the scenes again") from error
    if not same:
        raise DataError(f"{picture}: was drawn by another version of mmhall; draw the scenes again with this one")
