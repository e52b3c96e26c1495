"""What tasks ask for, and what becomes of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from mmhall.errors import ImageError
from mmhall.generation._settings import Settings, make_settings
from mmhall.lmms_eval.requests import (
    batches,
    has_inner_marks,
    ignored_settings,
    pictures_of,
    place_pictures,
    settings_of,
    without_placeholders,
)


@pytest.mark.parametrize(
    ("asked", "settings"),
    [
        ({}, {"max_new_tokens": 1024}),
        ({"until": ["\n\n"], "do_sample": False}, {"max_new_tokens": 1024}),
        ({"max_new_tokens": 16, "until": []}, {"max_new_tokens": 16}),
        ({"max_new_tokens": 16, "until": None}, {"max_new_tokens": 16}),
        ({"max_gen_toks": 32}, {"max_new_tokens": 32}),
        ({"until": "ASSISTANT:"}, {"max_new_tokens": 1024, "stop_strings": ("ASSISTANT:",)}),
        ({"until": ["\n", "\n\n", "", "Q:", "\n"]}, {"max_new_tokens": 1024, "stop_strings": ("\n", "Q:")}),
        ({"stop_sequences": ["</s>"]}, {"max_new_tokens": 1024, "stop_strings": ("</s>",)}),
        ({"temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}, {"max_new_tokens": 1024}),
        ({"temperature": None, "top_p": None, "num_beams": None}, {"max_new_tokens": 1024}),
        ({"temperature": 0.2, "do_sample": False}, {"max_new_tokens": 1024}),
        ({"temperature": 0.0, "do_sample": True}, {"max_new_tokens": 1024}),
        ({"top_p": 0, "temperature": 1, "do_sample": True}, {"max_new_tokens": 1024}),
        ({"num_beams": 3}, {"max_new_tokens": 1024, "num_beams": 3}),
        ({"repetition_penalty": 1.2}, {"max_new_tokens": 1024, "repetition_penalty": 1.2}),
        (
            {"temperature": 0.7, "top_p": 0.9, "top_k": 5},
            {"max_new_tokens": 1024, "do_sample": True, "seed": 9, "temperature": 0.7, "top_p": 0.9, "top_k": 5},
        ),
        ({"do_sample": True, "seed": 42}, {"max_new_tokens": 1024, "do_sample": True, "seed": 42}),
    ],
)
def test_settings_mean_what_the_task_means(asked, settings):
    before = dict(asked)
    assert settings_of(asked, seed=9) == settings
    assert isinstance(make_settings(settings), Settings)
    assert asked == before, "lmms-eval's cache looks its answers up by what the task asked"


def test_the_model_argument_goes_before_the_length_of_the_task():
    assert settings_of({"max_new_tokens": 4096}, max_new_tokens=100) == {"max_new_tokens": 100}


def test_settings_nobody_reads_are_named():
    assert ignored_settings(
        {"max_new_tokens": 1, "until": [], "image_aspect_ratio": "pad", "best_of": 2, "visual_cot": None}
    ) == [
        "best_of",
        "image_aspect_ratio",
    ]


@pytest.mark.parametrize("nothing", [None, [], (), "", [[]], [None]])
def test_a_task_without_pictures_has_none(nothing):
    assert pictures_of(nothing) == ()


def test_pictures_of_any_mode_and_depth_become_rgb(pictures, picture_file):
    grey, clear = pictures[0].convert("L"), pictures[1].convert("RGBA")
    opened = pictures_of([grey, [clear, str(picture_file)], picture_file])
    assert [picture.mode for picture in opened] == ["RGB"] * 4
    assert np.array_equal(np.asarray(opened[1]), np.asarray(pictures[1]))
    assert np.array_equal(np.asarray(opened[2]), np.asarray(pictures[0]))
    assert pictures_of(Image.new("1", (4, 4)))[0].mode == "RGB"


def test_videos_and_sounds_are_refused(tmp_path):
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"\0\0\0\x18ftypmp42" * 20)
    for visual in (str(video), {"array": np.zeros(3), "sampling_rate": 16000}, np.zeros((2, 4, 4, 3))):
        with pytest.raises(ImageError, match="not with video or sound"):
            pictures_of([visual])


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Is it red?", "Is it red?"),
        (" Is it red?\n", " Is it red?\n"),
        ("<image>\nIs it red?", "Is it red?"),
        ("<image><image>\nWhich is red?", "Which is red?"),
        ("First: <image> second: <image>", "First:  second:"),
    ],
)
def test_marks_of_pictures_are_taken_out_and_nothing_else(prompt, text):
    assert without_placeholders(prompt) == text


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("First: <image> second: <image>", ("First: ", None, " second: ", None)),
        ("<image>\nIs it <image>?\n", (None, "\nIs it ", None, "?")),
        ("a<image><image>b", ("a", None, None, "b")),
        (" What is it?\n<image>", ("What is it?\n", None)),
    ],
)
def test_marks_within_a_text_are_places_of_pictures(prompt, parts):
    assert has_inner_marks(prompt)
    (turn,) = place_pictures(prompt).turns
    assert (turn.role, turn.parts) == ("user", parts)


@pytest.mark.parametrize("prompt", ["Is it red?", "<image>\nIs it red?", " <image> <image>\nWhich is red?", "<image>"])
def test_marks_before_a_text_are_within_none(prompt):
    assert not has_inner_marks(prompt)


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 7))
def test_batches_are_of_one_kind_in_order_and_hold_everything_once(keys, size):
    made = list(batches(keys, size))
    assert sorted(position for batch in made for position in batch) == list(range(len(keys)))
    for batch in made:
        assert 1 <= len(batch) <= size
        assert batch == sorted(batch)
        assert len({keys[position] for position in batch}) == 1
    for key in set(keys):
        sizes = [len(batch) for batch in made if keys[batch[0]] == key]
        assert all(full == size for full in sizes[:-1])
