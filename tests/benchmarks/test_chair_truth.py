from __future__ import annotations

import json

import pytest
from PIL import Image

from mmhall.benchmarks.base import Source
from mmhall.benchmarks.chair import Chair, digest
from mmhall.errors import DataError, OptionError


@pytest.fixture
def folder(tmp_path):
    for name in ("1.png", "2.png", "3.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def coco(folder, *names):
    data = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in (1, 2, 3)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
        "annotations": [{"image_id": 1, "category_id": n} for n in range(len(names))],
    }
    (folder / "a.json").write_text(json.dumps(data))
    return Source(folder / "a.json")


def captioned(folder, *captions):
    listed = [{"image_id": image, "caption": text} for image, text in captions]
    (folder / "captions.json").write_text(json.dumps({"annotations": listed}))
    return str(folder / "captions.json")


def objects(material):
    return {item.id: item.truth["objects"] for item in material.items}


def test_reference_captions_add_to_the_truth(folder):
    """Picture 1 gains a person, 2 a cat and a bed; 3 shows nothing: 3 of 4 objects come from captions alone."""
    path = captioned(folder, (1, "A man and his dog."), (1, "A puppy."), (2, "A cat on a bed."), (77, "A tv."))
    material = Chair(captions=path).material(coco(folder, "dog"))
    assert objects(material) == {"1": ["dog", "person"], "2": ["cat", "bed"]}
    assert material.remarks == (
        "3 of 4 objects are known from reference captions only.",
        "1 of 3 pictures show no known object and are left out.",
    )


def test_captions_of_other_pictures_are_refused(folder):
    with pytest.raises(DataError, match="no caption of any of the 3 pictures"):
        Chair(captions=captioned(folder, (77, "A tv."))).material(coco(folder, "dog"))


def test_captions_are_read_by_the_rule(folder):
    """By this word list a puppy is nothing, and a hound is a dog."""
    (folder / "words").write_text("dog, hound\ncat, kitten\n")
    (folder / "lemmas").write_text('{"hounds": "hound"}')
    chair = Chair(
        rule="original",
        vocabulary=str(folder / "words"),
        lemmas=str(folder / "lemmas"),
        captions=captioned(folder, (2, "Two hounds."), (3, "A puppy.")),
    )
    assert objects(chair.material(coco(folder, "cat"))) == {"1": ["cat"], "2": ["dog"]}
    with pytest.raises(DataError, match="'tv' is no object"):
        chair.material(coco(folder, "tv"))


def test_other_categories_are_found_by_name_and_plural(folder):
    """The data knows foxes and dogs: a person is none of its objects and counts for nothing."""
    material = Chair().material(coco(folder, "fox", "dog"))
    counts = Chair().count(material.items[0], "Two foxes, a puppy and a man. A vixen.")
    assert (counts["named"], counts["absent"], counts["found"]) == (2, 0, 2)
    assert "1 categories that are not COCO's" in material.remarks[0]


def test_a_vocabulary_of_ones_own(folder):
    (folder / "words.json").write_text('{"fox": ["vixen", "red fox"], "wolf": []}')
    chair = Chair(vocabulary=str(folder / "words.json"))
    material = chair.material(coco(folder, "fox", "dog"))
    text = "Two vixens, a red fox, wolves and a wolf."
    counts = chair.count(material.items[0], text)
    assert (counts["named"], counts["absent"], counts["found"]) == (4, 2, 1)
    assert [text[a:b] for a, b, _ in chair.mark(material.items[0], text)] == ["vixens", "red fox", "wolves", "wolf"]


def test_a_vocabulary_may_suppress_phrases(folder):
    (folder / "words.json").write_text('{"dog": ["doggo"], "suppress": ["dog park"]}')
    chair = Chair(vocabulary=str(folder / "words.json"))
    item = chair.material(coco(folder, "dog")).items[0]
    assert chair.count(item, "A doggo in a dog park, a dog at two dog parks.")["named"] == 2


def test_cocos_words_can_be_replaced(folder):
    (folder / "words.json").write_text('{"dog": ["doggo"]}')
    chair = Chair(vocabulary=str(folder / "words.json"))
    item = chair.material(coco(folder, "dog")).items[0]
    assert chair.count(item, "A doggo, a puppy, a cat.")["named"] == 2


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"fox": "vixen"}', '{"fox": [1]}', '{"suppress": ["a"]}'])
def test_unfit_vocabularies_are_refused(folder, text):
    (folder / "words.json").write_text(text)
    with pytest.raises(DataError, match=r"words\.json: "):
        Chair(vocabulary=str(folder / "words.json")).material(coco(folder, "dog"))


def test_missing_files_are_refused(folder):
    with pytest.raises(DataError, match="does not exist"):
        Chair(vocabulary=str(folder / "none")).material(coco(folder, "dog"))
    with pytest.raises(DataError, match="does not exist"):
        Chair(captions=str(folder / "none")).material(coco(folder, "dog"))
    with pytest.raises(OptionError, match="lemmas"):
        Chair(lemmas="a")


def test_a_picture_list_makes_items(folder):
    (folder / "list.csv").write_text("file,objects\n2.png,dog;cat\n1.png,\n")
    assert objects(Chair().material(Source(folder / "list.csv"))) == {"2.png": ["dog", "cat"]}


def test_object_lists_make_items(folder):
    (folder / "sets.json").write_text('{"note": "by hand", "objects": {"2": ["dog", "cat"], "1.png": ["fox"]}}')
    material = Chair().material(Source(folder / "sets.json"))
    assert objects(material) == {"2": ["dog", "cat"], "1.png": ["fox"]}
    assert {name: path.name for name, path in material.pictures.items()} == {"2": "2.png", "1.png": "1.png"}


def test_a_run_is_read_with_the_files_it_was_started_with(folder):
    """A vocabulary with one more word is another vocabulary: other items, and a refusal to read with it."""
    path = folder / "words.json"
    path.write_text('{"dog": ["doggo"]}')
    chair = Chair(vocabulary=str(path))
    before = chair.material(coco(folder, "dog"))
    assert before.remarks[0].startswith(f"captions are read with {path}, SHA-256 ")
    path.write_text('{"dog": ["doggo", "pupper"]}')
    digest.cache_clear()
    assert chair.material(coco(folder, "dog")).digest != before.digest
    with pytest.raises(DataError, match="not the file the run was started with"):
        chair.count(before.items[0], "A doggo.")
    assert Chair().count(before.items[0], "A puppy.")["named"] == 1  # read again by another rule, on purpose


def test_fast_mode_says_so(folder):
    (folder / "words").write_text("dog, hound\n")
    (folder / "lemmas").write_text('{"hounds": ["hound", "hound", "hounds", "hounds"]}')
    chair = Chair(rule="wordnet", vocabulary=str(folder / "words"), lemmas=str(folder / "lemmas"))
    remarks = chair.material(coco(folder, "dog")).remarks
    assert [remark.split()[0] for remark in remarks] == ["captions", "captions", "read", "2"]
    assert "fast mode" in remarks[2]
