"""Pictures with known objects, read from a COCO detection file, a CSV picture list, or lists of objects in JSON.

The drawn scenes are read here in the same way as a user's own data.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from mmhall import files
from mmhall.benchmarks.base import Benchmark, Item, Material, Source
from mmhall.benchmarks.data.picture_lists import add_object, find_files, read_csv, read_object_lists
from mmhall.errors import DataError
from mmhall.objects.categories import coco_name, forms, unify_categories
from mmhall.results.kinds import describe_data, describe_file

_DRAWN = "mmhall scenes"  # the description in the annotation file of drawn scenes
_USUAL = "usual"  # their kind, where the file names none
_HALF = re.compile(r"\\u[dD]")  # an escape that may be half of a character, which nothing can be written with

Corners = tuple[float, float, float, float]
"""Left, top, right and bottom edge of a box, as fractions of the picture's width and height."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One annotated picture.

    Attributes:
        id: Id of the picture, as text.
        path: File of the picture.
        objects: Distinct category names, in the order of their first listing.
        visibility: Category to visibility, if the file has it (drawn scenes have).
        boxes: Category to the boxes of its instances, if the file has them.
        place: Where a drawn scene is, such as "kitchen"; "" for other pictures.
    """

    id: str
    path: Path
    objects: tuple[str, ...]
    visibility: dict[str, str]
    boxes: Mapping[str, tuple[Corners, ...]] = field(default_factory=dict)
    place: str = ""


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Annotated pictures and the categories of their file.

    Attributes:
        pictures: In ascending order of id.
        categories: Every category name, sorted.
        words: Category to the synonyms that the file gives.
        remarks: Notes for the report on the file.
        drawn: Kind of drawn scenes, "usual" or "hard", where the file says that mmhall drew the pictures; else "".
    """

    pictures: tuple[Picture, ...]
    categories: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    drawn: str = ""
    _by_id: dict[str, Picture] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index pictures by id."""
        object.__setattr__(self, "_by_id", {picture.id: picture for picture in self.pictures})

    @property
    def digest(self) -> str:
        """SHA-256 digest of ids, objects and files, 16 hex digits: sets with one digest are equal."""
        hashed = hashlib.sha256()
        for picture in self.pictures:
            hashed.update(json.dumps([picture.id, *picture.objects]).encode())
            hashed.update(hashlib.sha256(picture.path.read_bytes()).digest())
        return hashed.hexdigest()[:16]

    def __getitem__(self, picture: str) -> Picture:
        """Return a picture by id."""
        return self._by_id[picture]


def read_pictures(
    path: Path, images: Path, limit: int | None = None, required: bool = True, *, boxes: bool = True
) -> PictureSet:
    """Read a CSV picture list if the name ends in ".csv", else a COCO detection file or object lists in JSON.

    Args:
        path: The file.
        images: Base folder of picture names.
        limit: Number of pictures to keep, in order of id.
        required: Whether the picture files must exist.
        boxes: Whether to read the boxes of objects, too.

    Raises:
        DataError: The file or a picture is missing or malformed.
    """
    if path.suffix.lower() == ".csv":
        listed = read_csv(path)
        paths = {name: images / name for name in listed}
    else:
        data = read_json(path, "a COCO detection file", _annotation_parts(boxes))
        sets = read_object_lists(path, data)
        if sets is None:
            return _coco(data, path, images, limit, required)
        listed, paths = sets, find_files(sets, images)
    names = sorted(listed, key=lambda name: (len(name), name) if name.isdecimal() else (0, name))[:limit]
    unified = unify_categories(name for objects in listed.values() for name in objects)
    unified_objects = {name: _unify_objects(listed[name], unified) for name in names}
    pictures = [Picture(name, paths[name], tuple(unified_objects[name]), unified_objects[name]) for name in names]
    return replace(_make_picture_set(path, pictures, set(unified.values()), required), remarks=_person_remarks(unified))


def read_coco(annotations: Path, images: Path, limit: int | None = None, required: bool = True) -> PictureSet:
    """Read a COCO detection file; ids may be numbers or text.

    Args:
        annotations: JSON with `images`, `annotations` and `categories`.
        images: Base folder of `file_name`.
        limit: Number of pictures to keep, in order of id.
        required: Whether the picture files must exist.

    Raises:
        DataError: The file or a picture is missing, or it is no COCO detection file.
    """
    data = read_json(annotations, "a COCO detection file", _annotation_parts(boxes=True))
    return _coco(data, annotations, images, limit, required)


def _annotation_parts(boxes: bool) -> Callable[[dict[str, Any]], Any]:
    """Return a hook of JSON that keeps of a COCO annotation what is needed: a file has millions, with long outlines."""
    kept = ("image_id", "category_id", "visibility", *(("bbox",) if boxes else ()))

    def keep(entry: dict[str, Any]) -> dict[str, Any]:
        if "image_id" in entry and "category_id" in entry:
            return {name: entry[name] for name in kept if name in entry}
        return entry

    return keep


def _coco(data: Any, annotations: Path, images: Path, limit: int | None, required: bool) -> PictureSet:
    try:
        unified = unify_categories(str(entry["name"]) for entry in data["categories"])
        names = {str(entry["id"]): unified[str(entry["name"])] for entry in data["categories"]}
        objects_of: dict[str, dict[str, str]] = {str(entry["id"]): {} for entry in data["images"]}
        for entry in data["annotations"]:
            objects, name = objects_of[str(entry["image_id"])], names[str(entry["category_id"])]
            add_object(objects, name, str(entry.get("visibility", "")))
        boxes = _boxes(data, names)
        pictures = [
            Picture(
                name,
                _file(entry, images),
                tuple(objects_of[name]),
                objects_of[name],
                boxes.get(name, {}),
                str(entry.get("place", "")),
            )
            for name, entry in sorted(
                ((str(entry["id"]), entry) for entry in data["images"]), key=lambda e: (len(e[0]), e[0])
            )
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{annotations}: is no COCO detection file ({type(error).__name__}: {error}), but {describe_data(data)}"
        ) from error
    for one, other in pairwise(pictures):
        if one.id == other.id:
            raise DataError(f"{annotations}: lists picture {one.id} twice; give every picture an id of its own")
    picture_set = _make_picture_set(annotations, pictures[:limit], set(names.values()), required)
    words = _words(data["categories"], unified, annotations)
    remarks = _person_remarks(unified) + _partial_annotation_remarks(data["images"])
    return replace(picture_set, words=words, remarks=remarks, drawn=_kind_of_scenes(data.get("info")))


def _kind_of_scenes(info: Any) -> str:
    """Return the kind of drawn scenes from the description of a file; "" for other pictures."""
    drawn = isinstance(info, dict) and info.get("description") == _DRAWN
    return str(info.get("kind", _USUAL)) if drawn else ""


def _boxes(data: Any, names: Mapping[str, str]) -> dict[str, dict[str, tuple[Corners, ...]]]:
    """Return picture id to category to its boxes; without what has no box of four numbers or no picture size."""
    sizes = {str(entry["id"]): (entry.get("width"), entry.get("height")) for entry in data["images"]}
    boxes: dict[str, dict[str, tuple[Corners, ...]]] = {}
    for entry in data["annotations"]:
        if "bbox" not in entry:
            continue
        picture, name = str(entry["image_id"]), names[str(entry["category_id"])]
        try:
            (wide, high), (x, y, width, height) = sizes[picture], map(float, entry["bbox"])
            corners = x / wide, y / high, (x + width) / wide, (y + height) / high
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            continue
        of_picture = boxes.setdefault(picture, {})
        of_picture[name] = (*of_picture.get(name, ()), corners)
    return boxes


def _person_remarks(unified: Mapping[str, str]) -> tuple[str, ...]:
    """Return a remark on the categories that count as persons; see `unify_categories`."""
    other = sorted(name for name, one in unified.items() if one == "person" and coco_name(name) != "person")
    return (f"{', '.join(map(repr, other))} count as 'person', which the data has, too.",) if other else ()


def _partial_annotation_remarks(images: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return a remark on incomplete annotations, for files that list the checked categories, as LVIS does."""
    if not any("neg_category_ids" in entry for entry in images):
        return ()
    return (
        "the file lists only objects that were looked for in each picture (neg_category_ids, as in LVIS): one that it "
        "does not list may be there, so that a question labelled no or an object counted as absent may be wrong.",
    )


def _file(entry: Mapping[str, Any], images: Path) -> Path:
    """Return a picture's file: its `file_name`, else, as in LVIS, the end of `coco_url`, with or without its folder."""
    if "file_name" in entry or "coco_url" not in entry:
        return images / str(entry["file_name"])
    folder, name = str(entry["coco_url"]).split("/")[-2:]
    return images / folder / name if (images / folder / name).is_file() else images / name


def _unify_objects(objects: Mapping[str, str], unified: Mapping[str, str]) -> dict[str, str]:
    """Return a picture's objects with unified category names."""
    unified_objects: dict[str, str] = {}
    for name, visibility in objects.items():
        add_object(unified_objects, unified[name], visibility)
    return unified_objects


def _words(
    categories: Sequence[Mapping[str, Any]], unified: Mapping[str, str], path: Path
) -> dict[str, tuple[str, ...]]:
    """Return the synonyms of categories, as in LVIS, without names of other categories.

    Raises:
        DataError: The synonyms of a category are no list of words.
    """
    words: dict[str, tuple[str, ...]] = {}
    for entry in categories:
        listed = entry.get("synonyms") or []
        if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
            raise DataError(f"{path}: category {entry['name']!r} has synonyms {listed!r:.60}; expected a list of words")
        category = unified[str(entry["name"])]
        spelt = [form for word in listed for form in forms(word) if unified.get(word, category) == category]
        if spelt:
            words[category] = (*words.get(category, ()), *spelt)
    return words


def read_captions(path: Path) -> dict[str, list[str]]:
    """Read a COCO captions file: picture id to its captions.

    Raises:
        DataError: The file is missing, or it is no COCO captions file.
    """
    expected = "a COCO captions file"
    captions: dict[str, list[str]] = {}
    try:
        for entry in read_json(path, expected)["annotations"]:
            captions.setdefault(str(entry["image_id"]), []).append(str(entry["caption"]))
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path}: is no COCO captions file ({type(error).__name__}: {error}); give {expected}"
        ) from error
    if not captions:
        raise DataError(f"{path}: holds no captions; give {expected}")
    return captions


def read_json(path: Path, expected: str, keep: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        expected: What it should be, in words.
        keep: Called with each object, from the inside out; its result takes the object's place.

    Raises:
        DataError: It is missing, cannot be read, or is no JSON.
    """
    try:
        text = files.read_text(path)
        data = json.loads(text, object_hook=keep)
        if _HALF.search(text):
            json.dumps(data, ensure_ascii=False).encode()
        return data
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist; give {expected}") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}; it is {describe_file(path)}, give {expected}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: is no {expected.removeprefix('a ')} ({type(error).__name__}: {error}), but {describe_file(path)}"
        ) from error


def _make_picture_set(
    source: Path, pictures: Sequence[Picture], categories: Collection[str], required: bool
) -> PictureSet:
    """Make a picture set; check that required files exist."""
    if not pictures:
        raise DataError(f"{source}: lists no pictures")
    missing = [p.path for p in pictures if required and not p.path.is_file()]
    if missing:
        raise DataError(
            f"{missing[0]}: does not exist ({len(missing)} of {len(pictures)} pictures are missing); check --images"
        )
    return PictureSet(tuple(pictures), tuple(sorted(categories)))


@dataclass(frozen=True)
class PictureBenchmark(Benchmark):
    """A benchmark on pictures with known objects."""

    reads: ClassVar[str] = (
        'a COCO detection file, a CSV picture list ("file,objects" or "file,category"), '
        "or JSON of picture to list of objects"
    )
    drawn: ClassVar[bool] = True

    def material(self, source: Source) -> Material:
        """Read the pictures and make the items."""
        path = source.data_path(self.name, self.reads)
        pictures, remarks = self.complete_pictures(
            read_pictures(path, source.folder or path.parent, source.limit, source.pictures, boxes=False)
        )
        items = self.items(pictures, source.seed)
        files = {i.picture: pictures[i.picture].path for i in items if i.picture is not None}
        return Material(tuple(items), files, (*pictures.remarks, *remarks))

    def complete_pictures(self, pictures: PictureSet) -> tuple[PictureSet, list[str]]:
        """Add other information to pictures; also return remarks for the report.

        Raises:
            DataError: The other information cannot be read.
        """
        return pictures, []

    @abstractmethod
    def items(self, pictures: PictureSet, seed: int) -> list[Item]:
        """Make the items, the same for the same pictures and seed.

        Raises:
            DataError: The pictures are insufficient.
        """
