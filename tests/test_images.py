from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmhall.errors import ImageError
from mmhall.images import open_image


def save(image, path, **options):
    image.save(path, **options)
    return path


def pixel(image, x=0, y=0):
    return image.getpixel((x, y))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    suffix = {"CMYK": "jpg", "F": "tiff", "I": "tiff"}.get(mode, "png")
    assert open_image(save(Image.new(mode, (5, 4)), tmp_path / f"a.{suffix}")).mode == "RGB"


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    grey = Image.fromarray(np.full((4, 4), 32896, np.uint16))
    assert pixel(open_image(save(grey, tmp_path / "a.png"))) == (128, 128, 128)


def test_transparency_lies_over_white(tmp_path):
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert pixel(open_image(save(clear, tmp_path / "a.png"))) == (255, 255, 255)
    palette = Image.new("P", (4, 4))
    palette.putpalette([10, 20, 30, 200, 0, 0])
    assert pixel(open_image(save(palette, tmp_path / "b.png", transparency=0))) == (255, 255, 255)


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(save(Image.new("RGB", (8, 4)), tmp_path / "a.jpg", exif=exif)).size == (4, 8)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert pixel(open_image(path)) == (255, 0, 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000)])
def test_odd_shapes_open(tmp_path, size):
    assert open_image(save(Image.new("RGB", size), tmp_path / "a.png")).size == size


def test_a_missing_file_and_a_folder_say_so(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png: does not exist"):
        open_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="is a folder"):
        open_image(tmp_path)


def test_a_text_file_is_no_picture(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("hello")
    with pytest.raises(ImageError, match=r"a\.png: is not a picture, whatever its name says"):
        open_image(path)


def test_a_truncated_picture_is_named(tmp_path):
    path = save(Image.effect_noise((64, 64), 50), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ImageError, match=r"a\.png: is damaged or truncated"):
        open_image(path)


@pytest.mark.parametrize("side", [8_000, 60_000])
def test_a_giant_is_refused_before_it_is_decoded(tmp_path, side):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError, match=r"50,000,000"):
        open_image(path)


def test_an_open_picture_is_taken_as_it_is():
    assert open_image(Image.new("L", (3, 3), 7)).getpixel((0, 0)) == (7, 7, 7)


def test_an_open_picture_of_a_torn_file_is_refused(tmp_path):
    path = save(Image.effect_noise((64, 64), 50), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:-400])
    with Image.open(path) as opened, pytest.raises(ImageError, match="damaged or truncated"):
        open_image(opened)


def test_what_is_neither_path_nor_picture_is_refused():
    with pytest.raises(ImageError, match="must be a path or a PIL image, got ndarray"):
        open_image(np.zeros((4, 4, 3)))
