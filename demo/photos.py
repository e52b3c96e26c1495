"""Pictures of visitors: opened within bounds of memory, shrunk where they are large, shown by any browser.

A JPEG of many pixels is decoded at a half, a quarter or an eighth of its size, so that it never takes more memory than
the limit. Other formats must be decoded whole, one at a time, and have a lower limit. HEIC is read where pillow-heif is
installed.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from PIL import Image, ImageOps, UnidentifiedImageError

from mmhall.errors import ImageError
from mmhall.images import FORMATS, open_image, quiet_pillow

MAX_PIXELS = 25_000_000  # of a picture that is kept
MAX_WHOLE, MAX_JPEG = 60_000_000, 150_000_000  # of a file that is read
SIDES = 30  # maximum ratio of the sides
SCANS = 100  # of a JPEG: each is decoded over the whole picture, however few bytes it has; cameras write about ten
_SHOWN_BY_BROWSERS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP")
_LOSSY = ("JPEG", "MPO", "WEBP", "HEIF")
_SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")  # length and number of components
_ONE_AT_A_TIME = Lock()


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture of a visitor.

    Attributes:
        image: RGB, at most `MAX_PIXELS`.
        note: What was done to it, such as "shrunk from 8165 x 6124 pixels"; "" if nothing.
        shows: Whether browsers show the file itself, as it is.
        photo: Whether it is a photo, of a format with losses; others are kept without.
    """

    image: Image.Image
    note: str
    shows: bool
    photo: bool


def open_photo(path: Path) -> Photo:
    """Open an uploaded picture.

    Raises:
        ImageError: It is damaged, of another format, or too large.
    """
    try:
        kind, (width, height) = _read_header(path)
        most = MAX_JPEG if kind in ("JPEG", "MPO") else MAX_WHOLE
        if width * height > most:
            raise ImageError(f"has {width} x {height} pixels; at most {most // 10**6} million may be sent as {kind}")
        if max(width, height) > SIDES * min(width, height):
            raise ImageError(f"is {width} x {height} pixels; one side may be {SIDES} times the other")
        if kind in ("JPEG", "MPO") and (scans := len(_SCAN.findall(path.read_bytes()))) > SCANS:
            raise ImageError(f"has {scans:,} scans, and a JPEG at most {SCANS} here; save it again")
        with _ONE_AT_A_TIME:
            image = _open(path, kind, width * height)
            longest = max(image.size)
            while image.width * image.height > MAX_PIXELS:
                longest = int(longest * 0.9)
                image.thumbnail((longest, longest))
        shrunk = image.width * image.height < width * height
    except ImageError as error:
        raise ImageError(f"this picture {str(error).removeprefix(f'{path}: ')}") from error  # hides the path
    note = f"shrunk from {width} x {height} to {image.width} x {image.height} pixels" if shrunk else ""
    return Photo(image, note, kind in _SHOWN_BY_BROWSERS and not shrunk, kind in _LOSSY)


def write_photo(photo: Photo, folder: Path) -> Path:
    """Write a picture as browsers show it to a folder of its own below an existing one, and return its path."""
    place = folder / secrets.token_hex(32)
    place.mkdir()
    path = place / ("picture.jpg" if photo.photo else "picture.png")
    photo.image.save(path, quality=95)  # of a JPEG
    return path


def register_heif() -> bool:
    """Let Pillow read HEIC where pillow-heif is installed; returns whether it is."""
    try:
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found]
    except ImportError:
        return False
    register_heif_opener(thumbnails=False)
    return True


def _read_header(path: Path) -> tuple[str, tuple[int, int]]:
    """Return format and size of a picture file.

    Raises:
        ImageError: It is no picture that can be read.
    """
    formats = [*FORMATS, "HEIF"] if register_heif() else list(FORMATS)
    try:
        # sizes are checked here; EXIF may be damaged
        with quiet_pillow(), Image.open(path, formats=formats) as opened:
            return str(opened.format), opened.size
    except Image.DecompressionBombError:
        raise ImageError(f"has more than {2 * int(Image.MAX_IMAGE_PIXELS or 0):,} pixels; resize it first") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        try:
            size = open_image(path).size  # or says what it is instead
        except ImageError as error:
            if "is HEIC" not in str(error):
                raise
            raise ImageError(
                "is HEIC, which this page reads only if pillow-heif is installed beside it; save it as JPEG, or ask "
                "the page's owner: pip install pillow-heif"
            ) from error
        return "PNG", size


def _open(path: Path, kind: str, pixels: int) -> Image.Image:
    """Open a picture file as upright RGB; a JPEG at the largest fraction of its size within the limit."""
    if kind == "HEIF":
        try:
            with Image.open(path, formats=["HEIF"]) as opened:
                return open_image(ImageOps.exif_transpose(opened.convert("RGB")), max_pixels=MAX_WHOLE)
        except (OSError, SyntaxError, ValueError, RuntimeError) as error:
            raise ImageError(f"is damaged or truncated ({error}); get an intact copy") from error
    if kind not in ("JPEG", "MPO") or pixels <= MAX_PIXELS:
        return open_image(path, max_pixels=MAX_WHOLE)
    with quiet_pillow(), Image.open(path, formats=FORMATS) as opened:
        part = next(part for part in (2, 4, 8) if pixels <= MAX_PIXELS * part**2)
        opened.draft("RGB", (opened.width // part, opened.height // part))
        return open_image(opened, max_pixels=MAX_PIXELS + 10**6)
