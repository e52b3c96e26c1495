"""Pictures with known objects for a command: those of --data and --images, or scenes drawn for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmhall.benchmarks.data.pictures import PictureSet

DRAWN = "drawn scenes"


def read_or_draw(
    data: Path | None, images: Path | None, n: int, seed: int, scratch: Path, limit: int | None
) -> tuple[PictureSet, str]:
    """Read the pictures of a data set, or draw some; also say what they are called.

    Args:
        data: The data set; None: draw.
        images: Folder of its pictures; None: its own.
        n: How many to draw.
        seed: Of the scenes.
        scratch: Folder to draw into.
        limit: Read only the first so many.

    Raises:
        DataError: The data or a picture is missing or malformed.
    """
    from mmhall.benchmarks.data.pictures import read_coco, read_pictures
    from mmhall.benchmarks.scenes.dataset import ANNOTATIONS, write_scenes
    from mmhall.cli.console import progress

    if data is not None:
        return read_pictures(data, images or data.parent, limit), data.name
    with progress("drawing scenes", n) as advance:
        for _ in write_scenes(scratch, n, seed):
            advance(1)
    return read_coco(scratch / ANNOTATIONS, scratch), DRAWN


def check_data(command: str, data: Path | None, images: Path | None, what: str, **numbers: int) -> None:
    """Refuse options that do not fit, before anything expensive is done.

    Args:
        command: Whose options they are.
        data: As given.
        images: As given.
        what: What the data is to be, in words.
        **numbers: Options that must be at least 1.

    Raises:
        OptionError: A number is too small, or there is a folder of pictures without data.
        DataError: Something is not there.
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
    """Refuse a file that cannot be written, before anything expensive is done.

    Raises:
        DataError: It is a folder, or lies where none can be made.
    """
    import tempfile

    from mmhall.errors import DataError

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=file.parent).close()
        written = not file.is_dir()
    except OSError:
        written = False
    if not written:
        raise DataError(f"{file}: cannot be written; choose another file with --out")
