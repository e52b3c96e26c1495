"""The cells of POPE's published table: three sets of pictures, each with three settings.

A question file says its set in its name or that of its folder: coco_pope_random.json, aokvqa_pope_seem_popular.json,
gqa/pope_adversarial.json. A-OKVQA's pictures are COCO's; GQA's are others, in a folder of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mmhall.benchmarks.data.pope_maker import SETTINGS
from mmhall.errors import DataError
from mmhall.files import is_file

GQA = "gqa"
SETS: Mapping[str, tuple[str, ...]] = {"coco": ("coco",), "aokvqa": ("aokvqa", "a-okvqa"), GQA: (GQA,)}
"""Name of a set to the spellings of it in file names."""

CELLS = tuple(f"{name} {setting}" for name in SETS for setting in SETTINGS)
FOLDERS = ("coco", "aokvqa", "gqa", "seem/aokvqa", "seem/gqa")  # below POPE's own folder, in its repository and VCD's
_PICTURES = ("", "val2014", "train2014", "val2017", "train2017", "images", "coco", "coco/val2014", "gqa", "gqa/images")


def set_of(file: Path, root: Path) -> str:
    """Return the set of a question file, by its name or its folders below a root; "": none is named.

    >>> set_of(Path("/pope/seem/aokvqa/pope_random.json"), Path("/pope")), set_of(Path("/gqa/pope.json"), Path("/gqa"))
    ('aokvqa', '')
    """
    parts = file.relative_to(root).parts if file.is_relative_to(root) else (file.name,)
    for part in reversed(parts or (file.name,)):
        for name, spellings in SETS.items():
            if any(spelling in part.lower() for spelling in spellings):
                return name
    return ""


def split_cell(group: str) -> tuple[str, str]:
    """Return set and setting of a group; the set is "" where the data has one set only.

    >>> split_cell("gqa random"), split_cell("popular")
    (('gqa', 'random'), ('', 'popular'))
    """
    name, _, setting = group.rpartition(" ")
    return name, setting


def find_cell_pictures(
    pictures: Iterable[tuple[str, Iterable[str]]],
    folder: Path,
    gqa_folder: Path | None,
    limit: int | None = None,
    required: bool = True,
) -> dict[str, Path]:
    """Find the files of pictures in the folder of their set.

    Args:
        pictures: Name of the picture of each question, with the groups of the question.
        folder: Folder of the pictures; those of GQA may also be in its folder `gqa` or `gqa/images`.
        gqa_folder: Folder of GQA's pictures; None: `folder`.
        limit: Number of pictures of each set, from the first; None: all.
        required: Whether the files must exist.

    Raises:
        DataError: A required file is missing, one name stands for pictures of two folders, or there is a folder for GQA
            and no question of it.
    """
    by_set: dict[str, dict[str, None]] = {}
    for picture, groups in pictures:
        for name in {split_cell(group)[0] for group in groups}:
            by_set.setdefault(name, {})[picture] = None
    if gqa_folder is not None and GQA not in by_set:
        raise DataError(f"{gqa_folder}: gqa_images is for GQA beside other sets, and the questions are of one set")
    chosen = {name: list(listed)[:limit] for name, listed in by_set.items()}
    own = set(chosen.pop(GQA, ())) if gqa_folder is not None else set[str]()
    shared = dict.fromkeys(picture for listed in chosen.values() for picture in listed)
    both = sorted(own & set(shared))
    if both:
        raise DataError(f"{both[0]}: is a picture of GQA and of another set, in two folders; rename one of them")
    found = find_pictures(shared, folder, required)
    if gqa_folder is not None and own:
        if required and not gqa_folder.is_dir():
            raise DataError(f"{gqa_folder}: no such folder; gqa_images is the folder of GQA's pictures")
        found |= find_pictures([p for p in by_set[GQA] if p in own], gqa_folder, required, "gqa_images='FOLDER'")
    return found


def find_pictures(
    names: Iterable[str], folder: Path, required: bool = True, option: str = "--images"
) -> dict[str, Path]:
    """Find each picture's file in a folder or its usual subfolders; if not required, a missing file gets a path, too.

    Raises:
        DataError: A required file is missing; the message names the option that gives the folder.
    """
    paths = {name: next(_places(name, folder, required), None) for name in names}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise DataError(
            f"{folder / missing[0]}: does not exist ({len(missing)} of {len(paths)} pictures are missing); "
            f"give their folder with {option}"
        )
    return {name: path for name, path in paths.items() if path is not None}


def _places(name: str, folder: Path, required: bool) -> Iterator[Path]:
    return (path for below in _PICTURES if is_file(path := folder / below / name) or not required)
