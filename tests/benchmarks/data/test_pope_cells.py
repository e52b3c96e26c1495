"""POPE's nine cells: three sets of question files in one folder, pictures in two, and one table with the mean."""

from __future__ import annotations

from collections import Counter

import pytest

from mmhall.benchmarks.base import Source
from mmhall.benchmarks.data.pope_cells import CELLS
from mmhall.benchmarks.pope import SETTINGS, Pope
from mmhall.benchmarks.report.table import as_data, sections
from mmhall.benchmarks.rules.yesno import tally
from mmhall.benchmarks.run.runs import Part
from mmhall.benchmarks.run.scoring import score
from mmhall.benchmarks.sycophancy import Sycophancy
from mmhall.errors import DataError, OptionError
from tests.benchmarks.conftest import answered, picture, write_json, write_lines

SHOWN = {"coco": ("c1.jpg", "c2.jpg"), "aokvqa": ("c1.jpg", "c3.jpg"), "gqa": ("7.jpg", "8.jpg")}
NAMES = {"coco": "coco/coco_pope_{}.json", "aokvqa": "seem/aokvqa/aokvqa_pope_seem_{}.json", "gqa": "gqa_pope_{}.json"}
THINGS = {"random": "cup", "popular": "car", "adversarial": "ox"}


def asked(name, setting):
    """A yes and a no question about each of two pictures."""
    texts = [("dog", "yes"), (THINGS[setting], "no")]
    return [
        {"question_id": 2 * i + j, "image": image, "text": f"Is there a {thing} in the image?", "label": label}
        for i, image in enumerate(SHOWN[name])
        for j, (thing, label) in enumerate(texts, 1)
    ]


@pytest.fixture
def pope(tmp_path):
    """The nine files, laid out as their authors do; COCO's pictures in `val2014`, GQA's in a folder of their own."""
    for name, form in NAMES.items():
        for setting in SETTINGS:
            write_lines(tmp_path / "pope" / form.format(setting), asked(name, setting))
        for image in SHOWN[name]:
            picture(tmp_path / ("other" if name == "gqa" else "pictures/val2014") / image)
    return tmp_path / "pope"


def read(pope, **options):
    gqa = str(pope.parent / "other")
    return Pope(gqa_images=gqa).material(Source(pope, pope.parent / "pictures", **options))


def test_nine_files_are_nine_groups_with_the_pictures_of_two_folders(pope):
    """The yes question about c1 stands in all cells of COCO and A-OKVQA, and is asked once."""
    material = read(pope)
    sizes = Counter(group for item in material.items for group in item.groups)
    assert sizes == dict.fromkeys(CELLS, 4)
    assert list(material.pictures) == ["c1.jpg", "c2.jpg", "c3.jpg", "7.jpg", "8.jpg"]
    assert material.pictures["c3.jpg"] == pope.parent / "pictures" / "val2014" / "c3.jpg"
    assert material.pictures["7.jpg"] == pope.parent / "other" / "7.jpg"
    first = next(item for item in material.items if item.id == "c1.jpg/dog")
    assert first.groups == CELLS[:6]
    assert len(material.items) == 5 * (1 + 3)
    assert material.remarks[6].startswith("gqa random: 4 questions (2 yes) from gqa_pope_random.json")


def test_a_limit_is_of_each_set(pope):
    assert list(read(pope, limit=1).pictures) == ["c1.jpg", "7.jpg"]


def test_the_table_has_nine_cells_and_their_mean(pope):
    """Every cell by hand; the mean of nine accuracies, and of nine F1s, is not the figure of all answers."""
    benchmark = Pope(gqa_images=str(pope.parent / "other"))
    items = list(read(pope).items)
    texts = ["Yes" if i.truth["object"] == "dog" and i.picture != "8.jpg" else "No" for i in items]
    worse = ["Yes" if i.truth["object"] in ("dog", "cup") else "No" for i in items]
    rows = [*answered(benchmark, items, texts), *answered(benchmark, items, worse, "vcd")]
    evaluation = benchmark.evaluate(items, rows, ["greedy", "vcd"])
    by_hand = {(cell, "accuracy"): 75.0 if "gqa" in cell else 100.0 for cell in CELLS} | {
        (cell, "F1"): 100 * 2 / 3 if "gqa" in cell else 100.0 for cell in CELLS
    }
    got = {(c.group, c.metric.name): c for c in evaluation.cells if c.strategy == "greedy"}
    for (cell, metric), value in by_hand.items():
        assert 100 * got[cell, metric].estimate.value == pytest.approx(value)
    means = {(c.metric.name, c.strategy): c for c in evaluation.means}
    assert means["accuracy", "greedy"].estimate.value == pytest.approx((6 + 3 * 0.75) / 9)
    assert means["F1", "greedy"].estimate.value == pytest.approx((6 + 3 * 2 / 3) / 9)
    assert means["accuracy", "vcd"].estimate.value == pytest.approx((6 + 3 * 0.5) / 9)  # random cells: half
    pooled = Counter()
    for item, text in zip(items, texts, strict=True):
        for _ in item.groups:
            pooled.update(tally("strict", item.truth["label"], text))
    assert means["F1", "greedy"].estimate.value != pytest.approx(2 * pooled["tp"] / (pooled["said_yes"] + 18))
    gap = means["accuracy", "vcd"].difference
    assert gap.value == pytest.approx((6 + 1.5) / 9 - (6 + 2.25) / 9)
    assert gap.low <= gap.value <= gap.high
    evaluated = [(Part(benchmark, items, {}), evaluation)]
    accuracy, f1 = sections(evaluated)[:2]
    assert accuracy.title == "pope, accuracy in percent by setting; the mean of 9 counts each once"
    assert accuracy.metrics == f1.metrics == (*CELLS, "mean")
    assert [line.values[-1].split()[0] for line in (*accuracy.lines, *f1.lines)] == ["91.7", "83.3", "88.9", "88.9"]
    assert accuracy.lines[1].differences[-1].startswith("-8.3 [")
    data = as_data(evaluated, {"strategies": ["greedy", "vcd"]})
    assert [m["strategy"] for m in data["metrics"] if m["group"] == "mean"] == ["greedy", "vcd"] * 2


def test_one_set_keeps_the_names_of_its_settings(pope):
    items = Pope().material(Source(pope / "coco", pope.parent / "pictures")).items
    assert {group for item in items for group in item.groups} == set(SETTINGS)


def test_a_single_group_has_no_mean(pope):
    benchmark = Pope()
    items = list(benchmark.material(Source(pope / "coco" / "coco_pope_random.json", pope.parent / "pictures")).items)
    evaluation = benchmark.evaluate(items, answered(benchmark, items, ["Yes"] * len(items)), ["greedy"])
    assert evaluation.means == ()
    assert sections([(Part(benchmark, items, {}), evaluation)])[0].title.startswith("pope random: 4 items")


def test_sycophancy_takes_a_setting_of_all_sets(pope):
    source = Source(pope, pope.parent / "pictures")
    versions = Sycophancy(setting="popular", gqa_images=str(pope.parent / "other")).material(source).items
    assert {item.truth["object"] for item in versions} == {"dog", "car"}


@pytest.mark.parametrize(("category", "file"), [(None, "gqa_popular.jsonl"), ("gqa popular", "a.jsonl")])
def test_answers_are_matched_with_their_cell(pope, tmp_path, category, file):
    """By the file's name, or by the field category; numbers restart in every file."""
    answers = [{"question_id": n, "answer": "Yes"} for n in (1, 2, 3, 4)]
    answers = [{**answer, **({"category": category} if category else {})} for answer in answers]
    scored = score(Pope(), Source(pope), write_lines(tmp_path / file, answers))
    assert {cell.group for cell in scored.evaluation.cells} == {"gqa popular"}
    assert scored.evaluation.sizes == {"gqa popular": (4, 2)}


def test_unsuitable_folders_are_refused(pope):
    """A missing picture, a name of two sets' pictures, a file of no set, two files of one cell."""
    (pope.parent / "other" / "8.jpg").unlink()
    with pytest.raises(DataError, match=r"8\.jpg: does not exist \(1 of 2 pictures .* with gqa_images='FOLDER'"):
        read(pope)
    with pytest.raises(DataError, match=r"none: no such folder; gqa_images is the folder of GQA"):
        Pope(gqa_images=str(pope / "none")).material(Source(pope, pope.parent / "pictures"))
    with pytest.raises(DataError, match="gqa_images is for GQA beside other sets, and the questions are of one set"):
        Pope(gqa_images=str(pope)).material(Source(pope / "coco", pope.parent / "pictures"))
    with pytest.raises(OptionError, match="gqa_images must be left out: the data has no question files"):
        Pope(gqa_images=str(pope)).material(Source(write_json(pope / "boxes.json", {"c1.jpg": ["dog"]})))
    (pope / "boxes.json").unlink()
    write_lines(pope / "gqa_pope_random.json", [{**asked("gqa", "random")[0], "image": "c1.jpg"}])
    with pytest.raises(DataError, match=r"c1\.jpg: is a picture of GQA and of another set"):
        read(pope)
    write_lines(pope / "gqa" / "pope_random.json", asked("gqa", "random"))
    with pytest.raises(DataError, match=r"two files for gqa random, gqa/pope_random\.json and gqa_pope_random\.json"):
        read(pope)
    (pope / "gqa_pope_random.json").rename(pope / "pope_random.json")
    with pytest.raises(DataError, match=r"pope_random\.json: its name must contain its set, one of coco, aokvqa, gqa"):
        read(pope)
