from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from mmhall.benchmarks.base import Source
from mmhall.benchmarks.data.pictures import Picture, PictureSet
from mmhall.benchmarks.data.pope_files import read_questions, write_questions
from mmhall.benchmarks.pope import SETTINGS, Pope
from mmhall.benchmarks.rules.yesno import tally
from mmhall.errors import DataError
from mmhall.results.store import Row

ABSENT = {
    "random": ["cup", "tv", "cup", "bed"],
    "popular": ["bed", "tv", "cup", "tv"],
    "adversarial": ["cup", "ox", "ox", "bed"],
}


def question(number, image, name, label):
    article = "an" if name[0] in "aeiou" else "a"
    return {"question_id": number, "image": image, "text": f"Is there {article} {name} in the image?", "label": label}


def records(setting):
    """Two pictures with a dog and a car: yes, no, yes, no each."""
    asked = []
    for i, image in enumerate(("b.jpg", "a.jpg")):
        for j, name in enumerate(("dog", "car")):
            asked.append(question(len(asked) + 1, image, name, "yes"))
            asked.append(question(len(asked) + 1, image, ABSENT[setting][2 * i + j], "no"))
    return asked


def lines(listed, end="\n"):
    return end.join(json.dumps(r) for r in listed) + end


def write_set(folder: Path, shape=lines) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 8)).save(folder / name)
    for setting in ABSENT:
        (folder / f"coco_pope_{setting}.json").write_bytes(shape(records(setting)).encode())
    return folder


def material(data, benchmark=None, **source):
    return (benchmark or Pope()).material(Source(data, **source))


def test_a_question_in_several_files_is_one_item_of_several_groups(tmp_path):
    """4 yes in all three; cup of b in random and adversarial; tv of b in random and popular; and so on: 6 no."""
    items = material(write_set(tmp_path)).items
    assert {i.id: i.groups for i in items if i.truth["label"] == "no"} == {
        "b.jpg/cup": ("random", "adversarial"),
        "b.jpg/tv": ("random", "popular"),
        "b.jpg/bed": ("popular",),
        "b.jpg/ox": ("adversarial",),
        "a.jpg/cup": ("random", "popular"),
        "a.jpg/bed": ("random", "adversarial"),
        "a.jpg/tv": ("popular",),
        "a.jpg/ox": ("adversarial",),
    }
    assert [i.groups for i in items if i.truth["label"] == "yes"] == [SETTINGS] * 4
    assert [i.picture for i in items] == ["b.jpg"] * 6 + ["a.jpg"] * 6
    assert items[0].prompt == "Is there a dog in the image?\nAnswer the question using a single word or phrase."
    assert items[0].truth["ids"] == {"random": [1], "popular": [1], "adversarial": [1]}


SHAPES = {
    "CRLF": lambda listed: lines(listed, "\r\n"),
    "no last newline": lambda listed: lines(listed)[:-1],
    "array": lambda listed: json.dumps(listed, indent=1),
    "array in one line": json.dumps,
    "byte order mark": lambda listed: "\ufeff" + lines(listed),
    "empty lines": lambda listed: "\n" + lines(listed, "\n\n"),
    "capitals": lambda listed: lines([{**r, "label": r["label"].capitalize()} for r in listed]),
    "more fields": lambda listed: lines([{**r, "category": "x"} for r in listed]),
    "text ids": lambda listed: lines([{**r, "question_id": str(r["question_id"])} for r in listed]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_file_reads_alike(tmp_path, shape):
    wanted = material(write_set(tmp_path / "plain")).items
    got = material(write_set(tmp_path / "other", SHAPES[shape])).items
    assert [(i.id, i.prompt, i.groups, i.truth["label"]) for i in got] == [
        (i.id, i.prompt, i.groups, i.truth["label"]) for i in wanted
    ]


def test_one_file_is_one_setting(tmp_path):
    items = material(write_set(tmp_path) / "coco_pope_popular.json").items
    assert len(items) == 8
    assert {i.groups for i in items} == {("popular",)}


def test_merged_questions_give_the_metrics_of_all_questions(tmp_path):
    """Every file scored line by line, and the pooled 24 lines, against the twelve items."""
    benchmark = Pope(pooled=True)
    items = material(write_set(tmp_path), benchmark).items
    said = {item.id: answer for item, answer in zip(items, ["Yes", "No", "maybe"] * 4, strict=True)}
    by_question = {(i.picture, i.truth["question"]): said[i.id] for i in items}
    rows = [Row("pope", id_, "greedy", text, "eos", 1, 1.0, 0) for id_, text in said.items()]
    evaluation = benchmark.evaluate(items, rows, ["greedy"])
    assert evaluation.sizes == {"random": (8, 2), "popular": (8, 2), "adversarial": (8, 2), "pooled": (24, 2)}
    total: Counter[str] = Counter()
    for setting in (*ABSENT, "pooled"):
        counts: Counter[str] = Counter()
        for r in records(setting) if setting in ABSENT else ():
            counts.update(tally("strict", r["label"], by_question[r["image"], r["text"]]))
        total.update(counts)
        counts = counts or total
        for cell in evaluation.cells:
            if cell.group == setting and not cell.metric.table:
                over, under = (
                    sum(w * counts[k] for k, w in side.items()) for side in (cell.metric.over, cell.metric.under)
                )
                assert (cell.estimate.over, cell.estimate.under) == (over, under)


def test_what_was_read_is_told(tmp_path):
    folder = write_set(tmp_path)
    digest = hashlib.sha256((folder / "coco_pope_random.json").read_bytes()).hexdigest()[:16]
    remarks = material(folder).remarks
    assert remarks[0] == f"random: 8 questions (4 yes) from coco_pope_random.json, sha256 {digest}"
    assert remarks[-1] == "12 distinct questions stand for 24"


def test_limit_takes_the_first_pictures_and_needs_no_others(tmp_path):
    folder = write_set(tmp_path)
    (folder / "a.jpg").unlink()
    made = material(folder, limit=1)
    assert (len(made.items), set(made.pictures)) == (6, {"b.jpg"})


@pytest.mark.parametrize("where", ["pictures", "pictures/val2014"])
def test_pictures_are_found_in_their_folder(tmp_path, where):
    folder = write_set(tmp_path / "questions")
    (tmp_path / where).mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        (folder / name).rename(tmp_path / where / name)
    found = material(folder, images=tmp_path / "pictures").pictures
    assert found == {name: tmp_path / where / name for name in ("b.jpg", "a.jpg")}


def test_a_name_no_file_can_have_is_a_missing_picture(tmp_path):
    path = write_set(tmp_path) / "coco_pope_random.json"
    path.write_text(lines([{**records("random")[0], "image": "a" * 5000}, records("random")[1]]))
    with pytest.raises(DataError, match="1 of 2 pictures are missing"):
        material(path)


def test_json_of_another_kind_is_no_question_file(tmp_path):
    path = tmp_path / "categories.json"
    path.write_text('[{"id": 1, "name": "person"}]')
    with pytest.raises(DataError, match="is no COCO detection file"):
        material(path)


def test_missing_pictures_are_counted(tmp_path):
    folder = write_set(tmp_path)
    (folder / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.jpg: does not exist \(1 of 2 pictures are missing\).*--images"):
        material(folder)


def test_a_question_twice_in_one_file_counts_twice(tmp_path):
    path = write_set(tmp_path) / "coco_pope_random.json"
    path.write_text(lines([*records("random"), question(9, "a.jpg", "dog", "yes")]))
    items = {i.id: i for i in material(path, Pope(pooled=True)).items}
    assert items["a.jpg/dog"].groups == ("random", "random", "pooled", "pooled")
    assert items["a.jpg/dog"].truth["ids"] == {"random": [5, 9]}


def test_a_question_under_both_labels_is_two_items(tmp_path):
    path = write_set(tmp_path) / "coco_pope_random.json"
    path.write_text(lines([*records("random"), question(9, "a.jpg", "dog", "no")]))
    made = material(path)
    assert {i.id: i.truth["label"] for i in made.items if i.truth["object"] == "dog" and i.picture == "a.jpg"} == {
        "a.jpg/dog": "yes",
        "a.jpg/Is there a dog in the image?": "no",
    }
    assert made.remarks[-1] == "1 questions have both labels and are scored with each"


def test_the_typo_of_early_releases_is_mended_or_kept(tmp_path):
    path = write_set(tmp_path) / "coco_pope_adversarial.json"
    fixed = path.read_text()
    path.write_text(fixed.replace("an ox in the image", "an ox in the imange", 1))
    assert [i.truth["question"] for i in material(path).items if i.truth["object"] == "ox"] == [
        "Is there an ox in the image?"
    ] * 2
    legacy = material(path, Pope(text="legacy_typo")).items
    assert [i.truth["question"] for i in legacy if i.truth["object"] == "ox"] == ["Is there an ox in the imange?"] * 2
    assert "Is there a dog in the image?" in [i.truth["question"] for i in legacy]


def test_other_texts_are_asked_as_they_are(tmp_path):
    path = write_set(tmp_path) / "coco_pope_random.json"
    path.write_text(lines([{**records("random")[0], "text": "Do you see a dog?"}]))
    (item,) = material(path).items
    assert (item.id, item.truth["object"]) == ("b.jpg/Do you see a dog?", "")


UNFIT = {
    "": "holds no questions",
    "[]": "holds no questions",
    '{"question_id": 1, "image"': "line 1: is no JSON",
    "[1, 2": "is no JSON",
    "[" * 100_000: "is no JSON",
    "[1]": "record 1: must be an object",
    '{"question_id": 1, "image": "a.jpg", "text": "x", "label": "maybe"}': 'label must be "yes" or "no", got \'maybe\'',
    '{"question_id": 1, "image": "a.jpg", "text": "x"}': 'label must be "yes" or "no", got None',
    '{"question_id": 1, "image": "a.jpg", "text": "x", "label": 1}': 'label must be "yes" or "no", got 1',
    '{"question_id": 1, "image": "a.jpg", "text": " ", "label": "no"}': "text must be a text that is not empty",
    '{"question_id": 1, "image": "\\ud800", "text": "x", "label": "no"}': "image must be a text",
    '{"question_id": 1, "image": null, "text": "x", "label": "no"}': "image must be a text",
    '{"question_id": true, "image": "a.jpg", "text": "x", "label": "no"}': "question_id must be a number or text",
    '{"image": "a.jpg", "text": "x", "label": "no"}': "question_id must be a number or text, got None",
}


@pytest.mark.parametrize("content", UNFIT, ids=range(len(UNFIT)))
def test_unfit_files_are_refused(tmp_path, content):
    path = tmp_path / "pope_random.jsonl"
    path.write_text(content)
    with pytest.raises(DataError) as refused:
        material(path)
    assert UNFIT[content] in str(refused.value)
    assert str(path) in str(refused.value)


def test_the_same_number_twice_is_refused(tmp_path):
    path = write_set(tmp_path) / "coco_pope_random.json"
    path.write_text(lines([*records("random"), {**records("random")[1], "question_id": 8}]))
    with pytest.raises(DataError, match=r"line 9: question_id 8 is there twice"):
        material(path)


def test_files_must_say_their_setting(tmp_path):
    folder = write_set(tmp_path)
    (folder / "coco_pope_random.jsonl").write_text(lines(records("random")))
    with pytest.raises(DataError, match=r"two files for random, coco_pope_random\.json and coco_pope_random\.jsonl"):
        material(folder)
    with pytest.raises(DataError, match="its name must contain its setting"):
        read_questions((folder / "coco_pope_random.jsonl").rename(folder / "questions.json"))
    with pytest.raises(DataError, match="has no file with a setting in its name"):
        read_questions(tmp_path.parent)


def test_one_file_may_have_all_settings(tmp_path):
    """Each record says its own; numbers may go on through the file."""
    rows = [{**records(s)[0], "question_id": n, "category": s.title()} for n, s in enumerate(("random", "popular"))]
    path = tmp_path / "questions.jsonl"
    path.write_text(lines(rows))
    assert [(q.text, q.ids) for q in read_questions(path).questions] == [
        (rows[0]["text"], {"random": [0], "popular": [1]})
    ]
    path.write_text(lines([*rows, records("random")[1]]))
    with pytest.raises(DataError, match="or each record's category; it is JSON Lines, a list of 3 records"):
        read_questions(path)


def test_categories_count_more_than_a_name_of_several_settings_and_may_not_contradict_that_of_one(tmp_path):
    rows = [{**records(s)[0], "question_id": n, "category": s} for n, s in enumerate(SETTINGS)]
    (tmp_path / "one").mkdir()
    path = tmp_path / "one" / "pope_random_popular_adversarial.json"
    path.write_text(lines(rows))
    for given in (path, path.parent):
        (question,) = read_questions(given).questions
        assert question.ids == {setting: [n] for n, setting in enumerate(SETTINGS)}
    path = path.rename(path.with_name("pope_adversarial.json"))
    for given in (path, path.parent):
        with pytest.raises(
            DataError, match=r"its name has the setting adversarial, its records have the category .*; rename it, or"
        ):
            read_questions(given)


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "pope_random.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        material(path)
    with pytest.raises(DataError, match="does not exist; give POPE"):
        read_questions(tmp_path / "pope_popular.json")


def test_detection_files_still_read(tmp_path):
    (tmp_path / "random.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(DataError, match="lists no pictures"):
        material(tmp_path / "random.json")
    with pytest.raises(DataError, match="does not exist; pope reads"):
        material(tmp_path / "none.json")


@pytest.fixture
def world(tmp_path):
    shown = {"1": ("cat", "dog", "cup"), "2": ("dog", "cup", "bed", "tv"), "3": ("dog", "cat", "car")}
    for name in shown:
        (tmp_path / "pictures" / "deep").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "deep" / f"{name}.png")
    made = tuple(Picture(k, tmp_path / "pictures" / "deep" / f"{k}.png", v, {}) for k, v in shown.items())
    return PictureSet(made, ("bed", "bus", "car", "cat", "cup", "dog", "tv"))


def test_written_questions_read_as_they_were(tmp_path, world):
    items = Pope().items(world, seed=4)
    pictures = {p.id: p.path for p in world.pictures}
    manifest = json.loads(write_questions(items, tmp_path / "out", world.digest, 4, pictures).read_text())
    again = material(tmp_path / "out", images=tmp_path / "pictures" / "deep")
    assert again.pictures == {f"{name}.png": path for name, path in pictures.items()}
    assert sorted(
        (i.picture.removesuffix(".png"), i.prompt, i.groups, i.truth["label"], str(i.truth["ids"])) for i in again.items
    ) == sorted((i.picture, i.prompt, i.groups, i.truth["label"], str(i.truth["ids"])) for i in items)
    assert (manifest["source"], manifest["seed"], len(manifest["files"])) == (world.digest, 4, 3)
    for name, told in manifest["files"].items():
        content = (tmp_path / "out" / name).read_bytes()
        listed = [json.loads(line) for line in content.decode().splitlines()]
        assert told == {"questions": 18, "yes": 9, "pictures": 3, "sha256": hashlib.sha256(content).hexdigest()}
        assert [r["label"] for r in listed] == ["yes", "no"] * 9
        assert [r["question_id"] for r in listed] == list(range(1, 19))
        assert [set(r) for r in listed] == [{"question_id", "image", "text", "label"}] * 18


def test_written_questions_are_the_same_from_their_own_files(tmp_path, world):
    first, second = tmp_path / "first", tmp_path / "second"
    write_questions(Pope().items(world, 0), first, "x", 0, {p.id: p.path for p in world.pictures})
    write_questions(material(first, images=tmp_path / "pictures" / "deep").items, second, "x", 0)
    for file in first.iterdir():
        assert (second / file.name).read_bytes() == file.read_bytes()


def test_questions_that_cannot_be_written_are_refused(tmp_path, world):
    (tmp_path / "file").write_text("")
    items = Pope().items(world, 0)
    with pytest.raises(DataError, match="cannot write questions"):
        write_questions(items, tmp_path / "file" / "out", "x", 0)
    with pytest.raises(DataError, match="give items made by pope"):
        write_questions([type(items[0])("1", "1", "?", ("random",))], tmp_path / "out", "x", 0)
