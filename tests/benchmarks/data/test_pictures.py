from __future__ import annotations

import json

import pytest
from PIL import Image

from mmhall.benchmarks.data.pictures import read_captions, read_coco, read_pictures
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


def test_ids_may_be_text_with_gaps_and_pictures_may_show_nothing(tmp_path):
    images = [{"id": "10", "file_name": "b.png"}, {"id": "x", "file_name": "a.png"}]
    annotations = [{"image_id": "10", "category_id": "90"}]
    path = write(tmp_path, images=images, categories=[{"id": 90, "name": "fox"}], annotations=annotations)
    assert [(p.id, p.objects) for p in read_coco(path, tmp_path).pictures] == [("x", ()), ("10", ("fox",))]


def test_a_picture_listed_twice_is_refused(tmp_path):
    images = [{"id": 9, "file_name": "a.png"}, {"id": "9", "file_name": "b.png"}]
    with pytest.raises(DataError, match="picture 9 twice"):
        read_coco(write(tmp_path, images=images, annotations=[]), tmp_path)


def test_a_picture_is_found_by_id(tmp_path):
    pictures = read_coco(write(tmp_path), tmp_path)
    assert all(pictures[p.id] is p for p in pictures.pictures)
    with pytest.raises(KeyError):
        pictures["77"]


@pytest.mark.parametrize(
    ("text", "objects", "visibility"),
    [
        (
            "file,objects\na.png,dog; car;dog\nb.png,\n",
            [("a.png", ("dog", "car")), ("b.png", ())],
            {"dog": "", "car": ""},
        ),
        (
            '\ufefffile,category,visibility\r\na.png,"dog",faint\r\n"a.png",car,\r\na.png,dog,clear\r\n\r\nb.png,,\r\n',
            [("a.png", ("dog", "car")), ("b.png", ())],
            {"dog": "clear", "car": ""},
        ),
        ('category, File\n"stop sign", a.png\n', [("a.png", ("stop sign",))], {"stop sign": ""}),
        ("Image;category\na.png;dog\nb.png;\n", [("a.png", ("dog",)), ("b.png", ())], {"dog": ""}),
        ("file_name\tobjects\na.png\tdog;car\n", [("a.png", ("dog", "car"))], {"dog": "", "car": ""}),
        ("file,objects\na.png,dog,,\nb.png,,\n", [("a.png", ("dog",)), ("b.png", ())], {"dog": ""}),
        ("file,objects,note\nb.png,dog\na.png\n", [("a.png", ()), ("b.png", ("dog",))], {}),
    ],
)
def test_picture_lists(tmp_path, text, objects, visibility):
    write(tmp_path)
    (tmp_path / "list.CSV").write_bytes(text.encode())
    pictures = read_pictures(tmp_path / "list.CSV", tmp_path)
    assert [(p.id, p.objects) for p in pictures.pictures] == objects
    assert pictures["a.png"].visibility == visibility
    assert pictures.categories == tuple(sorted({name for _, names in objects for name in names}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing"),
        ("a.png,dog\n", "'a.png,dog'"),
        ("file\na.png\n", "its first line"),
        ("objects\ndog\n", "its first line"),
        ("file,objects\n", "lists no pictures"),
        ("file,objects\n,dog\n", "list.csv:2: names no file"),
        ("file,objects\na.png,dog\na.png,car\n", "list.csv:3: lists 'a.png' a second time"),
        ('file,objects\na.png,"dog\n', "no CSV file"),
        ("file,objects\ngone.png,dog\n", "gone.png: does not exist"),
        (b"file,objects\n\xff,dog\n", "no CSV file"),
        ("file,objects\na.png,dog\nb.png,dog,cat\n", "list.csv:3: has 1 more cells than the first line, such as 'cat'"),
        ('file,objects\na.png,"dog, cat"\n', "list.csv:2: 'dog, cat' holds ','; separate the names"),
        ("file,objects\na.png,dog|cat\n", "list.csv:2: 'dog|cat' holds '|'; separate the names"),
        ("file,category\na.png,dog;cat\n", "list.csv:2: 'dog;cat' holds ';'; give each object a row"),
    ],
)
def test_unfit_picture_lists_are_refused(tmp_path, text, message):
    write(tmp_path)
    path = tmp_path / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as error:
        read_pictures(path, tmp_path)
    assert message in str(error.value)


def test_a_folder_is_no_picture_list(tmp_path):
    (tmp_path / "a.csv").mkdir()
    for name in ("a.csv", "gone.csv"):
        with pytest.raises(DataError, match="cannot be read"):
            read_pictures(tmp_path / name, tmp_path)


def test_captions_by_picture(tmp_path):
    listed = [{"image_id": n, "caption": text} for n, text in ((9, "A."), ("9", "B."), (10, "C."))]
    (tmp_path / "c.json").write_text(json.dumps({"annotations": listed}))
    assert read_captions(tmp_path / "c.json") == {"9": ["A.", "B."], "10": ["C."]}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"annotations": [{"caption": "A."}]}', '{"annotations": []}'])
def test_unfit_captions_are_refused(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DataError, match=r"c\.json: "):
        read_captions(tmp_path / "c.json")


def sets(folder, content):
    (folder / "sets.json").write_text(json.dumps(content))
    return folder / "sets.json"


def test_object_lists_go_by_file_name_stem_or_number(tmp_path):
    write(tmp_path)
    for name in ("COCO_val2014_000000000042.jpg", "7.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    content = {"42": ["dog", "car", "dog"], "7": [], "a.png": ["cat"], "b": ["cat"]}
    for told in (content, {"note": "", "ids": [1], "objects": content}):
        pictures = read_pictures(sets(tmp_path, told), tmp_path)
        assert [(p.id, p.path.name, p.objects) for p in pictures.pictures] == [
            ("a.png", "a.png", ("cat",)),
            ("b", "b.png", ("cat",)),
            ("7", "7.png", ()),
            ("42", "COCO_val2014_000000000042.jpg", ("dog", "car")),
        ]
        assert pictures.categories == ("car", "cat", "dog")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": "dog", "b": ["dog"]}, "'a' has 'dog'"),
        ({"a": [1], "b": ["dog"]}, "expected a list of object names"),
        ({"gone": ["dog"]}, "gone: does not exist"),
        ({"5": ["dog"]}, "'5' may be x5.png or y05.png"),
        ({}, "no COCO detection file"),
        (["dog"], "no COCO detection file"),
        ({"a": 1}, "no COCO detection file"),
    ],
)
def test_unfit_object_lists_are_refused(tmp_path, content, message):
    write(tmp_path)
    for name in ("x5.png", "y05.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(DataError, match=message):
        read_pictures(sets(tmp_path, content), tmp_path)


def test_object_lists_need_no_pictures_where_none_are_looked_at(tmp_path):
    pictures = read_pictures(sets(tmp_path, {"5": ["dog"]}), tmp_path / "none", required=False)
    assert [p.objects for p in pictures.pictures] == [("dog",)]
