"""What must be survived: one row a fault, with its number and what it is; each is done within seconds."""

from __future__ import annotations

import os
import struct
import zlib

import pytest
from PIL import Image

from mmhall.demo.rendering import notice
from mmhall.errors import ImageError, MmhallError, MmhallWarning, OptionError
from mmhall.images import open_image
from mmhall.results.store import Row, Store
from mmhall.strategies import strategy
from mmhall.text import printable
from tests.faults import runs, serving


def refuses(kind, told, work, *arguments):
    with pytest.raises(kind, match=told):
        work(*arguments)


def giant(folder, side):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    path = folder / f"{side}.png"
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


def truncated(folder):
    path = folder / "a.jpg"
    Image.effect_noise((64, 64), 50).save(path)
    whole = path.read_bytes()
    for share in (0, 10, 50, 90):
        path.write_bytes(whole[: len(whole) * share // 100])
        refuses(ImageError, "a.jpg: is ", open_image, path)


def other_formats(folder):
    for content in (b"%!PS-Adobe-3.0", b"%PDF-1.7", b"<svg/>", b"<html>", b"words"):
        (folder / "a.png").write_bytes(content)
        refuses(ImageError, "whatever its name says", open_image, folder / "a.png")


def modes(folder):
    for mode in ("CMYK", "LAB", "P", "LA", "1", "RGBA"):
        Image.new(mode, (4, 4)).save(folder / "a.tiff")
        assert open_image(folder / "a.tiff").mode == "RGB"
    assert open_image(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def deep_grey(folder):
    assert open_image(Image.new("F", (1, 1), 0.5)).getpixel((0, 0)) == (128, 128, 128)
    assert open_image(Image.new("I", (1, 1), 32896)).getpixel((0, 0)) == (128, 128, 128)
    refuses(ImageError, "grey values", open_image, Image.new("F", (1, 1), 1e6))


def rotated(folder):
    for value in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        Image.new("RGB", (8, 4)).save(folder / "a.jpg", exif=exif)
        assert open_image(folder / "a.jpg").size == ((8, 4) if value < 5 else (4, 8))


def animated(folder):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(MmhallWarning, match="the first is taken"):
        assert open_image(folder / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def no_files(folder):
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    for path in (folder, folder / "pipe", "/dev/zero", folder / "loop", folder / "gone", "x" * 300):
        refuses(ImageError, "give the path of a picture file", open_image, path)


def addresses(folder):
    for address in ("file:///etc/passwd", "http://169.254.169.254/"):
        refuses(ImageError, "does not exist", open_image, address)


def markup(folder):
    assert "<script>" not in notice("<script>", "<script>")


def bad_options(folder):
    for spec in ("vcd(beta=2)", "vcd(alpha=1e999)", "vhr(alpha=1e300)", "vcd(alpha='a')"):
        refuses(OptionError, "must be", strategy, spec)
    refuses(MmhallError, "did you mean", strategy, "vdc")


def odd_text(folder):
    told = "a\0b\u202ec👩‍👩‍👧e" + "\u0301" * 50
    store = Store.create(folder, {})
    store.add([Row("pope", "1", "greedy", told, "eos", 1, 0.1, 0)])
    assert next(iter(store.rows("pope"))).text == told
    assert printable("\0\u202e\ud800") == r"\u0000\u202e\ud800"


TABLE = [
    (
        1,
        "a header of 60 000 x 60 000 pixels",
        lambda folder: refuses(ImageError, "pixels", open_image, giant(folder, 60_000)),
    ),
    (
        2,
        "more pixels than our own limit",
        lambda folder: refuses(ImageError, "limit", open_image, giant(folder, 10_000)),
    ),
    (3, "a picture that was cut off", truncated),
    (4, "something else named .png", other_formats),
    (5, "colour modes and transparency", modes),
    (6, "grey of more than 8 bits", deep_grey),
    (7, "rotation told by EXIF", rotated),
    (8, "an animation", animated),
    (11, "paths that are no files", no_files),
    (12, "an address in place of a path", addresses),
    (15, "characters that break texts", odd_text),
    (17, "markup in texts of the page", markup),
    (20, "options out of range", bad_options),
    *runs.ROWS,
    *serving.ROWS,
]


@pytest.mark.parametrize(("number", "what", "check"), TABLE, ids=[f"{number}: {what}" for number, what, _ in TABLE])
def test_fault(number, what, check, tmp_path, record_property):
    record_property("fault", number)
    check(tmp_path)
