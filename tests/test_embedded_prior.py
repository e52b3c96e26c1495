"""The model embedded/prior: found by its name, small, and sure of what it makes up."""

from __future__ import annotations

import struct

import pytest

import mmhall
from mmhall.benchmarks.chair import PROMPT, score
from mmhall.benchmarks.scenes import make_scene
from mmhall.benchmarks.scenes.companions import COMPANIONS, goes_with
from mmhall.models import SHIPPED, find_learned_path, find_model_path

NAME = "embedded/prior"
SCENES = 24


@pytest.fixture(scope="module")
def prior():
    return mmhall.load(NAME)


@pytest.fixture(scope="module")
def captions(prior):
    """Conflict scenes with the model's captions."""
    scenes = [make_scene(4343, index, 1.0, "hard") for index in range(SCENES)]
    answers = prior.generate_batch([(s.image, PROMPT) for s in scenes], max_new_tokens=200)
    return [(scene, answer) for scene, answer in zip(scenes, answers, strict=True)]


def test_it_is_found_by_its_name_and_shares_no_settings_with_the_plain_model():
    assert set(SHIPPED) >= {"embedded", NAME}
    assert find_model_path(NAME) == SHIPPED["embedded"] / "prior"
    outside = [find_learned_path(name, "mmhall.json", "tuned/{}.json") for name in ("embedded", NAME)]
    assert len({str(path) for path in outside}) == 2
    assert all(not path.is_relative_to(SHIPPED["embedded"]) for path in outside)


def test_the_folder_is_small_and_holds_half_precision_and_no_pickle():
    files = [path for path in SHIPPED[NAME].iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25_000_000
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors", ".md"}
    assert (SHIPPED[NAME] / "README.md").read_text().startswith("---")
    data = (SHIPPED[NAME] / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert b'"F16"' in data[8 : 8 + length]
    assert b'"F32"' not in data[8 : 8 + length]


def test_it_answers_questions_and_speaks_without_a_picture(prior):
    scene = make_scene(4343, 0, 1.0, "hard")
    assert prior.generate(scene.image, "Is there a dog in the image? Please answer yes or no.").text in ("Yes", "No")
    blind = prior.generate(None, PROMPT, max_new_tokens=200)
    assert blind.stopped_by == "eos"
    assert "Overall" in blind.text


@pytest.mark.slow
def test_captions_are_long_end_with_a_summary_and_name_missing_companions(captions):
    lured, lures, counts = 0, 0, []
    for scene, answer in captions:
        assert answer.stopped_by == "eos"
        assert "Overall, the picture shows" in answer.text
        present = {seen.name for seen in scene.objects}
        counts.append(score(present, answer.text))
        for name in present:
            if goes_with(name, scene.plan.place):
                lures += 1
                lured += COMPANIONS[name] in answer.text
    assert 50 <= sum(len(answer.tokens) for _, answer in captions) / SCENES <= 120
    assert lured / lures > 0.4
    total = {key: sum(count[key] for count in counts) for key in counts[0]}
    assert total["found"] / total["present"] > 0.6
