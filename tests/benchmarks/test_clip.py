"""Agreement of captions: measured against open_clip's own way, counted by hand, kept in a run and reported."""

from __future__ import annotations

import json
import math
import random
import re
import string

import pytest
import torch
from hypothesis import given, strategies as st

from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Item, Source
from mmhall.benchmarks.clip import ClipAgreement, clip_score, compare_caption
from mmhall.benchmarks.evaluation import evaluate
from mmhall.benchmarks.run.runner import answer
from mmhall.benchmarks.run.runs import reopen, start
from mmhall.benchmarks.scenes import write_scenes
from mmhall.clip import load_clip, sentences
from mmhall.errors import DataError, ModelError, OptionError
from mmhall.images import open_image
from mmhall.results.store import Row
from mmhall.strategies import strategy
from tests.clip import CLIP, CONTEXT

ITEMS = [Item(str(n), str(n), "?", ("captions",)) for n in range(3)]


def row(item, text, extra, name="greedy"):
    return Row("clip", item, name, text, "eos", 5, 1.0, 0, extra)


def kept(similarity, caption, cut=False):
    return {"similarity": similarity, "caption": caption, "cut": cut, "clip": "c"}


def values(rows, strategies=("greedy",)):
    found = evaluate(ClipAgreement(model=str(CLIP)), ITEMS, rows, strategies)
    return {(cell.metric.name, cell.strategy): cell for cell in found.cells}


def test_metrics_by_hand():
    """Sentences: (0.2 + 0.4 + 0.3) / 3; captions: 2.5 (0.3 + 0 + 0) / 3, the last one being negative."""
    rows = [
        row("0", "A dog. A cat.", kept([0.2, 0.4], 0.3)),
        row("1", "", kept([], 0.0)),
        row("2", "A very long one", kept([0.3], -0.1, cut=True)),
    ]
    found = {name: cell.estimate for (name, _), cell in values(rows).items()}
    assert found["similarity"].value == pytest.approx(0.3)
    assert found["CLIPScore"].value == pytest.approx(0.25)
    assert found["cut"].value == pytest.approx(1 / 3)
    assert found["words"].value == pytest.approx(8 / 3)
    assert found["sentences"].value == pytest.approx(1.0)
    assert found["similarity"].low <= 0.3 <= found["similarity"].high


def test_strategies_are_compared_by_picture():
    texts = [(0.1, 0.4), (0.2, 0.6), (0.3, 0.9)]
    rows = [row(str(n), "A dog.", kept([low], low)) for n, (low, _) in enumerate(texts)]
    rows += [row(str(n), "A dog.", kept([high], high), "other") for n, (_, high) in enumerate(texts)]
    difference = values(rows, ("greedy", "other"))["similarity", "other"].difference
    assert difference.value == pytest.approx((0.3 + 0.4 + 0.6) / 3)
    assert difference.low > 0
    assert difference.p == pytest.approx(0.25, abs=0.02)


def test_scores():
    assert [clip_score(cosine) for cosine in (-1.0, 0.0, 0.4, 1.0)] == [0.0, 0.0, 1.0, 2.5]


@pytest.mark.slow
@given(st.lists(st.lists(st.floats(-1, 1), max_size=4), min_size=3, max_size=3), st.lists(st.floats(-1, 1), min_size=3))
def test_counts_against_a_plain_second_version(cosines, wholes):
    rows = [row(str(n), " ".join(["Dog."] * len(cosines[n])), kept(cosines[n], wholes[n])) for n in range(3)]
    found = {name: cell.estimate.value for (name, _), cell in values(rows).items()}
    everything = [cosine for own in cosines for cosine in own]
    if everything:
        assert found["similarity"] == pytest.approx(math.fsum(everything) / len(everything), abs=1e-9)
    else:
        assert found["similarity"] is None
    assert found["CLIPScore"] == pytest.approx(
        math.fsum(2.5 * cosine if cosine > 0 else 0 for cosine in wholes[:3]) / 3
    )


def slowly(text):
    """Split into sentences one character at a time."""
    found, now = [], ""
    for at, letter in enumerate(text):
        now += letter
        if letter in "\r\n" or (letter in ".!?" and text[at + 1 : at + 2].isspace()):
            found.append(now)
            now = ""
    return [part.strip() for part in (*found, now) if any(one.isalnum() for one in part)]


@pytest.mark.slow
@given(st.text(st.sampled_from("ab9 .!?\n\r\t…-é犬"), max_size=30))
def test_sentences_against_a_slow_second_version(text):
    assert sentences(text) == slowly(text)


def test_random_captions_lose_no_word():
    random.seed(3)
    for _ in range(200):
        text = "".join(random.choices(string.ascii_lowercase + " .!?\n", k=60))
        words = re.findall(r"\w+", text)
        assert [word for part in sentences(text) for word in re.findall(r"\w+", part)] == words


def test_measured_is_what_the_clip_says(clip, picture_file):
    loaded, picture = load_clip(str(clip)), open_image(picture_file)
    text = f"A dog sits. {'dog ' * CONTEXT}"
    found = compare_caption(loaded, picture_file, text)
    assert json.loads(json.dumps(found)) == found
    wanted = loaded.similarity(picture, ["A dog sits.", ("dog " * CONTEXT).strip(), text]).tolist()
    assert [*found["similarity"], found["caption"]] == pytest.approx(wanted, abs=1e-6)
    assert (found["cut"], found["clip"]) == (True, str(clip))
    assert compare_caption(loaded, picture_file, "A dog.")["cut"] is False
    for silent in ("", " . ", "\n"):
        assert compare_caption(loaded, picture_file, silent) == kept([], 0.0) | {"clip": str(clip)}


@pytest.mark.slow
def test_a_run_measures_and_reports_without_the_clip(clip, llava, tmp_path):
    list(write_scenes(tmp_path / "scenes", 3, 0))
    made = benchmark(f"clip(model={str(clip)!r}, max_new_tokens=6)")
    source = Source(tmp_path / "scenes" / "annotations.json")
    specs = [strategy("greedy"), strategy("vcd"), strategy(f"cgd(clip={str(clip)!r})")]
    opened = start(tmp_path / "run", llava, benchmarks=[(made, source)], strategies=specs, batch_size=2)
    (part,) = opened.parts
    assert [(item.id, item.prompt) for item in part.items] == [
        (name, "Please describe this image in detail.") for name in ("1", "2", "3")
    ]
    answer(llava, opened, part, specs, batch_size=2)
    rows = list(opened.store.rows("clip"))
    assert len(rows) == 9
    for one in rows:
        again = compare_caption(load_clip(str(clip)), part.pictures[one.item], one.text)
        assert one.extra["similarity"] == pytest.approx(again["similarity"], abs=1e-6)
        assert one.extra["caption"] == pytest.approx(again["caption"], abs=1e-6)
    ((_, evaluation),) = reopen(tmp_path / "run").evaluate()
    assert {cell.metric.name for cell in evaluation.cells} == {"similarity", "CLIPScore", "cut", "words", "sentences"}
    assert len({cell.estimate.value for cell in evaluation.cells if cell.metric.name == "CLIPScore"}) > 1


def test_a_report_does_not_need_the_model_any_more():
    assert benchmark("clip(model='/gone/since')").count(ITEMS[0], "A dog. Big.") == {"n": 1, "sentences": 2, "words": 3}
    assert benchmark("clip").mark(ITEMS[0], "A dog.") == []


def test_it_needs_a_model(tmp_path):
    list(write_scenes(tmp_path, 1, 0))
    source = Source(tmp_path / "annotations.json")
    with pytest.raises(OptionError, match=r"clip: model must be a folder that holds an open_clip model.*got ''"):
        benchmark("clip").material(source)
    with pytest.raises(OptionError, match="clip: model must be"):
        benchmark("clip(model='word')")
    with pytest.raises(ModelError, match="neither a folder nor an architecture"):
        benchmark("clip(model='/gone')").material(source)


@pytest.mark.parametrize(
    "extra",
    [None, {}, {"similarity": [0.1]}, kept(3, 0.1), kept(["a"], 0.1), kept([0.1], None), kept([None], 0.2)],
)
def test_answers_that_were_not_measured_are_refused(extra):
    with pytest.raises(DataError, match="clip: the answer of greedy to item '1' was not compared with its picture"):
        values([row("0", "A.", kept([0.1], 0.1)), row("1", "A.", extra), row("2", "A.", kept([0.1], 0.1))])


def test_every_caption_is_compared_with_its_own_picture(clip, pictures, tmp_path):
    loaded = load_clip(str(clip))
    files = []
    for number, picture in enumerate(pictures):
        files.append(tmp_path / f"{number}.png")
        picture.save(files[-1])
    found = [compare_caption(loaded, file, "A dog. A cat.")["similarity"] for file in files]
    wanted = (loaded.embed_pictures(pictures) @ loaded.embed_texts(["A dog.", "A cat."]).T).tolist()
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted))
