"""The only place that opens a picture."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from mmhall.errors import ImageError

MAX_PIXELS = 50_000_000

ImageLike = str | Path | Image.Image


def open_image(source: ImageLike, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture as upright RGB.

    The first frame of an animation is taken, EXIF rotation applied, transparency laid over white,
    16-bit grey scaled down to 8 bits.

    Args:
        source: A path or an already open picture.
        max_pixels: Largest width x height accepted; guards against decompression bombs.

    Returns:
        A picture in mode RGB.

    Raises:
        ImageError: The file is missing, truncated, no picture, or too large.
    """
    if isinstance(source, Image.Image):
        try:
            return _upright(source, max_pixels, "the picture")
        except OSError as error:
            raise ImageError(f"the picture: is damaged or truncated ({error}); get an intact copy") from error
    if not isinstance(source, str | Path):
        raise ImageError(f"a picture must be a path or a PIL image, got {type(source).__name__}")
    path = Path(source)
    if not path.is_file():
        reason = "is a folder" if path.is_dir() else "does not exist"
        raise ImageError(f"{path}: {reason}; give the path of a picture file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is the limit
            with Image.open(path) as image:
                return _upright(image, max_pixels, str(path))
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path}: is not a picture, whatever its name says; expected PNG, JPEG, WebP or the like"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: has far more than {max_pixels:,} pixels; resize it first") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path}: is damaged or truncated ({error}); get an intact copy") from error


def _upright(image: Image.Image, max_pixels: int, name: str) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise ImageError(
            f"{name}: {image.width} x {image.height} pixels is over the limit of {max_pixels:,}; "
            "resize it or raise max_pixels"
        )
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        image = image.point(lambda value: value / 257).convert("L") if image.mode != "F" else image.convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")
