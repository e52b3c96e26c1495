from __future__ import annotations

import json
import random
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from mmhall.benchmarks.data.pictures import read_coco
from mmhall.benchmarks.scenes import make_scene, write_scenes
from mmhall.benchmarks.scenes.plan import Placed, Plan, plan_random_scene, plan_scene
from mmhall.benchmarks.scenes.render import render
from mmhall.benchmarks.scenes.sprites import CATEGORY_SPRITES, SCENERY_SPRITES, sprite
from mmhall.benchmarks.scenes.world import CATEGORIES, NAMES, PARTNERS, PLACES, are_partners
from mmhall.errors import DataError, OptionError


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(11, index, 0.5) for index in range(40)]


def test_the_world_is_consistent():
    assert len(NAMES) == len(set(NAMES)) >= 40
    assert len({c.coco_id for c in CATEGORIES}) == len(CATEGORIES)
    assert set(CATEGORY_SPRITES) == set(NAMES) == set(PARTNERS) == {n for p in PLACES for n in p.members}
    assert not set(SCENERY_SPRITES) & set(NAMES)
    assert all(partner in NAMES and partner != name for name, ps in PARTNERS.items() for partner in ps)


@pytest.mark.slow
def test_every_drawing_has_several_variants_that_differ():
    for name in NAMES:
        count = CATEGORY_SPRITES[name][1]
        assert len({sprite(name, v).tobytes() for v in range(count)}) == count >= 4, name


@pytest.mark.slow
def test_the_same_seed_draws_the_same_bytes(tmp_path):
    def drawn(name, count):
        for _ in write_scenes(tmp_path / name, count, seed=7):
            pass
        return {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}

    first, second = drawn("a", 4), drawn("b", 4)
    assert first == second
    longer = drawn("c", 6)
    assert all(longer[name] == data for name, data in first.items() if name.endswith(".png"))


def test_an_interrupted_redraw_leaves_no_old_truth(tmp_path):
    list(write_scenes(tmp_path, 2, seed=1))
    next(write_scenes(tmp_path, 2, seed=2))
    assert not (tmp_path / "annotations.json").exists()


@pytest.mark.slow
def test_hard_objects_are_listed_first_as_often_as_others(scenes):
    """POPE asks for the first three listed."""
    scenes = [*scenes, *(make_scene(11, index, 0.5) for index in range(len(scenes), 120))]
    first = [scene.objects[0].visibility != "clear" for scene in scenes]
    every = [seen.visibility != "clear" for scene in scenes for seen in scene.objects]
    assert abs(sum(first) / len(first) - sum(every) / len(every)) < 0.1


def test_other_seeds_draw_other_scenes():
    assert make_scene(1, 0).image.tobytes() != make_scene(2, 0).image.tobytes()


@pytest.mark.slow
def test_the_annotation_file_is_coco_detection(tmp_path):
    list(write_scenes(tmp_path, 12, seed=3, conflict=1.0))
    data = json.loads((tmp_path / "annotations.json").read_text())
    ids = [image["id"] for image in data["images"]]
    categories = {category["id"]: category["name"] for category in data["categories"]}
    assert len(set(ids)) == len(ids) == 12
    assert len({a["id"] for a in data["annotations"]}) == len(data["annotations"]) >= 36
    for image in data["images"]:
        with Image.open(tmp_path / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])
    for annotation in data["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert annotation["image_id"] in ids
        assert annotation["category_id"] in categories
        assert annotation["iscrowd"] == 0
        assert x >= 0
        assert y >= 0
        assert x + width <= 224
        assert y + height <= 224
        assert 0 < annotation["area"] <= width * height


def test_the_reader_gets_back_what_was_drawn(tmp_path):
    list(write_scenes(tmp_path, 5, seed=3))
    pictures = read_coco(tmp_path / "annotations.json", tmp_path)
    for index, picture in enumerate(pictures.pictures):
        drawn = [s.name for s in make_scene(3, index).objects]
        assert picture.objects == tuple(dict.fromkeys(drawn))
        assert picture.path.is_file()


def test_conflict_scenes_never_show_partners_together():
    for index in range(200):
        names = {s.name for s in plan_scene(random.Random(index), conflict=True).objects}
        assert not any(are_partners(a, b) for a, b in combinations(names, 2))


def test_typical_scenes_often_do():
    together = sum(
        any(are_partners(a, b) for a, b in combinations({s.name for s in plan.objects}, 2))
        for plan in (plan_scene(random.Random(index), conflict=False) for index in range(200))
    )
    assert together > 100


@pytest.mark.slow
def test_conflict_is_a_share():
    shares = [make_scene(9, index, conflict=0.3).plan.conflict for index in range(60)]
    assert 0.15 < sum(shares) / len(shares) < 0.45
    assert not any(make_scene(9, index, conflict=0.0).plan.conflict for index in range(3))
    assert all(make_scene(9, index, conflict=1.0).plan.conflict for index in range(3))


def test_every_object_can_be_seen_and_all_four_visibilities_occur(scenes):
    objects = [s for scene in scenes for s in scene.objects]
    assert all(s.area >= 150 and s.visible >= 0.3 for s in objects)
    assert {s.visibility for s in objects} == {"clear", "small", "faint", "covered"}
    assert all(3 <= len(scene.objects) <= 5 for scene in scenes)


def test_scenery_is_drawn_but_is_no_object(scenes):
    assert any(scene.plan.scenery for scene in scenes)
    assert {s.name for scene in scenes for s in scene.objects} <= set(NAMES)


def test_boxes_and_areas_are_counted_from_pixels():
    """A clear object changes exactly the pixels it owns, give or take its soft edge."""
    placed = Placed("stop sign", 1, 0.5, 0.5, 0.4, mirrored=False, tilt=0.0)
    bare = Plan(PLACES[0], False, (), (), paint=1)
    with_sign = Plan(PLACES[0], False, (placed,), (), paint=1)
    empty, full = render(bare), render(with_sign)
    changed = (np.asarray(empty.image) != np.asarray(full.image)).any(axis=2)
    (seen,) = full.objects
    assert seen.area == int((full.owner == 0).sum())
    assert seen.area <= changed.sum() <= 1.15 * seen.area
    left, top, width, height = seen.box
    assert abs(max(width, height) - 0.4 * 224) <= 3
    assert changed[top : top + height, left : left + width].sum() >= 0.97 * changed.sum()


def test_a_panel_takes_its_share():
    placed = Placed("couch", 0, 0.5, 0.5, 0.4, mirrored=False, tilt=0.0, visibility="covered", cover=0.5)
    (seen,) = render(Plan(PLACES[0], False, (placed,), (), paint=2)).objects
    assert 0.3 < seen.visible < 0.7


@pytest.mark.slow
def test_random_scenes_have_no_co_occurrence():
    """Over many scenes a partner stands beside an object about as often as anything else."""
    rng = random.Random(0)
    plans = [plan_random_scene(rng) for _ in range(1500)]
    pairs = partners = 0
    for plan in plans:
        for a, b in combinations({o.name for o in plan.objects}, 2):
            pairs += 1
            partners += are_partners(a, b)
    possible = sum(are_partners(a, b) for a, b in combinations(NAMES, 2)) / (len(NAMES) * (len(NAMES) - 1) / 2)
    assert partners / pairs == pytest.approx(possible, rel=0.15)


@pytest.mark.parametrize(("count", "conflict"), [(0, 0.5), (-3, 0.5), (3, 1.5), (3, -0.1)])
def test_impossible_numbers_are_refused(tmp_path, count, conflict):
    with pytest.raises(OptionError):
        list(write_scenes(tmp_path, count, 0, conflict))


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write scenes"):
        list(write_scenes(tmp_path / "file" / "inside", 1, 0))
