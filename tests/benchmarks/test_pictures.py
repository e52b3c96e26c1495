from __future__ import annotations

import json

import pytest
from PIL import Image

from mmhall.benchmarks.pictures import read_coco
from mmhall.errors import DataError


def write(folder, **changes):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    data = {
        "images": [{"id": 10, "file_name": "b.png"}, {"id": 9, "file_name": "a.png"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"image_id": 9, "category_id": 18, "visibility": "faint"},
            {"image_id": 9, "category_id": 3},
            {"image_id": 9, "category_id": 18, "visibility": "clear"},
        ],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps({**data, **changes}))
    return path


def test_objects_are_distinct_in_listed_order_and_pictures_sorted(tmp_path):
    pictures = read_coco(write(tmp_path), tmp_path)
    assert [(p.id, p.objects) for p in pictures.pictures] == [("9", ("dog", "car")), ("10", ())]
    assert pictures.categories == ("car", "dog")


def test_an_object_seen_clearly_once_is_clear(tmp_path):
    assert read_coco(write(tmp_path), tmp_path)["9"].visibility["dog"] == "clear"


def test_the_digest_follows_objects_and_files(tmp_path):
    first = read_coco(write(tmp_path), tmp_path).digest
    assert read_coco(write(tmp_path), tmp_path).digest == first
    assert read_coco(write(tmp_path, annotations=[]), tmp_path).digest != first
    path = write(tmp_path)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    assert read_coco(path, tmp_path).digest != first


def test_limit_keeps_the_first(tmp_path):
    assert [p.id for p in read_coco(write(tmp_path), tmp_path, limit=1).pictures] == ["9"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [], "annotations": []}, "lists no pictures"),
        ({"categories": None}, "no COCO detection file"),
        ({"annotations": [{"image_id": 77, "category_id": 3}]}, "no COCO detection file"),
        ({"annotations": [{"image_id": 9, "category_id": 77}]}, "no COCO detection file"),
        ({"images": [{"id": 1, "file_name": "gone.png"}], "annotations": []}, "gone.png: does not exist"),
    ],
)
def test_unfit_files_are_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read_coco(write(tmp_path, **changes), tmp_path)


def test_what_is_no_json_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match="no COCO detection file"):
        read_coco(tmp_path / "a.json", tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_coco(tmp_path / "b.json", tmp_path)
