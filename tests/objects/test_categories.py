"""Objects of any detection data are found by the names that its file has for them."""

from __future__ import annotations

import json

import pytest

from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.evaluation import evaluate
from mmhall.errors import DataError
from mmhall.objects.categories import coco_name, forms, names, unify_categories
from mmhall.objects.coco_words import SYNONYMS
from tests.benchmarks.conftest import answered, picture, totals, write_json


def detection(folder, pictures, **synonyms):
    """A detection file of pictures with categories by name; some have synonyms."""
    named = list(dict.fromkeys(name for objects in pictures for name in objects))
    for number in range(len(pictures)):
        picture(folder / f"{number}.jpg")
    told = [{"id": i, "name": n, **({"synonyms": synonyms[n]} if n in synonyms else {})} for i, n in enumerate(named)]
    annotations = [
        {"image_id": i, "category_id": named.index(name)} for i, objects in enumerate(pictures) for name in objects
    ]
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(len(pictures))]
    return write_json(folder / "o.json", {"images": images, "annotations": annotations, "categories": told})


@pytest.mark.parametrize(
    ("category", "caption"),
    [
        ("Person", "A woman."),
        ("Cabinet/shelf", "Two shelves."),
        ("Street Lights", "A street light."),
        ("Monitor/TV", "A television."),
        ("traffic_light", "A stoplight."),
        ("diningtable", "A table."),
        ("aeroplane", "Two jets."),
        ("Sneakers", "A sneaker."),
        ("mouse_(computer_equipment)", "A mouse."),
        ("couch, sofa", "A loveseat."),
        ("T-shirt", "A T-shirt."),
        ("cutting/chopping Board", "A cutting board."),
        ("tree-merged", "Trees."),
        ("Shelves", "A shelf."),
        ("People", "Three people and a person."),
        ("Dinning Table", "A dining table."),
        ("Kitchen & dining room table", "A table."),
    ],
)
def test_a_category_is_found_however_its_name_is_spelt(tmp_path, category, caption):
    chair = benchmark("chair")
    items = chair.material(Source(detection(tmp_path, [[category, "Wild Fox"]]))).items
    counts = chair.count(items[0], caption)
    assert counts["named"] > 0
    assert (counts["absent"], counts["found"]) == (0, 1)


def test_a_word_for_another_thing_is_not_a_category(tmp_path):
    chair = benchmark("chair")
    items = chair.material(Source(detection(tmp_path, [["Glasses", "Cutting/chopping Board", "Shorts", "bus"]]))).items
    assert chair.count(items[0], "A short man cutting bread with a glass of water.")["named"] == 0


@pytest.mark.parametrize(
    ("kind", "rest", "caption"), [("Sneakers", "Other Shoes", "shoes"), ("Goldfish", "Other Fish", "a fish")]
)
def test_the_word_of_a_category_for_the_rest_may_name_another_category(tmp_path, kind, rest, caption):
    """Sneakers are shoes, so "shoes" is no mention of Objects365's "Other Shoes"."""
    chair = benchmark("chair")
    items = chair.material(Source(detection(tmp_path, [[kind, "Person"], [rest]]))).items
    counts = chair.count(items[0], f"A person with {caption}.")
    assert (counts["named"], counts["absent"]) == (1, 0)


def test_spellings_of_one_category_are_one(tmp_path):
    """Dog and dogs; a CSV list as people write it."""
    for number in range(3):
        picture(tmp_path / f"{number}.jpg")
    data = tmp_path / "list.csv"
    data.write_text("file,objects\n0.jpg,Dog;Fox\n1.jpg,dogs\n2.jpg,foxes;Dog\n")
    chair = benchmark("chair")
    items = chair.material(Source(data)).items
    assert [item.truth["objects"] for item in items] == [["dog", "Fox"], ["dog"], ["Fox", "dog"]]
    got = totals(chair, items, answered(chair, items, ["A dog, two foxes.", "A puppy.", "A fox and a dog."]))
    assert got["CHAIR_i"] == (0, 5)
    assert got["recall"] == (5, 5)


def test_a_woman_is_a_person_where_the_data_has_persons(tmp_path):
    """Open Images and Visual Genome have both; where there is no person, "person" is not looked for."""
    chair = benchmark("chair")
    material = chair.material(Source(detection(tmp_path, [["Woman", "Girls"], ["Person"], ["Pitcher"]])))
    assert [item.truth["objects"] for item in material.items] == [["person"], ["person"], ["Pitcher"]]
    assert "'Girls', 'Woman' count as 'person', which the data has, too." in material.remarks
    assert chair.count(material.items[0], "A person and a woman.")["absent"] == 0
    alone = chair.material(Source(detection(tmp_path, [["Woman"], ["Man"]])))
    assert chair.count(alone.items[0], "A person, a man.")["absent"] == 1
    (tmp_path / "list.csv").write_text("file,objects\n0.jpg,woman;person\n")
    assert "'woman' count as" in chair.material(Source(tmp_path / "list.csv")).remarks[0]


@pytest.mark.parametrize("spec", ["pope", "chair"])
def test_data_that_is_annotated_in_part_says_so(tmp_path, spec):
    data = detection(tmp_path, [["dog", "cat", "fox"], ["cow"], ["sheep"], ["bird"]])
    assert not any("neg_category_ids" in remark for remark in benchmark(spec).material(Source(data)).remarks)
    told = json.loads(data.read_text())
    told["images"][0]["neg_category_ids"] = [1]
    write_json(data, told)
    assert any("neg_category_ids, as in LVIS" in remark for remark in benchmark(spec).material(Source(data)).remarks)


def test_synonyms_of_the_file_are_words_for_its_category(tmp_path):
    chair = benchmark("chair")
    data = detection(tmp_path, [["aerosol_can", "fox"]], aerosol_can=["aerosol_can", "spray_can"])
    items = chair.material(Source(data)).items
    assert chair.count(items[0], "Two spray cans.")["found"] == 1
    data = detection(tmp_path, [["aerosol_can"]], aerosol_can="spray can")
    with pytest.raises(DataError, match="'aerosol_can' has synonyms 'spray can'; expected a list of words"):
        chair.material(Source(data))


def test_pictures_of_lvis_go_by_their_address(tmp_path):
    picture(tmp_path / "val2017" / "7.jpg")
    told = {
        "images": [{"id": 7, "coco_url": "http://images.cocodataset.org/val2017/7.jpg"}],
        "annotations": [{"image_id": 7, "category_id": 1}],
        "categories": [{"id": 1, "name": "bus_(vehicle)", "synonyms": ["bus_(vehicle)", "autobus"]}],
    }
    data = write_json(tmp_path / "lvis.json", told)
    for images in (tmp_path, tmp_path / "val2017"):
        material = benchmark("chair").material(Source(data, images))
        assert material.pictures["7"].is_file()
    assert benchmark("chair").count(material.items[0], "A bus.")["found"] == 1


def test_detect_looks_for_the_objects_of_its_data(tmp_path):
    detect = benchmark("detect")
    items = detect.material(Source(detection(tmp_path, [["fox"], ["Person"]]))).items
    assert detect.count(items[0], "A fox and a man. A car.") == {"n": 1, "named": 2, "absent": 1}


def test_objects_that_no_caption_names_are_told(tmp_path):
    """12 of 14: fox and person are named, by some caption."""
    chair, unknown = benchmark("chair"), [f"thing {letter}" for letter in "abcdefghijkl"]
    items = chair.material(Source(detection(tmp_path, [["fox", *unknown], ["Person"]]))).items
    rows = answered(chair, items, ["A fox.", "A man."])
    (told,) = evaluate(chair, items, rows, ["greedy"]).remarks
    assert told.startswith("12 of the 14 objects in the pictures are named in no caption: 'thing a', ")
    assert "'thing j', ..." in told
    own = chair.material(Source(detection(tmp_path, [["dog", "cat"]]))).items
    assert evaluate(chair, own, answered(chair, own, ["Nothing."]), ["greedy"]).remarks == ()  # COCO's words are known


def test_cocos_own_names_stay_as_they_are():
    assert unify_categories(SYNONYMS) == {name: name for name in SYNONYMS}
    assert all(coco_name(name.title().replace(" ", "_")) == name for name in SYNONYMS)
    assert unify_categories(["bow_(weapon)", "bow_(ribbon)", "Bows"]) == dict.fromkeys(
        ["Bows", "bow_(ribbon)", "bow_(weapon)"], "Bows"
    )


def test_odd_names_are_kept():
    assert names("cafe\u0301") == names("caf\xe9")
    assert names("/") == ("/",)
    assert names("(x)") == ("(x)",)
    assert forms("wall-brick") == ["wall-brick", "wall brick"]
