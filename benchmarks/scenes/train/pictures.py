"""Training pictures, drawn once and stored on disk as arrays.

Three sets: *random* pictures, whose categories and places are independent, for the vision tower (it
must not learn co-occurrence), *typical* ones, for the joint training of the plain model, and *hard*
ones, in which pairs really occur together, for that of the model `prior`.
"""

from __future__ import annotations

import json
import multiprocessing
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmhall.benchmarks.scenes.hard import plan_hard_training_scene
from mmhall.benchmarks.scenes.language import Fact
from mmhall.benchmarks.scenes.plan import Plan, plan_random_scene, plan_scene, plan_training_scene
from mmhall.benchmarks.scenes.render import SIZE, Rendered, render
from mmhall.benchmarks.scenes.train.architecture import IMAGE_SIZE, IMAGE_TOKENS, SIDE
from mmhall.benchmarks.scenes.world import NAMES, PLACES

CLASSES = (*NAMES, *(place.name for place in PLACES))  # what a patch can be: an object or a place's background
_CELL = SIZE // SIDE
_CHUNK = 500
_SETS: dict[str, Callable[[random.Random], Plan]] = {
    "random": plan_random_scene,
    "typical": plan_training_scene,
    "hard": plan_hard_training_scene,
    "conflict": lambda rng: plan_scene(rng, conflict=True),
}


@dataclass(frozen=True, slots=True)
class Pictures:
    """A set of drawn pictures; N pictures.

    Attributes:
        pixels: (N, 112, 112, 3) uint8.
        patches: What each patch shows, index into CLASSES, (N, 64) uint8.
        facts: What each picture shows, by category.
        places: Index into PLACES, N.
    """

    pixels: npt.NDArray[np.uint8]
    patches: npt.NDArray[np.uint8]
    facts: list[list[Fact]]
    places: list[int]


def pictures(folder: Path, kind: str, count: int) -> Pictures:
    """Load a set; draw missing chunks first (count is rounded up to full chunks)."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder, kind, i) for i in range(-(-count // _CHUNK))]
    missing = [job for job in jobs if not _path(*job).exists()]
    if missing:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            for done, _ in enumerate(pool.imap_unordered(_draw_chunk, missing), start=1):
                print(f"drawing {kind} pictures: {done * _CHUNK} of {len(missing) * _CHUNK}", flush=True)
    arrays = [np.load(_path(*job), allow_pickle=False) for job in jobs]
    lines = [line for a in arrays for line in json.loads(str(a["told"]))]
    return Pictures(
        np.concatenate([a["pixels"] for a in arrays]),
        np.concatenate([a["patches"] for a in arrays]),
        [[Fact(**fact) for fact in line["facts"]] for line in lines],
        [line["place"] for line in lines],
    )


def true_facts(rendered: Rendered) -> list[Fact]:
    """Summarize the visible objects of a picture, by category."""
    facts: dict[str, Fact] = {}
    for seen in sorted(rendered.objects, key=lambda s: -s.area):
        if seen.name in facts:
            first = facts[seen.name]
            facts[seen.name] = Fact(
                first.name, first.count + 1, first.x, first.y, first.area, first.hard and seen.visibility != "clear"
            )
            continue
        left, top, width, height = seen.box
        facts[seen.name] = Fact(
            seen.name,
            1,
            round((left + width / 2) / SIZE, 3),
            round((top + height / 2) / SIZE, 3),
            round(seen.area / SIZE**2, 4),
            seen.visibility != "clear",
        )
    return list(facts.values())


def _path(folder: Path, kind: str, index: int) -> Path:
    return folder / f"{kind}-{index:04d}.npz"


def _draw_chunk(job: tuple[Path, str, int]) -> None:
    folder, kind, index = job
    rng = random.Random(f"{kind}/{index}")
    pixels = np.empty((_CHUNK, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    patches = np.empty((_CHUNK, IMAGE_TOKENS), np.uint8)
    lines = []
    for i in range(_CHUNK):
        plan = _SETS[kind](rng)
        rendered = render(plan)
        pixels[i] = np.asarray(rendered.image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
        patches[i] = _patch_classes(plan, rendered)
        lines.append({"facts": [asdict(f) for f in true_facts(rendered)], "place": PLACES.index(plan.place)})
    scratch = _path(folder, kind, index).with_suffix(".tmp.npz")
    np.savez(scratch, pixels=pixels, patches=patches, told=json.dumps(lines))
    scratch.rename(_path(folder, kind, index))


def _patch_classes(plan: Plan, rendered: Rendered) -> npt.NDArray[np.uint8]:
    """Give each patch the object that owns most of it, or its place when no object owns a sixth."""
    cells = rendered.owner.reshape(SIDE, _CELL, SIDE, _CELL).transpose(0, 2, 1, 3).reshape(IMAGE_TOKENS, -1)
    shares = np.stack([(cells == i).mean(axis=1) for i in range(len(plan.objects))], axis=1)  # (64, objects)
    best = shares.argmax(axis=1)
    names = np.array([NAMES.index(o.name) for o in plan.objects])
    background = len(NAMES) + PLACES.index(plan.place)
    return np.where(shares.max(axis=1) > 1 / 6, names[best], background).astype(np.uint8)
