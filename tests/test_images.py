from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from mmhall.errors import ImageError, MmhallWarning
from mmhall.images import open_image


def save(image, path, **options):
    image.save(path, **options)
    return path


def pixel(image, x=0, y=0):
    return image.getpixel((x, y))


def giant(path, side):
    """Write a PNG whose header tells so many pixels a side, and which has none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    return path


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
    for name in ("a.gif", "b.webp", "c.png", "d.tiff"):
        path = tmp_path / name
        frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if "webp" in name else {}))
        with pytest.warns(MmhallWarning, match=f"{name}: is animated or has several pages; the first is taken"):
            assert pixel(open_image(path)) == (255, 0, 0)


def test_a_long_animation_takes_no_longer(tmp_path):
    """10 000 frames: the first is read, the others are not counted."""
    path = tmp_path / "a.gif"
    frames = [Image.new("P", (8, 8), n % 2) for n in range(2)]
    frames[0].save(path, save_all=True, append_images=frames[1:], optimize=False, duration=10)
    head, _, _ = path.read_bytes().partition(b"\x2c")
    block = path.read_bytes()[len(head) : -1]
    path.write_bytes(head + block + b"".join([block] * 9_999) + b";")
    began = time.perf_counter()
    with pytest.warns(MmhallWarning):
        open_image(path)
    assert time.perf_counter() - began < 1


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
    with pytest.raises(ImageError, match=r"a\.png: is not a picture, despite its name"):
        open_image(path)


def test_a_truncated_picture_is_named(tmp_path):
    path = save(Image.effect_noise((64, 64), 50), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ImageError, match=r"a\.png: is damaged or truncated"):
        open_image(path)


@pytest.mark.parametrize(("at", "reason"), [(-14, "the checksum of its IDAT chunk"), (30, "its header cannot be read")])
def test_a_png_with_a_wrong_checksum_is_refused(tmp_path, at, reason):
    """Pillow looks at the header's, not at that of the pixels, some of which may then be wrong."""
    path = save(Image.effect_noise((64, 64), 50), tmp_path / "a.png")
    held = bytearray(path.read_bytes())
    held[at] ^= 1
    path.write_bytes(held)
    with pytest.raises(ImageError, match=rf"a\.png: is damaged or truncated \({reason}"):
        open_image(path)


def test_more_pixels_than_pillow_opens_are_told_with_their_number(tmp_path):
    with pytest.raises(ImageError, match=r"3,600,000,000 pixels is over the limit of 178,956,970; resize it first"):
        open_image(giant(tmp_path / "a.png", 60_000), max_pixels=10**9)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    """As the system says it to whoever has no right; root has every right."""

    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "a.png")

    path = save(Image.new("RGB", (4, 4)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", refused)
    with pytest.raises(ImageError, match=r"a\.png: cannot be read: permission denied; give the path"):
        open_image(path)


@pytest.mark.parametrize("side", [8_000, 60_000])
def test_a_giant_is_refused_before_it_is_decoded(tmp_path, side):
    with pytest.raises(ImageError, match=r"50,000,000"):
        open_image(giant(tmp_path / "a.png", side))


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


@pytest.mark.parametrize("name", ["a.png", "a.eps"])
def test_postscript_is_refused_and_handed_to_no_other_program(tmp_path, monkeypatch, name):
    """Pillow knows PostScript by its content, and runs the Ghostscript that it finds on the PATH."""
    called = tmp_path / "called"
    fake = tmp_path / "bin" / "gs"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {called}\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = tmp_path / name
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(ImageError, match=rf"{name}: is PostScript, despite its name; expected PNG"):
        open_image(path)
    with Image.open(path) as opened, pytest.raises(ImageError, match="is of format EPS, which is not supported"):
        open_image(opened)
    assert not called.exists()


@pytest.mark.parametrize(
    ("content", "seems"),
    [
        (b"%PDF-1.7\n", "is a PDF file"),
        (b"\n<!DOCTYPE html><html>", "is HTML"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is SVG"),
        (b"\0\0\0\x18ftypheic", "is HEIC"),
        (b"P6\n1 1\n255\nabc", "is a PPM picture"),
        (b"", "is empty"),
    ],
)
def test_what_is_refused_is_named_as_what_it_seems(tmp_path, content, seems):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"a\.png: {seems}, despite its name"):
        open_image(path)


def test_a_picture_of_two_eyes_is_a_jpeg(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8), "red").save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert pixel(open_image(path))[0] > 250


@pytest.mark.parametrize(
    ("values", "grey"),
    [
        (np.full((2, 2), 0.5, np.float32), 128),
        (np.full((2, 2), 200, np.float32), 200),
        (np.full((2, 2), 32896, np.int32), 128),
        (np.full((2, 2), 200, np.int32), 200),
        (np.full((2, 2), 65535, np.uint16), 255),
        (np.zeros((2, 2), np.uint16), 0),
    ],
)
def test_grey_of_a_known_range_is_scaled(tmp_path, values, grey):
    image = Image.fromarray(values)
    assert pixel(open_image(image)) == (grey,) * 3
    assert pixel(open_image(save(image, tmp_path / "a.tiff"))) == (grey,) * 3


@pytest.mark.parametrize(
    ("value", "kind"),
    [(1e6, np.float32), (-3, np.float32), (np.nan, np.float32), (-1, np.int32), (2**30, np.int32), (200, np.uint16)],
)
def test_grey_of_an_unknown_range_is_refused(value, kind):
    with pytest.raises(ImageError, match=r"the picture: its grey values are from .* in mode .*; convert it to 8 bits"):
        open_image(Image.fromarray(np.full((2, 2), value, kind)))


def test_lab_is_converted(tmp_path):
    lab = Image.new("LAB", (2, 2), (255, 128, 128))
    assert min(pixel(open_image(save(lab, tmp_path / "a.tiff")))) > 250


def test_torn_exif_is_passed_over(tmp_path):
    path = save(Image.new("RGB", (8, 4), "red"), tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert open_image(path).size == (8, 4)


def test_many_exif_tags_cost_little(tmp_path):
    exif = Image.Exif()
    for tag in range(10_000):
        exif[tag + 40_000 if tag else 0x0112] = 6
    path = save(Image.new("RGB", (8, 4)), tmp_path / "a.png", exif=exif)
    began = time.process_time()  # whatever else the machine does
    assert open_image(path).size == (4, 8)
    assert time.process_time() - began < 2


def test_huge_metadata_costs_no_memory(tmp_path):
    """A chunk of 300 MB, written as a hole in the file."""
    path = save(Image.new("RGB", (4, 4)), tmp_path / "a.png")
    whole = path.read_bytes()
    with path.open("wb") as file:
        file.write(whole[:33] + struct.pack(">I", 300_000_000) + b"teXt")
        file.seek(300_000_000, os.SEEK_CUR)
        file.write(whole[29:33] + whole[33:])
    program = f"""
import resource
from mmhall.errors import ImageError
from mmhall.images import open_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    open_image({str(path)!r})
except ImageError as error:
    assert "has more than 256 MB" in str(error), error
else:
    raise SystemExit("opened")
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_is_no_file_is_named_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for path, reason in (
        (tmp_path / "pipe.png", "is a pipe"),
        ("/dev/zero", "is a device"),
        (tmp_path / "loop.png", "cannot be read: too many levels of symbolic links"),
        (tmp_path / ("x" * 300), "cannot be read: file name too long"),
        ("a\0.png", "is not a valid path"),
    ):
        with pytest.raises(ImageError, match=reason):
            open_image(path)
