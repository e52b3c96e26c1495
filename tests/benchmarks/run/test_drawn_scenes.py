"""A run draws the scenes that its model is made for, unless the user names others."""

from __future__ import annotations

import json

import pytest

from mmhall.benchmarks.run.drawn_scenes import DrawnScenes
from mmhall.errors import OptionError


@pytest.mark.parametrize(
    ("model", "kind", "drawn"),
    [("embedded", None, "usual"), ("embedded/prior", None, "hard"), ("embedded/prior", "usual", "usual")],
)
def test_the_kind_is_the_models_own_or_the_one_named(model, kind, drawn, tmp_path):
    file = DrawnScenes(1, None, kind).draw(model, tmp_path, seed=0)
    assert json.loads(file.read_text())["info"].get("kind", "usual") == drawn
    assert file.parent.name == "scenes-1-0-0.5" + ("-hard" if drawn == "hard" else "")


def test_scenes_beside_data_are_refused():
    with pytest.raises(OptionError, match="left out with --data"):
        DrawnScenes(None, None, "hard").check(data=True)
