"""The whole diagnosis of real models on a few pictures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mmhall.benchmarks.data.pictures import Picture, PictureSet, read_coco
from mmhall.benchmarks.diagnosis.diagnosis import diagnose, expected
from mmhall.benchmarks.diagnosis.findings import findings
from mmhall.benchmarks.scenes import write_scenes
from mmhall.errors import DataError
from mmhall.lvlm import LVLM
from tests.zoo import built


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    list(write_scenes(folder, 3, seed=4000))
    return read_coco(folder / "annotations.json", folder)


def test_the_boxes_of_a_scene_are_those_of_its_file(scenes):
    assert scenes.drawn == "usual"
    for picture in scenes.pictures:
        assert set(picture.boxes) == set(picture.objects)
        assert all(
            0 <= left < right <= 1 and 0 <= top < bottom <= 1
            for boxes in picture.boxes.values()
            for left, top, right, bottom in boxes
        )


@pytest.mark.slow
def test_every_figure_of_the_embedded_model(embedded, scenes):
    """The answers are those of greedy decoding, in batches of any size; and all that was announced was asked."""
    done = []
    whole = diagnose(embedded, scenes, seed=3, batch_size=7, progress=done.append)
    small = diagnose(embedded, scenes, seed=3, batch_size=2)
    assert sum(done) == expected(scenes, 3)
    assert not whole.missing
    assert whole.captions == 3
    keys = [figure.key for figure in whole.figures]
    assert len(set(keys)) == len(keys) == 42
    for one, other in zip(whole.figures, small.figures, strict=True):
        assert one.key == other.key
        assert one.shown == pytest.approx(other.shown, rel=1e-3, abs=1e-3), one.key
    assert max(len(figure.title) + len(" (%)") * figure.percent for figure in whole.figures) <= 44  # for 100 columns
    found = {figure.key: figure for figure in whole.figures}
    assert set(found["sink_share"].layers) == set(found["gaze_lift"].layers) == set(range(6))
    assert found["grey_yes"].shown[0] == 0
    assert found["present_yes"].shown[0] > 80
    said = {finding.rule.mechanism.key: finding for finding in findings(whole)}
    assert said["marked_sinks"].text.endswith("`var` will do nothing")
    assert said["lifted_captions"].state.startswith("present")
    assert not any(finding.state == "not measured" for finding in said.values())
    assert set(found["image_share"].heads) == set(range(6))
    assert all(
        len(row) == 8 for key in ("vhd_variation", "copy_head", "object_head") for row in found[key].heads.values()
    )


@pytest.mark.slow
def test_a_model_with_layers_of_their_own_for_the_picture_says_what_is_missing(scenes):
    one = replace(scenes, pictures=scenes.pictures[:1])
    found = diagnose(LVLM(*built("mllama")), one, max_new_tokens=20)
    reasons = {missing.title: missing.reason for missing in found.missing}
    assert "layers of their own" in reasons["visual sinks"]
    assert "layers of their own" in reasons["gaze"]
    for title in ("sinks that var finds", "MDI and AEI", "captions with more attention", "heads that find objects"):
        assert title in reasons
    assert not {"image_share", "marked_sinks", "mdi_middle", "mdi_middle_bare"} & {
        figure.key for figure in found.figures
    }
    assert {"chair_i", "stripe_ratio", "vhd_variation"} <= {figure.key for figure in found.figures}


@pytest.mark.slow
def test_pictures_without_boxes_have_no_gaze(embedded, scenes):
    bare = PictureSet(tuple(replace(p, boxes={}) for p in scenes.pictures[:1]), scenes.categories)
    found = diagnose(embedded, bare, max_new_tokens=8)
    reasons = {missing.title: missing.reason for missing in found.missing}
    assert reasons["gaze"] == "the data has no boxes of objects"
    assert "1 of 1 captions were cut off at 8 tokens" in found.remarks[0]


def test_pictures_without_objects_are_refused(embedded, scenes):
    empty = PictureSet((Picture("1", scenes.pictures[0].path, (), {}),), scenes.categories)
    with pytest.raises(DataError, match="no picture shows a known object"):
        diagnose(embedded, empty)
