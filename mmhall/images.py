"""Opening of pictures: checks of file, size and format, and conversion to upright RGB."""

from __future__ import annotations

import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from mmhall.errors import ImageError, MmhallWarning
from mmhall.files import why_not_a_file

MAX_PIXELS = 50_000_000
MAX_BYTES = 256 * 1024**2  # of a file: its metadata of any size is read into memory
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats that are opened. Pillow supports more, but passes some of them to other programs, such as Ghostscript."""

ImageLike = str | Path | Image.Image

_FILTERS = threading.RLock()
_CHUNK = 1024**2  # bytes that are read at once
_EXPECTED = "expected PNG, JPEG, WebP, BMP, GIF or TIFF"
_SUPPORTED_MAGIC = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
_OTHER_MAGIC = (
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"%PDF", "a PDF file"),
    (b"PK\x03\x04", "a ZIP file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"8BPS", "a Photoshop file"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"P6\n", "a PPM picture"),
    (b"P5\n", "a PGM picture"),
    (b"<svg", "SVG"),
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"<?xml", "XML"),
)
_FTYP_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}
_EXIF_ERRORS = (SyntaxError, ValueError, LookupError, TypeError, OSError, OverflowError, struct.error)


def open_image(source: ImageLike, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture as upright RGB.

    Only the first frame of an animation is used, with a warning. EXIF rotation is applied, transparent pixels are
    blended with white. Grey values of 16 bits, or of 32 bits or floats in a known range, are scaled to 8 bits.

    Args:
        source: A path or an already open picture.
        max_pixels: Largest accepted width x height; protects against decompression bombs.

    Returns:
        A picture in mode RGB.

    Raises:
        ImageError: The file is missing, truncated, not a picture, of another format, or too large.
    """
    if isinstance(source, Image.Image):
        return _read(source, max_pixels, "the picture")
    if not isinstance(source, str | Path):
        raise ImageError(f"a picture must be a path or a PIL image, got {type(source).__name__}")
    path = Path(source)
    reason = why_not_a_file(path)
    if reason is not None:
        raise ImageError(f"{path}: {reason}; give the path of a picture file")
    if path.stat().st_size > MAX_BYTES:
        raise ImageError(f"{path}: has more than {MAX_BYTES // 1024**2} MB; save the picture again without metadata")
    with _open_file(path, max_pixels) as opened:
        image = _read(opened, max_pixels, str(path))
        if opened.format == "PNG":
            _check_png_checksums(path)
        return image


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Ignore Pillow's warnings; in one thread at a time, as the filters that are put back belong to all threads."""
    with _FILTERS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def _open_file(path: Path, max_pixels: int) -> ImageFile.ImageFile:
    """Open a picture file without reading its pixels."""
    try:
        with quiet_pillow():  # size (max_pixels is the limit here), damaged EXIF
            return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        with path.open("rb") as file:
            start = file.read(512)
        if start.startswith(_SUPPORTED_MAGIC):
            raise _read_error(str(path), ValueError("its header cannot be read")) from error
        raise ImageError(f"{path}: {_describe_content(start)}, despite its name; {_EXPECTED}") from error
    except Image.DecompressionBombError as error:  # Pillow's own limit, reached first where max_pixels is larger
        pixels, limit = int(re.findall(r"\d+", str(error))[0]), min(2 * int(Image.MAX_IMAGE_PIXELS or 0), max_pixels)
        raise ImageError(f"{path}: {pixels:,} pixels is over the limit of {limit:,}; resize it first") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise _read_error(str(path), error) from error


def _check_png_checksums(path: Path) -> None:
    """Check the checksums of the picture chunks of a PNG file; Pillow does not check those of the pixels.

    Raises:
        ImageError: A checksum is wrong, so that pixels may be wrong.
    """
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            left, total = int.from_bytes(head[:4], "big"), zlib.crc32(head[4:])
            while left and (data := file.read(min(left, _CHUNK))):
                left, total = left - len(data), zlib.crc32(data, total)
            wrong = file.read(4) != total.to_bytes(4, "big")
            if wrong and head[4:5].isupper():  # other chunks hold text, times and the like
                name = head[4:].decode("latin-1")
                raise _read_error(str(path), ValueError(f"the checksum of its {name} chunk is wrong"))


def _read(image: Image.Image, max_pixels: int, name: str) -> Image.Image:
    """Read the pixels of an open picture as upright RGB."""
    if isinstance(image, ImageFile.ImageFile) and image.tile and image.format not in (*FORMATS, "MPO"):
        raise ImageError(f"{name}: is of format {image.format}, which is not supported; {_EXPECTED}")
    if image.width * image.height > max_pixels:
        raise ImageError(
            f"{name}: {image.width} x {image.height} pixels is over the limit of {max_pixels:,}; "
            "resize it or raise max_pixels"
        )
    try:
        if getattr(image, "is_animated", False) and image.format != "MPO":  # other frames of MPO are not an animation
            warnings.warn(f"{name}: is animated or has several pages; the first is taken", MmhallWarning, stacklevel=3)
        image.load()
        return _to_rgb(_rotate_upright(image), name)
    except (OSError, SyntaxError, ValueError) as error:
        raise _read_error(name, error) from error


def _rotate_upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF rotation, if EXIF can be read."""
    with quiet_pillow():
        try:
            return ImageOps.exif_transpose(image)
        except _EXIF_ERRORS:
            return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert a picture of any mode to RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_to_8_bits(image, name).convert("RGB")
    if image.mode == "LAB":
        return ImageCms.profileToProfile(  # type: ignore[return-value]  # None only in place
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")


def _scale_to_8_bits(image: Image.Image, name: str) -> Image.Image:
    """Scale grey values of more than 8 bits to 8 bits: by the range of the mode, or by the range of the values.

    Raises:
        ImageError: The range is unknown, so that the value of white is unknown.
    """
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I;16"):
        white = 0 if 0 < high < 257 else 65535  # such low values would become black
    elif image.mode == "F" and 0 <= low <= high <= 1:
        white = 1
    else:
        white = next((end for end in (255, 65535) if 0 <= low <= high <= end), 0)
    if white == 0:
        raise ImageError(
            f"{name}: its grey values are from {low:g} to {high:g} in mode {image.mode}, so the value of white is "
            "unknown; convert it to 8 bits"
        )
    return Image.fromarray((values * (255 / white)).round().astype(np.uint8))


def _describe_content(start: bytes) -> str:
    """Describe the content of an unsupported file by its first bytes."""
    if start[4:8] == b"ftyp" and start[8:12] in _FTYP_BRANDS:
        return f"is {_FTYP_BRANDS[start[8:12]]}"
    kind = next((name for magic, name in _OTHER_MAGIC if start.lstrip().lower().startswith(magic.lower())), None)
    return "is empty" if not start else f"is {kind}" if kind else "is not a picture"


def _read_error(name: str, error: Exception) -> ImageError:
    if isinstance(error, OSError) and error.errno is not None:  # an error of the system, not of Pillow
        reason = (error.strerror or str(error)).lower()
        return ImageError(f"{name}: cannot be read: {reason}; give the path of a picture file that you may read")
    return ImageError(f"{name}: is damaged or truncated ({error}); get an intact copy")
