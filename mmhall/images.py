"""The only place that opens a picture."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from mmhall.errors import ImageError, MmhallWarning
from mmhall.files import why_not_a_file

MAX_PIXELS = 50_000_000
MAX_BYTES = 256 * 1024**2  # of a file: its metadata is read into memory, however large
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""What is opened. Pillow knows more formats, and hands some of them to other programs: PostScript to Ghostscript."""

ImageLike = str | Path | Image.Image

_PIECE = 1024**2  # bytes of a file that are read at a time
_KNOWN = "expected PNG, JPEG, WebP, BMP, GIF or TIFF"
_OURS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
_SEEMS = (
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
_BOXES = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}
_TORN_EXIF = (SyntaxError, ValueError, LookupError, TypeError, OSError, OverflowError, struct.error)


def open_image(source: ImageLike, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture as upright RGB.

    The first frame of an animation is taken, with a warning; EXIF rotation is applied, transparency laid over white.
    Grey of 16 bits, or of 32 bits and floats in a range that is known, is scaled to 8 bits.

    Args:
        source: A path or an already open picture.
        max_pixels: Largest width x height accepted; guards against decompression bombs.

    Returns:
        A picture in mode RGB.

    Raises:
        ImageError: The file is missing, truncated, no picture, of another format, or too large.
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
        raise ImageError(f"{path}: has more than {MAX_BYTES // 1024**2} MB; save the picture anew, without metadata")
    with _opened(path, max_pixels) as opened:
        image = _read(opened, max_pixels, str(path))
        if opened.format == "PNG":
            _check_sums(path)
        return image


def _opened(path: Path, max_pixels: int) -> ImageFile.ImageFile:
    """Open a picture file, whose pixels are not read yet."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # of size, where max_pixels is the limit, and of torn EXIF
            return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        with path.open("rb") as file:
            start = file.read(512)
        if start.startswith(_OURS):
            raise _damaged(str(path), ValueError("its header cannot be read")) from error
        raise ImageError(f"{path}: {_seeming(start)}, whatever its name says; {_KNOWN}") from error
    except Image.DecompressionBombError as error:  # Pillow's own limit, which comes first where ours is raised
        found, limit = int(re.findall(r"\d+", str(error))[0]), min(2 * int(Image.MAX_IMAGE_PIXELS or 0), max_pixels)
        raise ImageError(f"{path}: {found:,} pixels is over the limit of {limit:,}; resize it first") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise _damaged(str(path), error) from error


def _check_sums(path: Path) -> None:
    """Compare the checksums of a PNG file with the chunks that hold its picture: Pillow leaves out those of the pixels.

    Raises:
        ImageError: One is wrong, so that some pixels may be.
    """
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            left, total = int.from_bytes(head[:4], "big"), zlib.crc32(head[4:])
            while left and (data := file.read(min(left, _PIECE))):
                left, total = left - len(data), zlib.crc32(data, total)
            wrong = file.read(4) != total.to_bytes(4, "big")
            if wrong and head[4:5].isupper():  # others hold texts, times and the like
                name = head[4:].decode("latin-1")
                raise _damaged(str(path), ValueError(f"the checksum of its {name} chunk is wrong"))


def _read(image: Image.Image, max_pixels: int, name: str) -> Image.Image:
    """Read an open picture's pixels."""
    if isinstance(image, ImageFile.ImageFile) and image.tile and image.format not in (*FORMATS, "MPO"):
        raise ImageError(f"{name}: is of format {image.format}, which is not read; {_KNOWN}")
    if image.width * image.height > max_pixels:
        raise ImageError(
            f"{name}: {image.width} x {image.height} pixels is over the limit of {max_pixels:,}; "
            "resize it or raise max_pixels"
        )
    try:
        if getattr(image, "is_animated", False) and image.format != "MPO":  # an MPO's other frames are no animation
            warnings.warn(f"{name}: is animated or has several pages; the first is taken", MmhallWarning, stacklevel=3)
        image.load()
        return _rgb(_upright(image), name)
    except (OSError, SyntaxError, ValueError) as error:
        raise _damaged(name, error) from error


def _upright(image: Image.Image) -> Image.Image:
    """Apply the rotation that EXIF tells; EXIF that cannot be read tells none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        try:
            return ImageOps.exif_transpose(image)
        except _TORN_EXIF:
            return image


def _rgb(image: Image.Image, name: str) -> Image.Image:
    """Turn any mode into RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled(image, name).convert("RGB")
    if image.mode == "LAB":
        return ImageCms.profileToProfile(  # type: ignore[return-value]  # None only in place
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")


def _scaled(image: Image.Image, name: str) -> Image.Image:
    """Scale grey of more than 8 bits to 8 bits: by what its mode holds, or by the range its values are in.

    Raises:
        ImageError: The range is none of those that pictures have, so that nobody can say which grey a value is.
    """
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I;16"):
        whole = 0 if 0 < high < 257 else 65535  # all black otherwise
    elif image.mode == "F" and 0 <= low <= high <= 1:
        whole = 1
    else:
        whole = next((end for end in (255, 65535) if 0 <= low <= high <= end), 0)
    if whole == 0:
        raise ImageError(
            f"{name}: its grey values are from {low:g} to {high:g} in mode {image.mode}, and nobody can say which is "
            "white; convert it to 8 bits"
        )
    return Image.fromarray((values * (255 / whole)).round().astype(np.uint8))


def _seeming(start: bytes) -> str:
    """Say by its first bytes what a file that is no picture we read seems to be."""
    if start[4:8] == b"ftyp" and start[8:12] in _BOXES:
        return f"is {_BOXES[start[8:12]]}"
    told = next((name for magic, name in _SEEMS if start.lstrip().lower().startswith(magic.lower())), None)
    return "is empty" if not start else f"is {told}" if told else "is not a picture"


def _damaged(name: str, error: Exception) -> ImageError:
    if isinstance(error, OSError) and error.errno is not None:  # the system's word, not Pillow's
        told = (error.strerror or str(error)).lower()
        return ImageError(f"{name}: cannot be read: {told}; give the path of a picture file that you may read")
    return ImageError(f"{name}: is damaged or truncated ({error}); get an intact copy")
