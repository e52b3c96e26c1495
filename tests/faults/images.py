"""Faults 1 to 12: picture files."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from functools import cache
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image, ImageCms

from mmhall.errors import ImageError, MmhallWarning
from mmhall.images import open_image
from mmhall.lvlm import LVLM
from tests.faults.support import embedded, refused, refuses
from tests.zoo import built

MEASURING = """
import json, sys, time
from pathlib import Path
from PIL import Image
from mmhall.images import open_image

def peak():  # of this program alone, in MB: what getrusage tells begins with the parent's
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

def open_it(path):
    before, began = peak(), time.perf_counter()
    try:
        told = str(open_image(path).size)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    return told, peak() - before, time.perf_counter() - began

Image.init()
open_it(sys.argv[1])
print(json.dumps([open_it(path) for path in sys.argv[2:]]))
"""


@cache
def measured():
    """Open pictures that would fill the memory in one other process.

    Returns:
        By name: what is told, by how many MB the memory grew, and seconds.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        plain = folder / "plain.png"
        Image.new("RGB", (8, 4)).save(plain)
        paths = [giant(folder, 60_000), *heavy(folder, plain)]
        command = [sys.executable, "-c", MEASURING, plain, *paths]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return {path.stem: found for path, found in zip(paths, json.loads(done.stdout), strict=True)}


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def giant(folder, side):
    path = folder / f"{side}.png"
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


def heavy(folder, plain):
    """Write pictures with much beside their pixels: text that unpacks to 300 MB, such a profile, a chunk, and tags."""
    whole, squeezed = plain.read_bytes(), zlib.compressobj(1)
    packed = b"".join(squeezed.compress(bytes(10_000_000)) for _ in range(30)) + squeezed.flush()
    for name, kind in (("text", b"zTXt"), ("profile", b"iCCP")):
        (folder / f"{name}.png").write_bytes(whole[:33] + chunk(kind, b"a\0\0" + packed) + whole[33:])
    with (folder / "hole.png").open("wb") as file:
        file.write(whole[:33] + struct.pack(">I", 300_000_000) + b"teXt")
        file.seek(300_000_000, os.SEEK_CUR)
        file.write(whole[29:33] + whole[33:])
    exif = Image.Exif()
    for tag in range(10_000):
        exif[tag + 40_000 if tag else 0x0112] = 6
    Image.new("RGB", (8, 4)).save(folder / "tags.png", exif=exif)
    colours = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (8, 4)).save(folder / "icc.png", icc_profile=colours)
    return [folder / f"{name}.png" for name in ("text", "profile", "hole", "tags", "icc")]


def bomb(folder):
    told, grown, _ = measured()["60000"]
    assert told.endswith("60000.png: 3,600,000,000 pixels is over the limit of 50,000,000; resize it first")
    assert grown < 50


def large(folder):
    for side in (7_100, 9_500, 13_300):
        limit = f"{side}.png: {side} x {side} pixels is over the limit of 50,000,000"
        refuses(ImageError, limit, open_image, giant(folder, side))


def truncated(folder):
    path, noise = folder / "a.jpg", Image.effect_noise((64, 64), 50)
    noise.save(path)
    whole = path.read_bytes()
    for share in (0, 10, 50, 99):
        path.write_bytes(whole[: len(whole) * share // 100])
        assert "a.jpg: is " in refused(folder, "generate", path)
    noise.save(folder / "b.png")
    whole = (folder / "b.png").read_bytes()
    for torn in (whole[:-400], flipped(whole, whole.index(b"IDAT") + 40), flipped(whole, -14), flipped(whole, 30)):
        (folder / "b.png").write_bytes(torn)
        assert "b.png: is damaged or truncated" in refused(folder, "generate", "b.png")


def flipped(data, at, bit=1):
    """Return data with one bit turned over."""
    held = bytearray(data)
    held[at] ^= bit
    return bytes(held)


def other_formats(folder):
    (folder / "gs").write_text(f"#!/bin/sh\ntouch {folder / 'called'}\nexit 1\n")
    (folder / "gs").chmod(0o755)
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        patch.setattr(EpsImagePlugin, "gs_binary", None)
        for name in ("a.png", "a.jpg", "a.eps", "a"):
            for content in (script, b"%PDF-1.7", b"<svg/>", b"<!doctype html><html>", b"words"):
                (folder / name).write_bytes(content)
                refuses(ImageError, "despite its name", open_image, folder / name)
    assert not (folder / "called").exists()


def modes(folder):
    for mode in ("CMYK", "LAB", "P", "LA", "1", "RGBA"):
        Image.new(mode, (4, 4)).save(folder / "a.tiff")
        assert open_image(folder / "a.tiff").mode == "RGB"
    luma = Image.new("YCbCr", (1, 1), (76, 85, 255))
    assert open_image(luma).getpixel((0, 0)) == pytest.approx((255, 0, 0), abs=2)
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(folder / "a.jpg")
    whole = (folder / "a.jpg").read_bytes()
    assert open_image(folder / "a.jpg").getpixel((0, 0)) == pytest.approx((255, 0, 0), abs=4)
    (folder / "b.jpg").write_bytes(flipped(whole, whole.index(b"Adobe") + 11, 2))  # the transform: YCCK
    assert open_image(folder / "b.jpg").mode == "RGB"
    palette = Image.new("P", (1, 1))
    palette.putpalette([10, 20, 30])
    palette.save(folder / "b.png", transparency=0)
    for clear in (folder / "b.png", Image.new("RGBA", (1, 1), (0, 0, 0, 0)), Image.new("LA", (1, 1), (0, 0))):
        assert open_image(clear).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(Image.new("1", (1, 1), 1)).getpixel((0, 0)) == (255, 255, 255)


def deep_grey(folder):
    assert open_image(Image.new("F", (1, 1), 0.5)).getpixel((0, 0)) == (128, 128, 128)
    for mode, name in (("I", "a.tiff"), ("I;16", "a.png"), ("I;16", "b.tiff")):
        Image.new(mode, (1, 1), 32896).save(folder / name)
        assert open_image(folder / name).getpixel((0, 0)) == (128, 128, 128)
    refuses(ImageError, "grey values", open_image, Image.new("F", (1, 1), 1e6))


TURNS = {
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}
"""How a camera that was held so writes an upright picture."""


def rotated(folder):
    upright = Image.effect_noise((120, 80), 60).convert("RGB")
    for value, turns in {1: [], **TURNS}.items():
        exif, written = Image.Exif(), upright
        exif[0x0112] = value
        for turn in turns:
            written = written.transpose(turn)
        written.save(folder / f"{value}.png", exif=exif)
        assert open_image(folder / f"{value}.png").tobytes() == upright.tobytes()
    wanted, found = (embedded().trace(one, "What is it?", max_new_tokens=2) for one in (upright, folder / "6.png"))
    assert found.pictures[0].tobytes() == wanted.pictures[0].tobytes()
    assert found.heatmap(0).tolist() == wanted.heatmap(0).tolist()
    for torn in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x07"):
        upright.save(folder / "torn.jpg", exif=torn)
        assert open_image(folder / "torn.jpg").size == (120, 80)


def animated(folder):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")] * 50
    for name in ("a.gif", "a.webp", "a.png", "a.tiff"):
        lossless = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(folder / name, save_all=True, append_images=frames[1:], **lossless)
        with pytest.warns(MmhallWarning, match=f"{name}: is animated or has several pages; the first is taken"):
            assert open_image(folder / name).getpixel((0, 0)) == (255, 0, 0)
    long = {"long.gif": many_gif, "long.webp": many_webp, "long.png": many_png}
    for name, write in long.items():
        write(folder / name, folder)
        began = time.perf_counter()
        with pytest.warns(MmhallWarning, match=name):
            assert open_image(folder / name).getpixel((0, 0))[0] > 250
        assert time.perf_counter() - began < 10


def many_gif(path, folder):
    """Repeat the frames of a short animation 5 000 times."""
    whole = (folder / "a.gif").read_bytes()
    head, _, _ = whole.partition(b"\x2c")
    path.write_bytes(head + whole[len(head) : -1] * 100 + b";")


def many_webp(path, folder):
    """Repeat the frames of a short animation 100 times: a RIFF file is a row of chunks."""
    whole = (folder / "a.webp").read_bytes()
    at = whole.index(b"ANMF")
    body = whole[8:at] + whole[at:] * 100
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


def many_png(path, folder):
    """Repeat the later frames of a short animation 100 times, numbered anew."""
    whole, at = (folder / "a.png").read_bytes(), 8
    head, later, end, number = [], [], b"", 0
    while at < len(whole):
        (length,), name = struct.unpack(">I", whole[at : at + 4]), whole[at + 4 : at + 8]
        data, at = whole[at + 8 : at + 8 + length], at + 12 + length
        kept = head if not any(kind == b"IDAT" for kind, _ in head) else later
        kept.append((name, data))
    *later, (_, end) = later
    made = []
    for name, data in (*head, *later * 100):
        if name == b"acTL":
            data = struct.pack(">II", 10_000, 0)
        if name in (b"fcTL", b"fdAT"):
            data, number = struct.pack(">I", number) + data[4:], number + 1
        made.append(chunk(name, data))
    path.write_bytes(whole[:8] + b"".join(made) + chunk(b"IEND", end))


SIZES = ((1, 1), (1, 4000), (20_000, 10))


def odd_shapes(folder):
    """On the embedded model and on every family's own processor."""
    for size in SIZES:
        picture = Image.new("RGB", size, "grey")
        assert embedded().generate(picture, "What is it?", max_new_tokens=1).usage.new_tokens == 1
    for family in ("llava", "qwen2_5_vl", "mllama"):
        lvlm = LVLM(*built(family), family)
        for width, height in SIZES:
            picture = Image.new("RGB", (width, height), "grey")
            if family == "qwen2_5_vl" and width != height:
                told = rf"cannot read the picture \({width} x {height} pixels\)"
                refuses(ImageError, told, lvlm.generate, picture, "What?", max_new_tokens=1)
            else:
                assert lvlm.generate(picture, "What?", max_new_tokens=1).usage.new_tokens == 1


def much_beside(folder):
    found = measured()
    for name in ("text", "profile", "hole", "tags", "icc"):
        told, grown, seconds = found[name]
        assert grown < 50, (name, told, grown)
        assert seconds < 3, (name, seconds)
        assert told in ("(8, 4)", "(4, 8)") or f"{name}.png: " in told
    assert [found[name][0] for name in ("tags", "icc")] == ["(4, 8)", "(8, 4)"]


@contextlib.contextmanager
def as_nobody():
    """Give up root's right to read everything, for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65_534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def no_files(folder):
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    odd = os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png")
    for path in (folder, folder / "pipe", "/dev/zero", folder / "loop", folder / "gone", "x" * 300, odd, "a\0.png"):
        refuses(ImageError, "give the path of a picture file", open_image, path)
    assert r"\udcff\udcfe.png: does not exist" in refused(folder, "generate", odd)
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    (folder / "a.png").rename(odd)
    assert open_image(odd).size == (4, 4)
    with tempfile.TemporaryDirectory() as open_to_all:
        closed = Path(open_to_all) / "closed.png"
        Path(open_to_all).chmod(0o755)
        Image.new("RGB", (4, 4)).save(closed)
        closed.chmod(0)
        with as_nobody():
            refuses(ImageError, r"closed\.png: cannot be read: permission denied; give the path", open_image, closed)


def addresses(folder):
    def connect(*_):
        raise AssertionError("an address was called")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket, "getaddrinfo", connect)
        for address in ("file:///etc/passwd", "http://169.254.169.254/", "https://example.org/a.png", "ftp://a/b"):
            refuses(ImageError, "does not exist", open_image, address)
            assert "does not exist" in refused(folder, "generate", address)


ROWS = [
    (1, "a header of 60 000 x 60 000 pixels", bomb),
    (2, "more pixels than our own limit", large),
    (3, "a picture that was cut off, or has a wrong checksum", truncated),
    (4, "something else named as a picture", other_formats),
    (5, "colour modes and transparency", modes),
    (6, "grey of more than 8 bits", deep_grey),
    (7, "rotation told by EXIF", rotated),
    (8, "an animation", animated),
    (9, "a picture of an odd shape", odd_shapes),
    (10, "much metadata", much_beside),
    (11, "paths that are no files", no_files),
    (12, "an address in place of a path", addresses),
]
