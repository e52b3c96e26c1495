"""Reading the next batch in a thread: the same answers, errors and stored digests, and no thread that stays."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import pytest

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.data.pictures import read_coco
from mmhall.benchmarks.run.ahead import ReadAhead
from mmhall.benchmarks.run.runner import answer
from mmhall.benchmarks.run.runs import Part, Run
from mmhall.benchmarks.scenes import write_scenes
from mmhall.errors import ModelError, PromptError, RunError
from mmhall.results.pictures import stored_fingerprints
from mmhall.results.store import Store
from mmhall.strategies import strategy

STRATEGIES = [strategy("greedy"), strategy("vdd(beta=0.5)")]
HERE, THREAD = "here", "mmhall-ahead_0"


@pytest.fixture
def part(tmp_path):
    list(write_scenes(tmp_path / "scenes", 5, 0))
    pictures = read_coco(tmp_path / "scenes" / "annotations.json", tmp_path / "scenes")
    benchmark = Chair(max_new_tokens=6)
    return Part(benchmark, benchmark.items(pictures, 0), {p.id: p.path for p in pictures.pictures})


@pytest.fixture
def reads(llava, monkeypatch):
    """Where prompts were read, in order: here or in the thread."""
    kind, places = type(llava.adapter), list[str]()
    read = kind.read

    def noted(self, request, text):
        name = threading.current_thread().name
        places.append(name if name == THREAD else HERE)
        return read(self, request, text)

    monkeypatch.setattr(kind, "read", noted)
    return places


def run_of(part, folder):
    return Run(Store.create(folder, {}), (part,), tuple(map(str, STRATEGIES)))


def answered(llava, part, folder, **options):
    run = run_of(part, folder)
    answer(llava, run, part, STRATEGIES, **options)
    return sorted((r.item, r.strategy, r.text, r.error) for r in run.store.rows("chair")), run.store


def no_thread_stays():
    return not [thread for thread in threading.enumerate() if thread.name.startswith("mmhall-ahead")]


def test_all_batches_but_the_first_are_read_ahead_and_answered_as_without(llava, part, tmp_path, reads):
    plain, store = answered(llava, part, tmp_path / "plain", batch_size=2)
    count = len(reads)
    assert set(reads) == {HERE}  # on a CPU, unless asked for
    reads.clear()
    ahead, other = answered(llava, part, tmp_path / "ahead", batch_size=2, ahead=True)
    assert reads.count(THREAD) == 3
    assert len(reads) == count
    assert ahead == plain
    assert stored_fingerprints(other, "chair") == stored_fingerprints(store, "chair")
    assert no_thread_stays()


def test_a_batch_that_is_not_the_one_read_ahead_is_read_when_it_is_asked(llava, part, reads):
    with ReadAhead(llava, part) as ahead:
        ahead.begin(part.items[:2])
        others = [replace(item, id=f"{item.id}b") for item in part.items[:2]]  # about the same pictures
        assert ahead.take(others).items == others
        assert ahead.take(part.items[:2]).is_read
    assert reads.count(HERE) == 4


@pytest.mark.parametrize("error", [ModelError("broken"), PromptError("too long"), MemoryError()])
def test_a_batch_that_only_the_thread_cannot_read_is_read_when_it_is_asked(llava, part, monkeypatch, error):
    kind = type(llava.adapter)
    read = kind.read

    def fails(self, request, text):
        if threading.current_thread().name == THREAD:
            raise error
        return read(self, request, text)

    monkeypatch.setattr(kind, "read", fails)
    with ReadAhead(llava, part) as ahead:
        ahead.begin(part.items[:2])
        assert ahead.take(part.items[:2]).is_read


def test_a_processor_that_cannot_be_copied_is_not_used_by_two_threads(llava, part, monkeypatch):
    monkeypatch.setattr(llava.adapter.processor, "lock", threading.Lock(), raising=False)
    with ReadAhead(llava, part) as ahead:
        ahead.begin(part.items[:2])
        assert ahead._reading is None
        assert ahead.take(part.items[:2]).is_read


def test_without_memory_the_batch_read_ahead_is_dropped(llava, part):
    with ReadAhead(llava, part) as ahead:
        inputs = ahead.take(part.items[:2])
        ahead.begin(part.items[2:4])
        ahead._reading.result()
        with pytest.raises(MemoryError), inputs.kept():
            raise MemoryError
        assert ahead._reading is None


def test_a_picture_that_changes_after_it_was_read_ahead_is_read_again(llava, part, reads):
    path, found = part.picture(part.items[0]), []
    with ReadAhead(llava, part) as ahead:
        for change in (lambda: None, lambda: os.utime(path, (1, 1)), path.unlink):
            ahead.begin(part.items[:2])
            ahead._reading.result()
            reads.clear()
            change()
            found.append((ahead.take(part.items[:2]).is_read, len(reads)))
    assert found == [(True, 0), (True, 2), (False, 0)]  # at last the file is gone


def test_a_torn_picture_fails_alone_as_without(llava, part, tmp_path):
    path = part.picture(part.items[3])
    path.write_bytes(path.read_bytes()[:200])
    plain, _ = answered(llava, part, tmp_path / "plain", batch_size=2)
    ahead, _ = answered(llava, part, tmp_path / "ahead", batch_size=2, ahead=True)
    assert ahead == plain
    assert {item for item, _, _, error in plain if error} == {"4"}


@pytest.mark.parametrize("error", [ModelError("broken"), OSError(5, "Input/output error"), RuntimeError("odd")])
def test_an_error_that_ends_the_run_does_so_when_its_batch_is_asked(llava, part, tmp_path, monkeypatch, error):
    kind = type(llava.adapter)
    read = kind.read

    def fails(self, request, text):
        if request.prompt.endswith("Broken"):
            raise error
        return read(self, request, text)

    monkeypatch.setattr(kind, "read", fails)
    items = [*part.items[:3], replace(part.items[3], prompt=f"{part.items[3].prompt} Broken")]  # the longest
    broken = Part(part.benchmark, items, part.pictures)
    run = run_of(broken, tmp_path / "run")
    if isinstance(error, RuntimeError):  # of a processor, which is of the picture
        answer(llava, run, broken, STRATEGIES, batch_size=2, ahead=True)
        assert [row.item for row in run.store.rows("chair") if row.error] == ["4", "4"]
    else:
        with pytest.raises(type(error), match=str(error.args[-1])):
            answer(llava, run, broken, STRATEGIES, batch_size=2, ahead=True)
    assert {row.item for row in run.store.rows("chair")} >= {"1", "2"}
    assert no_thread_stays()


def test_no_thread_stays_when_a_run_is_interrupted(llava, part, tmp_path):
    def interrupt(new):
        if new:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answered(llava, part, tmp_path / "run", batch_size=2, ahead=True, progress=interrupt)
    assert no_thread_stays()


def test_a_picture_that_changes_between_two_batches_still_stops_the_run(llava, part, tmp_path):
    """Both batches ask about one picture, which another one replaces once the first answer is stored."""
    first, other = part.items[:2]
    path = part.picture(first)
    items = [first, Item("again", first.picture, first.prompt, first.groups, first.truth)]
    asked = Part(part.benchmark, items, part.pictures)
    store = run_of(asked, tmp_path / "run").store

    def change(new):
        if new:
            path.write_bytes(part.picture(other).read_bytes())

    run = Run(store, (asked,), tuple(map(str, STRATEGIES)))
    with pytest.raises(RunError, match="1 have changed since the run has answers about them"):
        answer(llava, run, asked, STRATEGIES, batch_size=1, ahead=True, progress=change)
