"""Data in the files that lie on people's disks: the hub's Parquet, POPEv2's annotations, and what is neither."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, load_from_disk
from PIL import Image

from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.data import hub
from mmhall.benchmarks.data.pictures import read_pictures
from mmhall.errors import DataError
from tests.benchmarks.conftest import picture, write_json


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def jpeg(colour):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(content, "JPEG")
    return {"bytes": content.getvalue(), "path": None}


def pope_parquet(path, categories=("random",)):
    """Two questions about one picture in each category, in the columns of lmms-lab/POPE."""
    rows = [
        {
            "id": str(n),
            "question_id": str(n),
            "question": f"Is there a {name} in the image?",
            "answer": label,
            "image_source": "COCO_val2014_000000000042",
            "image": jpeg("red"),
            "category": category,
        }
        for category in categories
        for n, (name, label) in enumerate((("dog", "yes"), ("cat", "no")), 1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def questions(value):
    data = hub.data_path(str(value), "pope")
    material = benchmark("pope").material(Source(data))
    return [(item.truth["object"], item.truth["label"], item.groups) for item in material.items], data


@pytest.mark.parametrize("with_splits", [False, True])
def test_a_dataset_saved_to_disk_is_read_as_the_hub_is(tmp_path, with_splits):
    loaded = Dataset.from_parquet(str(pope_parquet(tmp_path / "p.parquet")), cache_dir=str(tmp_path / "c"))
    saved = DatasetDict({"test": loaded, "train": loaded.select([0])}) if with_splits else loaded
    saved.save_to_disk(str(tmp_path / "saved"))
    again = load_from_disk(str(tmp_path / "saved"))
    (again["test"] if with_splits else again).map(lambda row: row)
    assert list((tmp_path / "saved").rglob("cache-*.arrow"))
    read, data = questions(tmp_path / "saved")
    assert read == [("dog", "yes", ("random",)), ("cat", "no", ("random",))]
    assert hub.remarks(data)[0].startswith("from Arrow files, SHA-256 ")
    for file in (tmp_path / "saved").rglob("*.arrow"):
        file.write_bytes(b"no")
    with pytest.raises(DataError, match=r"cannot be read as Arrow: .*; copy it from the hub again"):
        questions(tmp_path / "saved")


@pytest.mark.parametrize(
    "layout", ["data/test-00000-of-00001.parquet", "test.parquet", "some.parquet", "default/test/0000.parquet"]
)
def test_parquet_is_read_as_the_hub_is(tmp_path, layout):
    file = pope_parquet(tmp_path / "POPE" / layout, ("random", "popular"))
    wanted = [("dog", "yes", ("random", "popular")), ("cat", "no", ("random", "popular"))]
    for value in (tmp_path / "POPE", file, f"hub:{tmp_path / 'POPE'}"):
        read, data = questions(value)
        assert read == wanted
        assert hub.remarks(data)[0].startswith("from Parquet files, SHA-256 ")


def test_parts_of_a_split_are_read_together_and_other_splits_are_not(tmp_path):
    folder = tmp_path / "POPE"
    pope_parquet(folder / "data" / "test-00000-of-00002.parquet", ("random",))
    pope_parquet(folder / "data" / "test-00001-of-00002.parquet", ("popular",))
    pope_parquet(folder / "data" / "train-00000-of-00001.parquet", ("adversarial",))
    pope_parquet(folder / "Full" / "random-00000-of-00001.parquet", ("random",))
    assert questions(folder)[0][0] == ("dog", "yes", ("random", "popular"))
    pope_parquet(folder / "more" / "test-00000-of-00001.parquet", ("random",))
    with pytest.raises(
        DataError, match=r"has split 'test' in several folders, .*; give the folder of one configuration"
    ):
        hub.data_path(str(folder), "pope")


def test_changed_files_are_converted_anew(tmp_path):
    file = pope_parquet(tmp_path / "a.parquet")
    first = questions(file)[1]
    assert questions(file)[1] == first
    pope_parquet(file, ("popular",))
    assert questions(file)[1] != first


def test_parquet_of_another_kind_is_refused(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="the dataset has no column 'question_id', it has text"):
        hub.data_path(str(tmp_path / "a.parquet"), "pope")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        hub.data_path(str(tmp_path / "a.parquet"), "pope")
    with pytest.raises(DataError, match="clip: no hub dataset is known for it"):
        hub.data_path(str(tmp_path / "a.parquet"), "clip")
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="other: holds no Parquet files, but is an empty folder"):
        hub.data_path(f"hub:{tmp_path / 'other'}", "pope")


def test_other_data_stays_as_it_is(tmp_path):
    assert hub.data_path(str(tmp_path), "pope") == tmp_path
    assert hub.data_path("none.json", "chair").name == "none.json"


def test_popev2_is_read_as_a_setting_of_its_own(tmp_path):
    """One question about two pictures of one name, edited and original."""
    told = (("images", "No"), ("coco/train2017", "Yes"))
    for name, _ in told:
        picture(tmp_path / name / "7.jpg")
    records = [
        {
            "image_id": 7,
            "image_name": f"/{name}/7.jpg",
            "target_object": "remote",
            "query": "Is there a remote in the image?",
            "label": label,
        }
        for name, label in told
    ]
    material = benchmark("pope").material(Source(write_json(tmp_path / "annotations.json", records)))
    assert [(i.picture, i.truth["label"], i.groups, i.truth["ids"]) for i in material.items] == [
        ("images/7.jpg", "no", ("v2",), {"v2": [1]}),
        ("coco/train2017/7.jpg", "yes", ("v2",), {"v2": [2]}),
    ]
    assert material.pictures["images/7.jpg"] == tmp_path / "images" / "7.jpg"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'[{"image_path": "a.jpg", "text": "b"}]', "but a list of 1 records with the fields image_path, text"),
        (b'{"version": 1}', "but an object with the keys version"),
        (b"PAR1\xff\x00", "but a Parquet file"),
        (b"a,b\n1,2\n", "but a table with the columns a, b"),
        (b"version https://git-lfs.github.com/spec/v1\n", "but a pointer of Git LFS"),
    ],
)
def test_a_refusal_says_what_the_data_seems_to_be(tmp_path, content, told):
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told):
        read_pictures(path, tmp_path)


def test_a_folder_is_no_detection_file_but_says_what_it_holds(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.txt").touch()
    with pytest.raises(DataError, match=r"it is a folder that holds x\.txt, give a COCO detection file"):
        read_pictures(tmp_path / "d", tmp_path)
