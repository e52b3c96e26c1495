from __future__ import annotations

import pytest

from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.pictures import read_coco
from mmhall.benchmarks.runner import run
from mmhall.benchmarks.runs import Part
from mmhall.benchmarks.scenes import write_scenes
from mmhall.results.store import Store
from mmhall.strategies import strategy

STRATEGIES = [strategy("greedy"), strategy("vdd(beta=0.5)")]


@pytest.fixture
def scenes(tmp_path):
    list(write_scenes(tmp_path / "scenes", 5, 0))
    return read_coco(tmp_path / "scenes" / "annotations.json", tmp_path / "scenes")


def part(scenes):
    benchmark = Chair(max_new_tokens=6)
    return Part(benchmark, benchmark.items(scenes, 0), {p.id: p.path for p in scenes.pictures})


def answer_all(llava, scenes, folder, **options):
    store = Store.create(folder, {})
    run(llava, part(scenes), STRATEGIES, store, **options)
    return {(r.item, r.strategy): r.text for r in store.rows("chair")}, store


def test_every_item_is_answered_once_with_every_strategy(llava, scenes, tmp_path):
    answers, _ = answer_all(llava, scenes, tmp_path / "run", batch_size=2)
    assert set(answers) == {(str(i), str(s)) for i in range(1, 6) for s in STRATEGIES}


def test_the_batch_size_changes_no_answer(llava, scenes, tmp_path):
    answers = [answer_all(llava, scenes, tmp_path / str(size), batch_size=size)[0] for size in (1, 3, 16)]
    assert answers[0] == answers[1] == answers[2]


def test_strategies_take_turns_and_each_starts_in_its_turn(llava, scenes, tmp_path):
    _, store = answer_all(llava, scenes, tmp_path / "run", batch_size=2)
    order = [(row.batch, row.strategy) for row in store.rows("chair")]
    first, second = map(str, STRATEGIES)
    wanted = [(0, first), (0, second), (1, second), (1, first), (2, first), (2, second)]
    assert list(dict.fromkeys(order)) == wanted


def test_what_is_answered_is_not_asked_again(llava, scenes, tmp_path, monkeypatch):
    _answers, store = answer_all(llava, scenes, tmp_path / "run", batch_size=2)
    monkeypatch.setattr(llava, "generate_batch", lambda *a, **k: pytest.fail("asked again"))
    seen = []
    run(llava, part(scenes), STRATEGIES, store, batch_size=2, progress=seen.append)
    assert sum(seen) == 10


def test_a_batch_that_fails_loses_only_itself(llava, scenes, tmp_path, monkeypatch):
    ask, calls = llava.generate_batch, []

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) == 5:  # two to warm up, two batches, and now
            raise RuntimeError("on purpose")
        return ask(*arguments, **options)

    monkeypatch.setattr(llava, "generate_batch", failing)
    with pytest.raises(RuntimeError, match="on purpose"):
        answer_all(llava, scenes, tmp_path / "run", batch_size=2)
    assert len(Store.open(tmp_path / "run").done("chair")) == 4
