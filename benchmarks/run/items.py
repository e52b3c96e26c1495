"""The items of a run in its store, written and read a few at a time, and the files of their pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mmhall.benchmarks.base import Item, Material
from mmhall.results.store import Store
from mmhall.text import without_home

_FIELDS = tuple(one.name for one in fields(Item))
_AT_ONCE = 1000  # items between two steps of progress


@dataclass(frozen=True, slots=True)
class PictureFiles(Mapping[str, Path]):
    """Picture id to file; a path takes no memory before it is asked for.

    Attributes:
        folder: The run folder.
        notes: Picture id to its file as the store has it: relative to the run folder, absolute, or from "~".
    """

    folder: Path
    notes: Mapping[str, str]

    def __getitem__(self, picture: str) -> Path:
        """Return the file of a picture."""
        note = self.notes[picture]
        return self.folder / (Path(note).expanduser() if note.startswith("~/") else note)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids."""
        return iter(self.notes)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.notes)


def note_files(pictures: Mapping[str, Path], folder: Path) -> PictureFiles:
    """Return picture files as the store has them: relative in the run folder, else without the name of the home folder.

    Args:
        pictures: Picture id to file.
        folder: The run folder.
    """
    base, places = folder.resolve(), dict[str, str]()

    def note(path: Path) -> str:
        place, name = os.path.split(path)
        if name == "..":
            place, name = os.path.split(path.resolve())
        if place not in places:
            real = Path(place).resolve()
            places[place] = str(real.relative_to(base) if real.is_relative_to(base) else without_home(str(real)))
        return name if places[place] == "." else f"{places[place].rstrip(os.sep)}{os.sep}{name}"

    return PictureFiles(folder, {name: note(path) for name, path in pictures.items()})


def store_items(
    store: Store,
    benchmark: str,
    material: Material,
    files: PictureFiles,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Store the items of a benchmark with the files of their pictures.

    Args:
        store: Store of the run.
        benchmark: Name of the benchmark.
        material: The items.
        files: Files of their pictures.
        advance: Called with the number of further items.

    Raises:
        RunError: They cannot be written.
    """

    def contents() -> Iterator[tuple[str, dict[str, Any]]]:
        for start in range(0, len(material.items), _AT_ONCE):
            some = material.items[start : start + _AT_ONCE]
            for item in some:
                file = None if item.picture is None else files.notes[item.picture]
                yield item.id, {name: getattr(item, name) for name in _FIELDS} | {"file": file}
            advance(len(some))

    store.keep_items(benchmark, contents())


def stored_items(store: Store, benchmark: str, folder: Path) -> tuple[list[Item], PictureFiles, dict[str, str]]:
    """Return the items of a benchmark, the files of their pictures, and digests that older versions kept with items.

    Args:
        store: Store of the run.
        benchmark: Name of the benchmark.
        folder: The run folder.
    """
    items, notes, digests, shared = list[Item](), dict[str, str](), dict[str, str](), dict[Any, Any]()

    def share(value: Any) -> Any:
        return shared.setdefault(value, value)  # every item has its own copy of what items have in common

    for content in store.items(benchmark):
        file, digest, picture = content.pop("file"), content.pop("sha256", None), content["picture"]
        content["groups"] = share(tuple(content["groups"]))
        content |= {name: share(content[name]) for name in ("prompt", "picture", "cluster")}
        items.append(Item(**content))
        if file is not None:
            notes[share(picture)] = file
        if digest is not None:
            digests[share(picture)] = digest
    return items, PictureFiles(folder, notes), digests
