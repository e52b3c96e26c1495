"""Detectors: tiny ones of transformers against their own outputs, boxes of annotations, and refusals in words."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmhall.detection import Box, is_detector_name, load_detector
from mmhall.errors import DataError, GenerationError, ImageError, ModelError
from mmhall.models._path import EMBEDDED
from tests.detector import make_grounding_dino

QUIET = pytest.mark.filterwarnings("ignore:The key `labels`:FutureWarning")


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    return make_grounding_dino(tmp_path_factory.mktemp("dino") / "model")


@pytest.fixture
def copied(detector, tmp_path):
    return shutil.copytree(detector, tmp_path / "copied")


def outputs(loaded, picture, text):
    inputs = loaded.processor(images=picture, text=text, return_tensors="pt")
    with torch.no_grad():
        return loaded.model(**inputs)


def expected(outputs, threshold, scale=(1.0, 1.0)):
    """The boxes of one query above a threshold, from centre and size, within the picture."""
    boxes = []
    for scores, (x, y, w, h) in zip(outputs.logits[0].sigmoid(), outputs.pred_boxes[0].tolist(), strict=True):
        if scores.max() > threshold:
            corners = [(x - w / 2) * scale[0], (y - h / 2) * scale[1], (x + w / 2) * scale[0], (y + h / 2) * scale[1]]
            boxes.append([min(max(edge, 0.0), 1.0) for edge in corners])
    return boxes


def corners(boxes):
    return torch.tensor([[box.left, box.top, box.right, box.bottom] for box in boxes])


def test_boxes_of_owlv2_are_those_of_its_outputs(detector, pictures):
    """It pads a picture to a square: of one twice as wide as high, heights count twice."""
    loaded, picture = load_detector(str(detector), threshold=0.4), pictures[0].resize((80, 40))
    found = loaded.find(picture, "zebra")
    wanted = expected(outputs(loaded, picture, [["zebra"]]), 0.4, (1.0, 2.0))
    assert len(found) == len(wanted) > 0
    torch.testing.assert_close(corners(found), torch.tensor(wanted), rtol=0, atol=1e-5)
    assert corners(found).unique(dim=0).shape[0] > 1


@QUIET
def test_boxes_of_grounding_dino_are_those_of_its_outputs(dino, pictures):
    loaded, picture = load_detector(str(dino), threshold=0.3), pictures[0].resize((80, 40))
    found = loaded.find(picture, "zebra")
    wanted = expected(outputs(loaded, picture, "zebra."), 0.3)
    assert len(found) == len(wanted) > 0
    torch.testing.assert_close(corners(found), torch.tensor(wanted), rtol=0, atol=1e-5)


def test_words_pictures_and_thresholds_make_a_difference(detector, pictures):
    loaded = load_detector(str(detector), threshold=0.3)
    found = [len(loaded.find(pictures[0], word)) for word in ("dog", "cup", "zebra", "standing", "traffic light")]
    assert len(set(found)) > 1
    assert loaded.find(pictures[0], "dog") != loaded.find(pictures[1], "dog")
    assert len(load_detector(str(detector), threshold=0.9).find(pictures[0], "dog")) < found[0]


@QUIET
def test_the_threshold_is_the_usual_one_of_the_model(detector, dino):
    assert load_detector(str(detector)).threshold == 0.05
    assert load_detector(str(dino)).threshold == 0.45
    assert load_detector(str(detector)).model is load_detector(str(detector), threshold=0.9).model


def test_a_box_by_hand():
    """A box 0.2 wide and 0.4 high: half of it is 0.1 and 0.2, which 0.5 halves again."""
    box = Box(0.1, 0.5, 0.3, 0.9)
    assert (box.width, box.height, box.area) == pytest.approx((0.2, 0.4, 0.08))
    for ratio, wanted in ((0.5, (0.05, 0.4, 0.35, 1.0)), (-0.5, (0.15, 0.6, 0.25, 0.8)), (0.0, (0.1, 0.5, 0.3, 0.9))):
        grown = box.expanded(ratio)
        assert (grown.left, grown.top, grown.right, grown.bottom) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("google/owlv2", True),
        ("./model", True),
        ("C:\\model", True),
        ("truth:a.json", True),
        ("truth:", False),
        ("owlv2", False),
        ("", False),
    ],
)
def test_names(name, valid):
    assert is_detector_name(name) == valid


def test_what_is_no_detector_is_refused(detector, copied, tmp_path):
    (tmp_path / "empty").mkdir()
    refused = partial(pytest.raises, ModelError)
    with refused(match="no such folder"):
        load_detector(str(tmp_path / "missing"))
    with refused(match=r"holds no config\.json"):
        load_detector(str(tmp_path / "empty"))
    with refused(match="is a llava model, no detector; give the folder or hub id of an open-vocabulary detector"):
        load_detector(str(EMBEDDED))
    for name in ("owlv2", "truth:"):
        with refused(match=f"{name!r} names no detector; give the folder or hub id"):
            load_detector(name)
    with refused(match="cannot load detector 'nobody/nothing'.*HF_HUB_OFFLINE is set"):
        load_detector("nobody/nothing")
    weights = load_file(copied / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "box_head" not in k}, copied / "model.safetensors", {"format": "pt"})
    with refused(match=r"weights are missing, such as box_head.*get an intact copy"):
        load_detector(str(copied))
    (copied / "model.safetensors").unlink()
    torch.save(weights, copied / "pytorch_model.bin")
    with refused(match="mmhall loads no pickled weights"):
        load_detector(str(copied))


def test_a_detector_that_fails_or_gives_nan_says_so(detector, pictures, monkeypatch):
    loaded = load_detector(str(detector), threshold=0.3)
    with monkeypatch.context() as patched:
        patched.setattr(loaded.model, "forward", lambda **_: 1 / 0)
        with pytest.raises(GenerationError, match=r"the detector .* fails on 'dog': division by zero; use another"):
            loaded.find(pictures[0], "dog")
    real = loaded.model.forward

    def broken(**inputs):
        result = real(**inputs)
        result.pred_boxes = result.pred_boxes * torch.nan
        return result

    monkeypatch.setattr(loaded.model, "forward", broken)
    with pytest.raises(GenerationError, match=r"the detector .* gives boxes of NaN for 'dog'"):
        loaded.find(pictures[0], "dog")


ANNOTATED = {
    "images": [
        {"id": 7, "file_name": "a.png", "width": 40, "height": 20},
        {"id": "b", "file_name": "b.png", "width": 40, "height": 20},
        {"id": 9, "file_name": "gone.png", "width": 10, "height": 10},
    ],
    "annotations": [
        {"image_id": 7, "category_id": 1, "bbox": [10, 5, 20, 10]},
        {"image_id": "b", "category_id": 1, "bbox": [0, 0, 4, 20]},
        {"image_id": "b", "category_id": 1, "bbox": [20, 10, 20, 10]},
        {"image_id": "b", "category_id": 2, "bbox": [0, 0, 40, 20]},
    ],
    "categories": [{"id": 1, "name": "Bus"}, {"id": 2, "name": "traffic light"}],
}


@pytest.fixture
def annotated(tmp_path, pictures):
    for name, picture in zip("ab", pictures, strict=False):
        picture.resize((40, 20)).save(tmp_path / f"{name}.png")
    (tmp_path / "truth.json").write_text(json.dumps(ANNOTATED))
    return tmp_path


def opened(path):
    return Image.open(path).convert("RGB")


def test_annotated_boxes_of_a_picture_by_hand(annotated):
    truth = load_detector(f"truth:{annotated / 'truth.json'}")
    first, second = (opened(annotated / f"{name}.png") for name in "ab")
    assert truth.find(first, "bus") == truth.find(first, "buses") == [Box(0.25, 0.25, 0.75, 0.75)]
    assert truth.find(second, "bus") == [Box(0.0, 0.0, 0.1, 1.0), Box(0.5, 0.5, 1.0, 1.0)]
    assert truth.find(second, "traffic lights") == [Box(0.0, 0.0, 1.0, 1.0)]
    assert truth.find(first, "traffic light") == truth.find(first, "bu") == truth.find(first, "light") == []


def test_pictures_that_are_not_annotated_are_refused(annotated):
    truth = load_detector(f"truth:{annotated / 'truth.json'}")
    with pytest.raises(DataError, match=r"truth\.json: lists no picture with these pixels; give one of the pictures"):
        truth.find(Image.new("RGB", (40, 20)), "bus")
    with pytest.raises(ImageError, match=r"gone\.png: does not exist"):
        truth.find(Image.new("RGB", (10, 10)), "bus")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "is no COCO detection file"),
        ('{"images": [], "annotations": []}', "is no COCO detection file .KeyError: 'categories'"),
        (json.dumps({**ANNOTATED, "annotations": [{"image_id": 7, "category_id": 1, "bbox": [1, 2]}]}), "is no COCO"),
        (json.dumps({**ANNOTATED, "annotations": [{"image_id": 8, "category_id": 1, "bbox": [1] * 4}]}), "is no COCO"),
    ],
)
def test_damaged_annotations_are_refused(content, reason, tmp_path):
    file = tmp_path / "truth.json"
    file.write_text(content)
    with pytest.raises(DataError, match=rf"truth\.json: {reason}"):
        load_detector(f"truth:{file}")
    with pytest.raises(DataError, match=r"missing\.json: cannot be read: No such file"):
        load_detector(f"truth:{tmp_path / 'missing.json'}")
