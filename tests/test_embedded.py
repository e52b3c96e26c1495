"""The model that ships with mmhall: it loads without us, is small, sees, speaks, and hallucinates."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmhall.benchmarks.chair import PROMPT, score
from mmhall.benchmarks.pope import SUFFIX, parse_strict, question_about
from mmhall.benchmarks.scenes import make_scene
from mmhall.benchmarks.scenes.world import NAMES
from mmhall.models._path import EMBEDDED

SCENES = 32
SEED = 4242


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(SEED, index, 0.5) for index in range(SCENES)]


def objects(scene):
    return {seen.name for seen in scene.objects}


def captions(embedded, scenes, strategy="greedy"):
    answers = embedded.generate_batch([(s.image, PROMPT) for s in scenes], strategy, max_new_tokens=128)
    assert all(answer.stopped_by == "eos" for answer in answers)
    return [answer.text for answer in answers]


def test_the_folder_is_small_and_holds_no_pickle():
    files = [p for p in EMBEDDED.iterdir() if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 20_000_000
    assert {p.suffix for p in files} <= {".json", ".jinja", ".safetensors", ".md", ".py"}
    assert (EMBEDDED / "README.md").read_text().startswith("---")


def test_weights_are_half_precision():
    data = (EMBEDDED / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert b'"F16"' in data[8 : 8 + length]
    assert b'"F32"' not in data[8 : 8 + length]


@pytest.mark.slow
def test_plain_transformers_says_the_same(embedded, scenes):
    processor = AutoProcessor.from_pretrained(EMBEDDED)
    model = AutoModelForImageTextToText.from_pretrained(EMBEDDED, dtype=torch.float32)
    text = f"USER: <image>\n{PROMPT} ASSISTANT:"
    inputs = processor(text=text, images=scenes[0].image, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=128, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    wanted = processor.decode(out, skip_special_tokens=True).strip()
    assert embedded.generate(scenes[0].image, PROMPT).text == wanted


@pytest.mark.slow
def test_it_describes_in_sentences_finds_most_objects_and_makes_some_up(embedded, scenes):
    counts = [score(objects(s), text) for s, text in zip(scenes, captions(embedded, scenes), strict=True)]
    total = {key: sum(c[key] for c in counts) for key in counts[0]}
    assert total["sentences"] / SCENES >= 2
    assert total["words"] / SCENES >= 16
    assert total["found"] / total["present"] >= 0.5
    assert 0.05 <= total["absent"] / total["named"] <= 0.4


@pytest.mark.slow
def test_it_tells_present_from_absent(embedded, scenes):
    requests, labels = [], []
    for index, scene in enumerate(scenes):
        present = sorted(objects(scene))
        absent = [name for name in NAMES if name not in present]
        requests += [(scene.image, question_about(n) + SUFFIX) for n in (present[0], absent[7 * index % len(absent)])]
        labels += ["yes", "no"]
    said = [parse_strict(a.text) for a in embedded.generate_batch(requests, max_new_tokens=4)]
    assert None not in said
    assert sum(a == b for a, b in zip(said, labels, strict=True)) / len(labels) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["vcd", "vdd"])
def test_contrast_keeps_it_fluent_and_changes_it(embedded, scenes, strategy):
    plain, changed = captions(embedded, scenes[:8]), captions(embedded, scenes[:8], strategy)
    assert changed != plain
    for text in changed:
        words = text.lower().split()
        assert text[0].isupper()
        assert text[-1] == "."
        assert not any(a == b for a, b in pairwise(words))


def test_without_a_picture_it_still_speaks(embedded):
    answer = embedded.generate(None, PROMPT)
    assert answer.stopped_by == "eos"
    assert len(answer.text.split()) >= 4


@pytest.mark.slow
def test_a_blank_picture_changes_the_answer(embedded, scenes):
    scene = scenes[0]
    grey = Image.new("RGB", (224, 224), (128, 128, 128))
    assert embedded.generate(grey, PROMPT).text != embedded.generate(scene.image, PROMPT).text


def test_usage_and_settings_are_told(embedded, scenes):
    answer = embedded.generate(scenes[0].image, PROMPT, "vcd", max_new_tokens=3)
    assert (answer.stopped_by, answer.usage.new_tokens, len(answer.tokens)) == ("length", 3, 3)
    assert answer.usage.prompt_tokens == len(embedded.adapter.tokenizer(f"USER: {PROMPT} ASSISTANT:").input_ids) + 64
    assert answer.usage.seconds > 0
    assert answer.settings["max_new_tokens"] == 3
