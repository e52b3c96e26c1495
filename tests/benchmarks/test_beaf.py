"""BEAF: its published file, its figures by hand, and pairs of drawn scenes that differ in one object only."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.beaf import Beaf
from mmhall.benchmarks.data.scene_pairs import draw_pairs
from mmhall.benchmarks.run.scoring import score
from mmhall.benchmarks.scenes import make_scene, write_scenes
from mmhall.benchmarks.scenes.pairs import removable_objects, without_object
from mmhall.benchmarks.scenes.render import render
from mmhall.errors import DataError
from tests.benchmarks.conftest import answered, picture, write_json

ORIGINAL, WITHOUT_TRAIN, WITHOUT_TRUCK = "COCO_1.jpg", "COCO_1_00.png", "COCO_1_01.png"
ASKED = [  # picture, object, is the original, is removed somewhere, label
    (ORIGINAL, "car", True, False, "yes"),
    (ORIGINAL, "train", True, True, "yes"),
    (ORIGINAL, "truck", True, True, "yes"),
    (ORIGINAL, "spoon", True, False, "no"),
    (WITHOUT_TRAIN, "train", False, True, "no"),
    (WITHOUT_TRAIN, "car", False, False, "yes"),
    (WITHOUT_TRAIN, "truck", False, True, "yes"),
    (WITHOUT_TRAIN, "spoon", False, False, "no"),
    (WITHOUT_TRUCK, "truck", False, True, "no"),
    (WITHOUT_TRUCK, "car", False, False, "yes"),
    (WITHOUT_TRUCK, "train", False, True, "yes"),
    (WITHOUT_TRUCK, "spoon", False, False, "no"),
]


def records(asked=ASKED):
    return [
        {
            "id": n,
            "image": image,
            "question": f"Is there a {name} in the image?",
            "orig_img": original,
            "removed_q": removed,
            "gt": label,
        }
        for n, (image, name, original, removed, label) in enumerate(asked)
    ]


@pytest.fixture
def published(tmp_path):
    for name in (ORIGINAL, WITHOUT_TRAIN, WITHOUT_TRUCK):
        picture(tmp_path / name)
    write_json(tmp_path / "beaf_qna.json", records())
    return tmp_path


def figures(made, items, texts):
    cells = made.evaluate(items, answered(made, items, texts), ["greedy"]).cells
    return {cell.metric.name: cell.estimate for cell in cells}


def test_the_published_file_gives_pairs(published):
    material = Beaf().material(Source(published))
    assert [item.truth["kind"] for item in material.items] == [
        *["original"] * 4, "removed", "kept", "other", "kept", "removed", "kept", "other", "kept",
    ]  # fmt: skip
    assert [item.truth["before"] for item in material.items[4:8]] == ["1", "0", "2", "3"]
    assert {item.cluster for item in material.items} == {ORIGINAL}
    assert material.items[4].prompt == (
        "Is there a train in the image?\nAnswer the question using a single word or phrase."
    )
    assert material.remarks == ()


def test_figures_by_hand(published):
    """Train yes -> no is TU, truck yes -> yes is SBp; of car and spoon, twice each, one answer of four changes.

    TU 1/2, SBp 1/2, ID 1/4, F1(TU, ID) = 2 * 1/2 * 3/4 / (1/2 + 3/4) = 0.6. Trucks in the picture without the train
    belong to no pair: "no" there changes nothing but the accuracy. Right: all but truck twice, and car once: 9 of 12.
    """
    items = Beaf().material(Source(published)).items
    yes = {(0, "car"), (0, "train"), (0, "truck"), (1, "car"), (2, "truck"), (2, "train")}
    order = {ORIGINAL: 0, WITHOUT_TRAIN: 1, WITHOUT_TRUCK: 2}
    texts = ["Yes" if (order[image], name) in yes else "No" for image, name, *_ in ASKED]
    for made in (Beaf(), benchmark("beaf(rule='contains')")):
        got = figures(made, items, texts)
        assert {name: got[name].value for name in ("TU", "IG", "SBp", "SBn", "ID", "F1(TU, ID)")} == pytest.approx(
            {"TU": 0.5, "IG": 0, "SBp": 0.5, "SBn": 0, "ID": 0.25, "F1(TU, ID)": 0.6}
        )
        assert (got["TU"].under, got["ID"].under) == (2, 4)
        assert got["accuracy"].value == pytest.approx(9 / 12)
    texts[1] = texts[8] = "No"
    got = figures(Beaf(), items, texts)  # train no -> no, truck yes -> no
    assert {name: got[name].value for name in ("TU", "IG", "SBp", "SBn")} == {"TU": 0.5, "IG": 0, "SBp": 0, "SBn": 0.5}
    texts[4] = "Yes"
    assert figures(Beaf(), items, texts)["IG"].value == 0.5


def test_an_unparsed_answer_is_no_understanding_and_a_change(published):
    items = Beaf().material(Source(published)).items
    texts = ["Yes" if label == "yes" else "No" for *_, label in ASKED]
    assert figures(Beaf(), items, texts)["F1(TU, ID)"].value == 1
    texts[4] = texts[7] = "?"
    got = figures(Beaf(), items, texts)
    assert sum(got[name].value for name in ("TU", "IG", "SBp", "SBn")) == 0.5
    assert got["ID"].value == 0.25


def test_the_authors_answer_file_is_scored(published, tmp_path):
    answers = [{"id": n, "answer": "Yes." if label == "yes" else "No."} for n, (*_, label) in enumerate(ASKED)]
    scored = score(Beaf(), Source(published), write_json(tmp_path / "answer.json", answers))
    assert {c.metric.name: c.estimate.value for c in scored.evaluation.cells}["TU"] == 1


def test_questions_that_do_not_follow_the_removal_belong_to_no_pair(published):
    """The train was never there, and the car vanishes with it."""
    odd = records()
    odd[1]["gt"], odd[5]["gt"] = "no", "no"
    write_json(published / "beaf_qna.json", odd)
    material = Beaf().material(Source(published))
    assert material.remarks == ("2 questions belong to no pair: their label does not follow what was removed.",)
    assert [item.truth["kind"] for item in material.items[4:6]] == ["other", "other"]


def test_unsuitable_files_are_refused(published):
    path = published / "beaf_qna.json"
    for wrong, message in (
        (records(ASKED[:3] + ASKED[4:]), r"COCO_1\.jpg is not asked 'Is there a spoon in the image\?'"),
        (records(ASKED[4:]), r"entry 1: COCO_1_00\.png is an edited picture, and the file has no original"),
        ([{**records()[0], "orig_img": "yes"}], "'orig_img' must be true or false, got 'yes'"),
        ([{**records()[0], "gt": "maybe"}], "'gt' must be 'yes' or 'no'"),
    ):
        write_json(path, wrong)
        with pytest.raises(DataError, match=message):
            Beaf().material(Source(published))
    with pytest.raises(DataError, match=r"None: no such file|does not exist; beaf reads"):
        Beaf().material(Source(published / "none"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    list(write_scenes(folder, 8, seed=5))
    return folder / "annotations.json"


@pytest.mark.slow
def test_only_the_removed_object_changes():
    """Outside its box, and the margin of its panel or shadow, each pixel stays; the others stay at least as visible."""
    removed = covered = 0
    for index in range(6):
        plan = make_scene(3, index).plan
        before = render(plan)
        for place in removable_objects(plan):
            after = render(without_object(plan, place))
            gone = plan.objects[place]
            assert gone.name not in {shown.name for shown in after.objects}
            left = [shown for i, shown in enumerate(before.objects) if i != place]
            assert [shown.name for shown in left] == [shown.name for shown in after.objects]
            assert all(old.area <= new.area for old, new in zip(left, after.objects, strict=True))
            changed = np.argwhere((np.asarray(before.image) != np.asarray(after.image)).any(axis=-1))
            assert len(changed)
            centre, reach = np.array([gone.y, gone.x]) * 224, gone.side * 224 * 1.6 / 2 + 6
            shift = np.clip(centre, gone.side * 112, 224 - gone.side * 112) - centre
            assert (np.abs(changed - centre - shift) <= reach).all()
            removed, covered = removed + 1, covered + bool(gone.cover)
    assert removed > 12
    assert covered


@pytest.mark.slow
def test_drawn_pairs_ask_the_same_of_both(scenes):
    material = Beaf(edits=2).material(Source(scenes))
    by_kind = {kind: [i for i in material.items if i.truth["kind"] == kind] for kind in ("original", "removed", "kept")}
    edited = {item.picture for item in material.items} - {item.cluster for item in material.items}
    assert 12 < len(by_kind["removed"]) == len(edited) <= 16
    items = {item.id: item for item in material.items}
    for item in by_kind["removed"]:
        assert (items[item.truth["before"]].truth["label"], item.truth["label"]) == ("yes", "no")
        assert items[item.truth["before"]].prompt == item.prompt
    assert all(items[item.truth["before"]].truth["label"] == item.truth["label"] for item in by_kind["kept"])
    listed = json.loads(scenes.read_text())
    names = {entry["id"]: entry["name"] for entry in listed["categories"]}
    files = {entry["id"]: entry["file_name"] for entry in listed["images"]}
    shown = {(files[a["image_id"]], names[a["category_id"]]) for a in listed["annotations"]}
    for item in by_kind["original"]:
        assert (item.truth["label"] == "yes") == ((item.picture, item.id.rpartition("/")[2]) in shown)
    labels = [item.truth["label"] for item in by_kind["original"]]
    assert labels.count("yes") == labels.count("no")
    assert material.pictures[by_kind["removed"][0].picture].parent == scenes.parent / "edited"
    assert all(path.is_file() for path in material.pictures.values())
    again = Beaf(edits=2).material(Source(scenes))
    assert material.digest == again.digest
    assert Beaf(edits=2).material(Source(scenes, seed=1)).digest != material.digest
    assert len({i.cluster for i in Beaf().material(Source(scenes, limit=3)).items}) == 3


def test_scenes_of_another_version_are_refused(scenes, tmp_path):
    for file in scenes.parent.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    Image.new("RGB", (224, 224)).save(tmp_path / "000002.png")
    with pytest.raises(DataError, match=r"000002\.png: was drawn by another version of mmhall"):
        Beaf().material(Source(tmp_path / "annotations.json"))
    assert len(draw_pairs(tmp_path / "annotations.json", 0, 1, check=False).edits) == 8


def test_hard_scenes_are_drawn_again_as_such(tmp_path):
    list(write_scenes(tmp_path, 1, seed=5, kind="hard"))
    assert Beaf().material(Source(tmp_path / "annotations.json")).items


def test_pairs_are_found_in_numbered_items(published):
    """Runs taken together have the number of the run before each id."""
    items = [replace(item, id=f"1:{item.id}") for item in Beaf().material(Source(published)).items]
    texts = ["Yes" if label == "yes" else "No" for *_, label in ASKED]
    assert figures(Beaf(), items, texts)["F1(TU, ID)"].value == 1
