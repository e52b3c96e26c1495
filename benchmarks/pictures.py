"""Pictures with known objects, read from a COCO detection file.

The drawn scenes come through here like anybody's own data: nothing else reads them.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mmhall.benchmarks.base import Benchmark, Item, Material, Source
from mmhall.errors import DataError


@dataclass(frozen=True, slots=True)
class Picture:
    """One annotated picture.

    Attributes:
        id: Its id, as text.
        path: Its file.
        objects: Distinct category names in the order they are first listed.
        visibility: Category to how well it shows, where the file says so (drawn scenes do).
    """

    id: str
    path: Path
    objects: tuple[str, ...]
    visibility: dict[str, str]


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Annotated pictures and the categories their file knows.

    Attributes:
        pictures: In ascending order of id.
        categories: Every category name, sorted.
    """

    pictures: tuple[Picture, ...]
    categories: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of ids, objects and files, 16 hex digits: two sets with one digest are the same."""
        told = hashlib.sha256()
        for picture in self.pictures:
            told.update(json.dumps([picture.id, *picture.objects]).encode())
            told.update(hashlib.sha256(picture.path.read_bytes()).digest())
        return told.hexdigest()[:16]

    def __getitem__(self, picture: str) -> Picture:
        """Return a picture by id."""
        return next(p for p in self.pictures if p.id == picture)


def read_coco(annotations: Path, images: Path, limit: int | None = None, required: bool = True) -> PictureSet:
    """Read a COCO detection file.

    Args:
        annotations: JSON with `images`, `annotations` and `categories`.
        images: Folder that `file_name` is relative to.
        limit: Keep only the first so many pictures, by id.
        required: Whether the pictures must be there.

    Raises:
        DataError: The file or a picture is missing, or it is no COCO detection file.
    """
    try:
        data = json.loads(annotations.read_text(encoding="utf-8"))
        names = {entry["id"]: str(entry["name"]) for entry in data["categories"]}
        found: dict[Any, dict[str, str]] = {entry["id"]: {} for entry in data["images"]}
        for entry in data["annotations"]:
            objects = found[entry["image_id"]]
            name = names[entry["category_id"]]
            if name not in objects or objects[name] != "clear":
                objects[name] = str(entry.get("visibility", ""))
        pictures = [
            Picture(str(entry["id"]), images / entry["file_name"], tuple(found[entry["id"]]), found[entry["id"]])
            for entry in sorted(data["images"], key=lambda e: (len(str(e["id"])), str(e["id"])))
        ][:limit]
    except FileNotFoundError as error:
        raise DataError(f"{annotations}: does not exist; give a COCO detection file") from error
    except OSError as error:
        raise DataError(f"{annotations}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{annotations}: is no COCO detection file ({type(error).__name__}: {error})") from error
    if not pictures:
        raise DataError(f"{annotations}: lists no pictures")
    missing = [p.path for p in pictures if required and not p.path.is_file()]
    if missing:
        raise DataError(
            f"{missing[0]}: does not exist ({len(missing)} of {len(pictures)} pictures are missing); check --images"
        )
    return PictureSet(tuple(pictures), tuple(sorted(set(names.values()))))


@dataclass(frozen=True)
class PictureBenchmark(Benchmark):
    """A benchmark made of pictures with known objects."""

    reads: ClassVar[str] = "a COCO detection file"
    drawn: ClassVar[bool] = True

    def material(self, source: Source) -> Material:
        """Read the pictures and make the items."""
        given = source.given(self.name, self.reads)
        pictures = read_coco(given, source.folder or given.parent, source.limit, source.pictures)
        items = self.items(pictures, source.seed)
        paths = {p.id: p.path for p in pictures.pictures}
        return Material(tuple(items), {i.picture: paths[i.picture] for i in items if i.picture is not None})

    @abstractmethod
    def items(self, pictures: PictureSet, seed: int) -> list[Item]:
        """Make the items, the same for the same pictures and seed.

        Raises:
            DataError: The pictures do not suffice.
        """
