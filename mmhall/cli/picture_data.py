"""Pictures with known objects for a command: from --data and --images, or drawn scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmhall.benchmarks.data.pictures import PictureSet

DRAWN = "drawn scenes"


def read_or_draw(
    data: Path | None,
    images: Path | None,
    n: int,
    seed: int,
    scratch: Path,
    limit: int | None,
    conflict: float = 0.5,
    kind: str = "usual",
) -> tuple[PictureSet, str]:
    """Read the pictures of a data set, or draw scenes; returns the pictures and the name of their source.

    Args:
        data: The data set; None: draw scenes.
        images: Folder of the pictures; None: the folder of the data.
        n: Number of scenes to draw.
        seed: Seed of the scenes.
        scratch: Folder for the scenes.
        limit: Maximum number of pictures to read; None: all.
        conflict: Share of scenes that break co-occurrence.
        kind: Kind of the scenes, "usual" or "hard".

    Raises:
        DataError: The data or a picture is missing or malformed.
    """
    from mmhall.benchmarks.data.pictures import read_coco, read_pictures
    from mmhall.benchmarks.scenes.dataset import ANNOTATIONS, write_scenes
    from mmhall.progress import progress

    if data is not None:
        return read_pictures(data, images or data.parent, limit), data.name
    with progress("drawing scenes", n) as advance:
        for _ in write_scenes(scratch, n, seed, conflict, kind):
            advance(1)
    return read_coco(scratch / ANNOTATIONS, scratch), DRAWN


def check_data(command: str, data: Path | None, images: Path | None, what: str, **numbers: int) -> None:
    """Check options before anything expensive is done.

    Args:
        command: Name of the command.
        data: Value of --data.
        images: Value of --images.
        what: Description of the expected data.
        **numbers: Options that must be at least 1.

    Raises:
        OptionError: A number is too small, or --images is given without --data.
        DataError: A path does not exist.
    """
    from mmhall.errors import DataError, OptionError
    from mmhall.files import why_not_a_file

    for option, value in numbers.items():
        if value < 1:
            raise OptionError(command, option, value, "an integer >= 1")
    if data is None and images is not None:
        raise OptionError(command, "images", str(images), "given together with --data")
    if data is not None and (reason := why_not_a_file(data)) is not None:
        raise DataError(f"{data}: {reason}; give {what}")
    if images is not None and not images.is_dir():
        raise DataError(f"{images}: no such folder; give the folder of the pictures with --images")


def check_writable(file: Path) -> None:
    """Check that a file can be written, before anything expensive is done.

    Raises:
        DataError: The path is a folder, or its folder cannot be written to.
    """
    import tempfile

    from mmhall.errors import DataError

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=file.parent).close()
        writable = not file.is_dir()
    except OSError:
        writable = False
    if not writable:
        raise DataError(f"{file}: cannot be written; choose another file with --out")
