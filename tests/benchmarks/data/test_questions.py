"""Yes/no questions to fit on: two about each picture, balanced, repeatable; or read from a file like POPE's."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from mmhall.benchmarks.data.pictures import read_coco
from mmhall.benchmarks.data.pope_wording import SUFFIX, object_of
from mmhall.benchmarks.data.questions import make_yes_no_questions, read_yes_no_questions
from mmhall.benchmarks.scenes.dataset import ANNOTATIONS, write_scenes
from mmhall.errors import DataError


@pytest.mark.slow
def test_each_picture_is_asked_for_an_object_that_it_shows_and_for_one_that_it_does_not(tmp_path):
    list(write_scenes(tmp_path, 6, 3))
    pictures = read_coco(tmp_path / ANNOTATIONS, tmp_path)
    made = make_yes_no_questions(pictures, "scenes", 1)
    assert [question.is_yes for question in made.questions] == [True, False] * 6
    shown = {picture.id: picture.objects for picture in pictures.pictures}
    for question in made.questions:
        assert question.text.endswith(SUFFIX)
        assert (object_of(question.text.removesuffix(SUFFIX)) in shown[question.id]) == question.is_yes
    again = make_yes_no_questions(pictures, "scenes", 1)
    assert again == made
    assert again.digest == made.digest != make_yes_no_questions(pictures, "scenes", 2).digest
    assert len(make_yes_no_questions(pictures, "scenes", 1, 5).questions) == 5
    assert made.record()["questions"] == 12
    assert made.record()["yes"] == 6
    assert made.find_imbalance(None) == []


def test_a_file_like_popes_is_read(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    lines = [
        {"image": "a.png", "text": f"Is there {one}?", "label": label}
        for one, label in (("a", "Yes"), ("b", "no"), ("c", "no"))
    ]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_yes_no_questions(path, tmp_path)
    assert [(question.text, question.is_yes) for question in read.questions] == [
        ("Is there a?", True),
        ("Is there b?", False),
        ("Is there c?", False),
    ]
    assert read.find_imbalance(None) == [
        "yes is right for 33% of the questions: accuracy favours the more frequent answer."
    ]
    with pytest.raises(DataError, match="give questions of both kinds"):
        read_yes_no_questions(path, tmp_path, 1)
    path.write_text(json.dumps({**lines[0], "label": "maybe"}) + "\n")
    with pytest.raises(DataError, match="'label' must be 'yes' or 'no', got 'maybe'"):
        read_yes_no_questions(path, tmp_path)
