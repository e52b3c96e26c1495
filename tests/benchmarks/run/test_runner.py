from __future__ import annotations

import os
import shutil
import signal

import pytest
import torch
from PIL import Image

from mmhall.benchmarks.base import Item, Source
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.data.pictures import read_coco
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.run.runner import _seeds, answer, batches
from mmhall.benchmarks.run.runs import Part, Run, start
from mmhall.benchmarks.scenes import write_scenes
from mmhall.errors import RunError
from mmhall.results.store import Store
from mmhall.strategies import strategy
from tests.benchmarks.siege import images_of
from tests.forks import ended, forked

STRATEGIES = [strategy("greedy"), strategy("vdd(beta=0.5)")]


@pytest.fixture
def scenes(tmp_path):
    list(write_scenes(tmp_path / "scenes", 5, 0))
    return read_coco(tmp_path / "scenes" / "annotations.json", tmp_path / "scenes")


def part(scenes):
    benchmark = Chair(max_new_tokens=6)
    return Part(benchmark, benchmark.items(scenes, 0), {p.id: p.path for p in scenes.pictures})


def run_of(scenes, folder):
    return Run(Store.create(folder, {}), (part(scenes),), tuple(map(str, STRATEGIES)))


def pixels(path):
    return Image.open(path).convert("RGB").tobytes()


def answer_all(llava, scenes, folder, **options):
    opened = run_of(scenes, folder)
    answer(llava, opened, opened.parts[0], STRATEGIES, **options)
    return {(r.item, r.strategy): r.text for r in opened.store.rows("chair")}, opened.store


@pytest.mark.slow
def test_every_item_is_answered_once_with_every_strategy_whatever_the_batch_size(llava, scenes, tmp_path):
    answers = [answer_all(llava, scenes, tmp_path / str(size), batch_size=size)[0] for size in (1, 3, 16)]
    assert answers[0] == answers[1] == answers[2]
    assert set(answers[0]) == {(str(i), str(s)) for i in range(1, 6) for s in STRATEGIES}


@pytest.mark.slow
def test_strategies_take_turns_and_each_starts_in_its_turn(llava, scenes, tmp_path):
    _, store = answer_all(llava, scenes, tmp_path / "run", batch_size=2)
    order = [(row.batch, row.strategy) for row in store.rows("chair")]
    first, second = map(str, STRATEGIES)
    wanted = [(0, first), (0, second), (1, second), (1, first), (2, first), (2, second)]
    assert list(dict.fromkeys(order)) == wanted


@pytest.mark.slow
def test_what_is_answered_is_not_asked_again(llava, scenes, tmp_path, monkeypatch):
    answer_all(llava, scenes, tmp_path / "run", batch_size=2)
    monkeypatch.setattr(llava, "generate_batch", lambda *a, **k: pytest.fail("asked again"))
    seen = []
    opened = run_of(scenes, tmp_path / "run")
    answer(llava, opened, opened.parts[0], STRATEGIES, batch_size=2, progress=seen.append)
    assert sum(seen) == 10


@pytest.mark.slow
def test_a_batch_that_fails_loses_only_itself(llava, scenes, tmp_path, monkeypatch):
    ask, calls = llava.generate_batch, []

    def failing(*arguments, **options):
        calls.extend([1] if "seeds" in options else [])  # neither to warm up, nor to ask about mentions
        if len(calls) == 3:  # two batches, and now
            raise RuntimeError("on purpose")
        return ask(*arguments, **options)

    monkeypatch.setattr(llava, "generate_batch", failing)
    with pytest.raises(RuntimeError, match="on purpose"):
        answer_all(llava, scenes, tmp_path / "run", batch_size=2)
    assert len(Store.open(tmp_path / "run").done("chair")) == 4


def test_batches_keep_a_picture_together_and_lengths_alike():
    items = [Item(f"{p}-{q}", f"p{p}", "x" * (5 + 40 * (p % 2)), ()) for q in range(3) for p in range(6)]
    items += [Item("text", None, "x", ())]
    made = batches(items, 7)
    assert sorted(i.id for batch in made for i in batch) == sorted(i.id for i in items)
    assert batches(items, 7) == made
    for batch in made:
        assert len(batch) <= 7
        assert len({item.picture is None for item in batch}) == 1
        assert len({len(item.prompt) for item in batch}) == 1 or len(batch) < 7
    homes = [[n for n, batch in enumerate(made) if any(i.picture == f"p{p}" for i in batch)] for p in range(6)]
    assert all(len(found) == 1 for found in homes)


def test_more_questions_than_a_batch_holds_are_split():
    items = [Item(str(q), "p", "?", ()) for q in range(7)]
    assert [len(batch) for batch in batches(items, 3)] == [3, 3, 1]


@pytest.mark.slow
def test_a_torn_picture_is_recorded_and_asked_again(llava, scenes, tmp_path):
    """Its neighbours are answered; once the picture is whole, the run is completed."""
    picture = scenes.pictures[1].path
    whole = picture.read_bytes()
    picture.write_bytes(whole[:200])
    answers, store = answer_all(llava, scenes, tmp_path / "run", batch_size=2)
    failed = [row for row in store.rows("chair") if row.error is not None]
    assert {row.item for row in failed} == {"2"}
    assert len(failed) == 2
    assert "truncated" in failed[0].error
    assert len(answers) == 10
    picture.write_bytes(whole)
    again, store = answer_all(llava, scenes, tmp_path / "run", batch_size=2)
    assert all(row.error is None for row in store.rows("chair"))
    assert again == answer_all(llava, scenes, tmp_path / "fresh", batch_size=2)[0]


@pytest.mark.slow
def test_memory_that_does_not_suffice_halves_the_batch(llava, scenes, tmp_path, monkeypatch):
    """As if only one picture at a time fitted; on a CPU what torch says has no class and other words than on a GPU."""
    ask, sizes = llava.generate_batch, []

    def narrow(requests, *arguments, **options):
        sizes.append(len(images_of(requests)))
        if sizes[-1] > 2:
            torch.empty(1 << 60)
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return ask(requests, *arguments, **options)

    whole, _ = answer_all(llava, scenes, tmp_path / "whole", batch_size=4)
    monkeypatch.setattr(llava, "generate_batch", narrow)
    assert answer_all(llava, scenes, tmp_path / "run", batch_size=4)[0] == whole
    assert {4, 2, 1} <= set(sizes)


@pytest.mark.slow
def test_an_item_that_never_fits_is_a_failure(llava, scenes, tmp_path, monkeypatch):
    ask, large = llava.generate_batch, pixels(next(p.path for p in scenes.pictures if p.id == "3"))

    def narrow(requests, *arguments, **options):
        if large in map(Image.Image.tobytes, images_of(requests)) and options["max_new_tokens"] > 2:
            raise MemoryError
        return ask(requests, *arguments, **options)

    monkeypatch.setattr(llava, "generate_batch", narrow)
    _, store = answer_all(llava, scenes, tmp_path / "run", batch_size=4)
    assert {(r.item, r.error) for r in store.rows("chair") if r.error} == {("3", "out of memory: MemoryError")}


def test_a_run_in_which_nothing_can_be_answered_stops(llava, scenes, tmp_path):
    for picture in scenes.pictures:
        picture.path.write_bytes(b"no picture")
    with pytest.raises(RunError, match=r"none of the first 4 items can be answered: .*not a picture"):
        answer_all(llava, scenes, tmp_path / "run", batch_size=2)


def test_items_that_are_drawn_have_draws_of_their_own(llava, pictures):
    """Without seeds of their own, requests that are alike draw alike."""
    asked, settings = [(pictures[0], "Is there a dog?")] * 6, {"do_sample": True, "max_new_tokens": 4}
    alike = llava.generate_batch(asked, seed=1, **settings)
    apart = llava.generate_batch(asked, seeds=[1, 2, 3, 4, 5, 1], **settings)
    assert len({a.text for a in alike}) == 1
    assert len({a.text for a in apart}) > 1
    assert apart[0].text == apart[5].text == alike[0].text


def test_sampled_questions_are_drawn_apart_and_alike_for_all_strategies(scenes):
    benchmark = Pope(sample=True, sample_seed=3)
    items = benchmark.items(scenes, 0)
    seeds = _seeds(benchmark, items)
    assert len(set(seeds)) == len(items)
    assert seeds == _seeds(benchmark, items)
    assert seeds != _seeds(Pope(sample=True, sample_seed=4), items)
    assert _seeds(Pope(), items) is None


@pytest.mark.slow
def test_pictures_that_have_moved_are_found_where_they_are_now(llava, scenes, tmp_path):
    """Half a run, then the pictures move; the digest says that they are the same."""
    source = tmp_path / "scenes"
    benchmark = Chair(max_new_tokens=4)
    first = start(
        tmp_path / "run",
        llava,
        benchmarks=[(benchmark, Source(source / "annotations.json"))],
        strategies=STRATEGIES,
        batch_size=2,
    )
    source.rename(tmp_path / "moved")
    again = start(
        tmp_path / "run",
        llava,
        benchmarks=[(benchmark, Source(tmp_path / "moved" / "annotations.json"))],
        strategies=STRATEGIES,
        batch_size=2,
    )
    answer(llava, again, again.parts[0], STRATEGIES, batch_size=2)
    assert all(row.error is None for row in again.store.rows("chair"))
    assert first.expected == again.answered


@pytest.mark.slow
def test_a_torn_picture_at_the_beginning_does_not_stop_a_run(llava, scenes, tmp_path):
    """The first batch holds nothing but its questions."""
    scenes.pictures[0].path.write_bytes(b"no picture")
    benchmark = Pope(max_new_tokens=2)
    asked = Part(benchmark, benchmark.items(scenes, 0), {p.id: p.path for p in scenes.pictures})
    run = Run(Store.create(tmp_path / "run", {}), (asked,), ("greedy",))
    answer(llava, run, asked, STRATEGIES[:1], batch_size=4)
    failed = {row.item.split("/")[0] for row in run.store.rows("pope") if row.error is not None}
    assert failed == {"1"}
    assert run.settled == len(asked.items)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "deaths", "fatal"), [(1, 3, "1"), (16, 5, "3")])
def test_an_item_that_kills_its_process_does_not_block_the_run(
    llava, scenes, tmp_path, monkeypatch, size, deaths, fatal
):
    """Whoever asks it dies, and is started again; at most: all together, a half, and three times it alone."""
    ask, last = llava.generate_batch, pixels(next(p.path for p in scenes.pictures if p.id == fatal))

    def deadly(requests, *arguments, **options):
        if last in map(Image.Image.tobytes, images_of(requests)):
            os.kill(os.getpid(), signal.SIGKILL)
        return ask(requests, *arguments, **options)

    undisturbed, _ = answer_all(llava, scenes, tmp_path / "undisturbed", batch_size=size)
    monkeypatch.setattr(llava, "generate_batch", deadly)
    codes = []
    while not codes or codes[-1] != 0:
        codes.append(ended(forked(lambda: answer_all(llava, scenes, tmp_path / "run", batch_size=size) and 0)))
        assert len(codes) <= deaths + 1
    assert set(codes[:-1]) == {-signal.SIGKILL}
    rows = list(Store.open(tmp_path / "run").rows("chair"))
    assert {(r.item, r.strategy): r.text for r in rows if r.error is None} == {
        key: text for key, text in undisturbed.items() if key[0] != fatal
    }
    failed = [row for row in rows if row.error is not None]
    assert [row.item for row in failed] == [fatal] * len(STRATEGIES)
    assert {row.error for row in failed} == {
        "the process died 3 times while it was asked this item alone; it is not asked again in this run"
    }
    answer_all(llava, scenes, tmp_path / "run", batch_size=size)  # nor does going on with the run ask it again


@pytest.mark.slow
def test_an_error_or_a_stop_is_no_death(llava, scenes, tmp_path, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(llava, "generate_batch", stopped)
        for _ in range(4):
            with pytest.raises(KeyboardInterrupt):
                answer_all(llava, scenes, tmp_path / "run", batch_size=1)
    answers, store = answer_all(llava, scenes, tmp_path / "run", batch_size=1)
    assert len(answers) == 10
    assert all(row.error is None for row in store.rows("chair"))


def test_a_run_folder_that_is_deleted_is_noticed_and_not_made_anew(llava, scenes, tmp_path, monkeypatch):
    ask = llava.generate_batch

    def deleting(*arguments, **options):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return ask(*arguments, **options)

    monkeypatch.setattr(llava, "generate_batch", deleting)
    with pytest.raises(RunError, match=r"run\.sqlite: was deleted or moved while the run was open"):
        answer_all(llava, scenes, tmp_path / "run", batch_size=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_of_data_in_the_home_folder_names_it_by_a_tilde_and_finds_it(llava, scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "scenes").rename(tmp_path / "home")
    llava.name = str(tmp_path / "home" / "model")
    chair = [(Chair(max_new_tokens=2), Source(tmp_path / "home" / "annotations.json"))]
    (tmp_path / "home" / "000002.png").write_bytes(b"torn")
    run = start(tmp_path / "run", llava, benchmarks=chair, strategies=STRATEGIES[:1], batch_size=2)
    (part,) = run.parts
    assert part.pictures["1"] == tmp_path / "home" / "000001.png"
    assert run.store.setup()["model"] == "~/model"
    answer(llava, run, part, STRATEGIES[:1], batch_size=2)
    assert run.answered == 4
    ((_, evaluation),) = run.evaluate()
    (reason,) = evaluation.reasons["greedy"]
    assert reason.text.startswith("is not a picture")  # without its own path: alike ones are counted
    run.store.close()
    assert str(tmp_path / "home").encode() not in b"".join(file.read_bytes() for file in (tmp_path / "run").iterdir())


@pytest.mark.slow
def test_pictures_are_processed_once_for_all_strategies_of_a_batch(llava, scenes, tmp_path, monkeypatch):
    kind, counts = type(llava.adapter), []
    read = kind.read
    monkeypatch.setattr(kind, "read", lambda self, *args: counts.append(1) or read(self, *args))
    for count in (1, 2):
        opened = run_of(scenes, tmp_path / str(count))
        answer(llava, opened, opened.parts[0], [strategy("greedy"), strategy("vhr")][:count], batch_size=3)
        counts.append(0)
    first, second = (len(part) for part in split_at(counts, 0))
    assert second == first + 1  # to warm up


@pytest.mark.slow
def test_a_picture_is_encoded_once_for_all_strategies_of_a_batch(llava, scenes, tmp_path):
    rows = []
    layer = llava.adapter.anatomy.vision.layers[0]
    hook = layer.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len([*args, *kwargs.values()][0])), with_kwargs=True
    )
    for count in (1, 2):
        opened = run_of(scenes, tmp_path / str(count))
        answer(llava, opened, opened.parts[0], [strategy("greedy"), strategy("vhr")][:count], batch_size=3)
        rows.append(0)
    hook.remove()
    first, second = (sum(part) for part in split_at(rows, 0))
    assert second == first + 1  # to warm up


def split_at(values, mark):
    parts = [[]]
    for value in values:
        parts = [*parts, []] if value == mark else [*parts[:-1], [*parts[-1], value]]
    return parts[:-1]
