"""Published figures beside those of a run whose answers are written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.reproduce.comparison import compare
from mmhall.benchmarks.reproduce.protocol import MEAN, Published
from mmhall.benchmarks.run.runs import make_strategies, start
from mmhall.results.store import Row
from tests.benchmarks.conftest import picture, write_lines

BEAM = "beam(length_rule='official')"


def questions(folder: Path) -> Path:
    """Write three settings of a yes and a no question about each of two pictures."""
    for setting in ("random", "popular", "adversarial"):
        lines = []
        for n, image in enumerate(("a.jpg", "b.jpg")):
            picture(folder / image)
            for label, name in (("yes", "dog"), ("no", f"{setting} thing")):
                text = f"Is there a {name} in the image?"
                lines.append({"question_id": len(lines) + 1, "image": image, "text": text, "label": label, "n": n})
        write_lines(folder / f"coco_pope_{setting}.json", lines)
    return folder


@pytest.fixture
def run(llava, tmp_path):
    """Greedy says yes to everything: accuracy 50, F1 66.7. vcd is always right. beam was never asked."""
    kind = benchmark("pope(rule='official', max_new_tokens=16)")
    begun = start(
        tmp_path / "run",
        llava,
        benchmarks=[(kind, Source(questions(tmp_path / "pope"), None, 2))],
        strategies=make_strategies(["greedy", "vcd", BEAM]),
        batch_size=4,
    )
    (part,) = begun.parts
    rows = []
    for item in part.items:
        for name, text in (("greedy", "Yes"), ("vcd", item.truth["label"]), (BEAM, "no")):
            rows.append(Row("pope", item.id, name, text, "eos", 1, 0.1, 0, {"yes_score": 0.5}))
    begun.store.add(rows)
    return begun


def test_figures_gains_and_conditions_stand_beside_the_published_ones(run):
    """Mean accuracy of three settings: greedy 50, vcd 100, gain 50; published 80 and 90, gain 10.

    Of one setting there is an interval: 79 lies above that of greedy. That of vcd reaches far below 100, as it has two
    pictures, and holds 88.
    """
    published = Published(
        "somewhere",
        "pope",
        "pope",
        {"decoding": "sampling at temperature 1", "token limit": "16", "answer rule": "official", "pictures": "500"},
        {
            "greedy": {(MEAN, "accuracy"): 80.0, ("random", "accuracy"): 79.0},
            "vcd": {(MEAN, "accuracy"): 90.0, ("random", "accuracy"): 88.0, (MEAN, "F1"): 91.0},
        },
    )
    ((part, evaluation),) = run.evaluate()
    comparison = compare(run, part, evaluation, published)
    told = [(p.strategy, p.metric, p.ours, p.published_gain, p.gain, p.verdict) for p in comparison.pairs]
    assert told == [
        ("greedy", "accuracy", 50.0, None, None, ""),
        ("greedy", "accuracy", 50.0, None, None, "above"),
        ("vcd", "accuracy", 100.0, 10.0, 50.0, ""),
        ("vcd", "accuracy", 100.0, 9.0, 50.0, "inside"),
        ("vcd", "F1", 100.0, None, None, ""),
    ]
    assert comparison.differences == (
        "decoding: sampling at temperature 1 there, greedy here",
        "prompt: not recorded there, profile llava here",
        "pictures: 500 there, the first 2 here",
    )


def test_a_figure_without_a_counterpart_has_no_value_and_beams_name_their_length_rule(run):
    """vdd was not run. The score of beams is a condition of a source with a beam search only."""
    published = Published("somewhere", "pope", "pope", {}, {"vdd": {("popular", "F1"): 85.0}, BEAM: {}})
    ((part, evaluation),) = run.evaluate()
    comparison = compare(run, part, evaluation, published)
    assert [(pair.ours, pair.verdict) for pair in comparison.pairs] == [(None, "")]
    assert not [line for line in comparison.differences if line.startswith("beam score")]
    with_beam = Published("somewhere", "pope", "pope", {}, {BEAM: {("popular", "F1"): 85.0}})
    differences = compare(run, part, evaluation, with_beam).differences
    assert "beam score: not recorded there, official here" in differences
