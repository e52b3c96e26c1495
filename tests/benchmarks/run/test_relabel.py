"""Stored answers read again with other labels: the worked example, what has no label, and what is refused."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict

import pytest

from mmhall.benchmarks.base import Source
from mmhall.benchmarks.evaluation import Cell
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.report.relabelled import order_text
from mmhall.benchmarks.report.table import as_data, remarks, sections
from mmhall.benchmarks.run.relabel import Coverage, read_again
from mmhall.benchmarks.run.runs import reopen
from mmhall.errors import DataError, RunError
from mmhall.results.statistics import Estimate
from mmhall.results.store import Store
from tests.benchmarks.conftest import answered, write_lines

PICTURE = "COCO_val2014_000000310196.jpg"
OBJECTS = ("snowboard", "backpack", "person", "car", "dog", "cat")
LABELS = ("yes", "yes", "yes", "no", "no", "no")


def records(labels, picture=PICTURE, objects=OBJECTS):
    """Records in POPE's format; None leaves a question out."""
    return [
        {"question_id": n, "image": picture, "text": f"Is there a {name} in the image?", "label": label}
        for n, (name, label) in enumerate(zip(objects, labels, strict=True), 1)
        if label is not None
    ]


@pytest.fixture
def run(tmp_path):
    """Six questions about one picture and one about another; greedy is right on four of the six, vdd on five."""
    asked = [*records(LABELS), {**records(["no"], "other.jpg", ["bus"])[0], "question_id": 7}]
    material = Pope().material(Source(write_lines(tmp_path / "coco_pope_random.json", asked), pictures=False))
    items = list(material.items)
    setup = {
        "strategies": ["greedy", "vdd"],
        "benchmarks": {"pope": {"spec": "pope", "rule": "strict", "remarks": [], "settings": {}}},
    }
    with closing(Store.create(tmp_path / "run", setup)) as store:
        store.keep_items("pope", [(i.id, {**asdict(i), "file": f"pictures/{i.picture}"}) for i in items])
        for strategy, said in (("greedy", "NYYNNYN"), ("vdd", "YYYNNYN")):
            store.add(answered(Pope(), items, ["Yes" if letter == "Y" else "No" for letter in said], strategy))
    return reopen(tmp_path / "run")


def again(run, path):
    evaluated = read_again(run, run.evaluate(), path)
    return evaluated, evaluated[0][1].relabelled


def accuracy(relabelled):
    return {
        cell.strategy: cell.estimate.value for cell in relabelled.evaluation.cells if cell.metric.name == "accuracy"
    }


def test_the_worked_example(run, tmp_path):
    """Old labels 1 1 1 0 0 0, new 0 1 1 0 0 and one left out; answers 0 1 1 0 0 1: 4 of 6 become 5 of 5.

    vdd is right on the first question by the old label only: 5 of 6, then 4 of 5, so that the order turns. The question
    about the other picture has no label at all, and does not count either.
    """
    new = write_lines(tmp_path / "repope" / "coco_repope_random.json", records(("no", "yes", "yes", "no", "no", None)))
    evaluated, relabelled = again(run, new)
    assert relabelled.coverage == {"random": Coverage(5, 1, 1, 0, 1, 0)}
    assert accuracy(relabelled) == {"greedy": 1.0, "vdd": 0.8}
    table = next(section for section in sections(evaluated) if "read again" in section.title)
    assert table.title == "pope random, evidence: read again with the labels of coco_repope_random.json: 5 of 7 items"
    assert table.metrics == ("accuracy (%)", "accuracy (%), these labels", "F1 (%)", "F1 (%), these labels")
    assert [value.split()[0] for value in table.lines[0].values] == ["71.4", "100.0", "66.7", "100.0"]
    assert table.lines[1].differences[1].startswith("-20.0 [")
    told = remarks(evaluated, {"greedy": "greedy", "vdd": "vdd"})
    assert any("5 questions have one (1 turned from yes to no, 0 from no to yes); 1 have none" in text for text in told)
    assert any("by accuracy changes: vdd > greedy becomes greedy > vdd" in text for text in told)
    (record,) = as_data(evaluated, run.current_setup)["items"]
    assert record["relabelled"]["coverage"]["random"]["kept"] == 5
    json.dumps(record)


def test_names_of_pictures_need_no_folder_and_no_suffix(run, tmp_path):
    for name in ("val2014/" + PICTURE, PICTURE.removesuffix(".jpg"), "310196"):
        new = write_lines(tmp_path / "coco_repope_random.json", records(LABELS, name))
        assert accuracy(again(run, new)[1]) == {"greedy": pytest.approx(4 / 6), "vdd": pytest.approx(5 / 6)}


def test_a_setting_without_labels_is_not_read_again_and_stray_labels_are_counted(run, tmp_path):
    new = tmp_path / "repope"
    write_lines(
        new / "coco_repope_random.json", [*records(LABELS), {**records(["yes"], "x.jpg", ["ox"])[0], "question_id": 9}]
    )
    write_lines(new / "coco_repope_popular.json", records(LABELS))
    _, relabelled = again(run, new)
    assert relabelled.coverage["random"] == Coverage(6, 0, 1, 1, 0, 0)
    assert relabelled.coverage["popular"] == Coverage(0, 0, 0, 6, 0, 0)
    assert list(relabelled.evaluation.sizes) == ["random"]
    assert [file.split(" ")[0] for file in relabelled.files] == ["random:", "popular:"]


def test_what_cannot_be_read_again_is_refused(run, tmp_path):
    elsewhere = write_lines(tmp_path / "coco_repope_random.json", records(LABELS, "x.jpg"))
    with pytest.raises(DataError, match=r"none of its labels is for a question of the run: it has 'x.jpg'"):
        again(run, elsewhere)
    both = [*records(LABELS), {**records(("no", *LABELS[1:]))[0], "question_id": 9}]
    with pytest.raises(DataError, match="is labelled yes and no; keep one"):
        again(run, write_lines(tmp_path / "coco_repope_random.json", both))
    with pytest.raises(DataError, match="does not exist"):
        again(run, tmp_path / "nothing_random.json")
    with pytest.raises(RunError, match="has no pope; labels are of POPE's questions"):
        read_again(run, [], elsewhere)


def test_orders_show_equal_values():
    values = {"a": 0.5, "b": 0.7, "c": 0.5, "d": None}
    cells = {
        name: Cell("pope", "random", Pope.metrics[0], name, Estimate(value, None, None, 0.0, 0.0), None)
        for name, value in values.items()
    }
    assert order_text(cells) == "b > a = c"
