"""Pictures of visitors: large ones are shrunk within bounds of memory, and all are shown by browsers afterwards."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from mmhall.demo import photos
from mmhall.demo.photos import MAX_PIXELS, open_photo, write_photo
from mmhall.errors import ImageError
from tests.demo.visitor import Visitor


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A JPEG of 50 megapixels, of odd sides: red on the left, blue on the right."""
    path = tmp_path_factory.mktemp("camera") / "large.jpg"
    image = Image.new("RGB", (8661, 5773), "red")
    image.paste("blue", (4330, 0, 8661, 5773))
    image.save(path, quality=30)
    return path


@pytest.mark.slow
def test_a_jpeg_of_50_megapixels_is_decoded_at_half_its_size(large, monkeypatch):
    decoded = []
    load = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda *some, **more: decoded.append(1) or load(*some, **more))
    photo = open_photo(large)
    assert photo.image.size == (4331, 2887)
    assert photo.note == "shrunk from 8661 x 5773 to 4331 x 2887 pixels"
    assert not photo.shows
    assert not decoded  # never at its full size
    assert np.allclose(
        [photo.image.getpixel((9, 9)), photo.image.getpixel((4300, 9))], [[255, 0, 0], [0, 0, 255]], atol=3
    )


@pytest.mark.slow
def test_another_large_picture_is_shrunk_to_the_limit(tmp_path):
    path = tmp_path / "drawn.png"
    Image.new("L", (9000, 3000), 200).save(path)
    photo = open_photo(path)
    assert photo.image.width * photo.image.height <= MAX_PIXELS
    assert photo.image.width / photo.image.height == pytest.approx(3, abs=0.01)
    assert photo.note.startswith("shrunk from 9000 x 3000")


def test_a_picture_within_the_limit_is_as_it_is(tmp_path, scene):
    path = tmp_path / "scene.png"
    scene.image.save(path)
    photo = open_photo(path)
    assert (photo.image.tobytes(), photo.note, photo.shows) == (scene.image.tobytes(), "", True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "told"),
    [((8000, 8000), "at most 60 million"), ((3100, 100), "one side may be 30 times"), ((20_000, 20_000), "pixels")],
)
def test_what_is_too_large_or_too_long_is_refused_without_its_path(tmp_path, size, told):
    path = tmp_path / "private.png"
    Image.new("1", size).save(path)
    with pytest.raises(ImageError, match=told) as caught:
        open_photo(path)
    assert str(caught.value).startswith("this picture ")
    assert str(tmp_path) not in str(caught.value)


def test_what_is_no_picture_is_refused_without_its_path(tmp_path, large):
    path = tmp_path / "private.jpg"
    for content, told in (
        (b"no picture", "is not a picture"),
        (b"", "is empty"),
        (large.read_bytes()[:5000], "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(ImageError, match=told) as caught:
            open_photo(path)
        assert str(tmp_path) not in str(caught.value)


def test_a_small_file_of_many_scans_is_refused_at_once(tmp_path):
    path = tmp_path / "scans.jpg"
    Image.new("L", (64, 64)).save(path, progressive=True)
    content = path.read_bytes()
    path.write_bytes(content[:-2] + 90 * content[content.rfind(b"\xff\xda") : -2] + content[-2:])
    assert open_photo(path).image.size == (64, 64)
    path.write_bytes(content[:-2] + 200 * content[content.rfind(b"\xff\xda") : -2] + content[-2:])
    with pytest.raises(ImageError, match="at most 100"):
        open_photo(path)


def test_heic_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "photo.heic"
    path.write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(64))
    with pytest.raises(ImageError, match="pip install pillow-heif"):
        open_photo(path)


def test_heic_is_read_where_the_plug_in_is_installed(tmp_path, scene):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    path = tmp_path / "photo.heic"
    scene.image.save(path, format="HEIF", quality=90)
    photo = open_photo(path)
    assert (photo.image.size, photo.shows) == (scene.image.size, False)
    assert np.abs(np.asarray(photo.image, float) - np.asarray(scene.image, float)).mean() < 8


def test_a_written_picture_is_one_that_browsers_show(tmp_path, scene):
    path = tmp_path / "scan.tif"
    scene.image.save(path)
    photo = open_photo(path)
    assert not photo.shows
    written = write_photo(photo, tmp_path)
    assert written.parent.parent == tmp_path
    with Image.open(written) as opened:
        assert (opened.format, opened.convert("RGB").tobytes()) == ("PNG", scene.image.tobytes())


@pytest.mark.slow
def test_uploads_are_received_as_pictures_to_show(visitor: Visitor, large, scene):
    shown = visitor.call("receive", {"upload": visitor.upload(scene.image)}).value
    assert (shown["image"], shown["note"], shown["width"]) == ("", "", 224)
    written = io.BytesIO()
    scene.image.save(written, "TIFF")
    for content, note, kind in (
        (large.read_bytes(), "shrunk from 8661 x 5773", "JPEG"),
        (written.getvalue(), "", "PNG"),
    ):
        got = visitor.call("receive", {"upload": visitor.upload(content, "photo", "image/x")}).value
        assert got["note"].startswith(note)
        with Image.open(io.BytesIO(visitor.http.get(got["image"]).content)) as opened:
            assert (opened.format, opened.size) == (kind, (got["width"], got["height"]))
        again = visitor.call("receive", {"upload": got["upload"]}).value
        assert (again["image"], again["note"]) == ("", "")
        settings = {"max_new_tokens": 2}
        assert visitor.call("compare", {"upload": got["upload"]}, "What is this?", ["greedy"], settings).error is None
    told = visitor.call(
        "compare", {"upload": visitor.upload(large.read_bytes())}, "What is this?", ["greedy"], settings
    )
    assert told.value["note"].startswith("shrunk from 8661 x 5773")
    assert photos.MAX_PIXELS == MAX_PIXELS
