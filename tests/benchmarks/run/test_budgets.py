"""Runs with a budget: items of a batch wait and join as others end, and the rows are those of a run without one."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace

import pytest

import mmhall
from mmhall.benchmarks.base import COUNTED, Source
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.run.runner import answer
from mmhall.benchmarks.run.runs import Part, Run, read, reopen
from mmhall.benchmarks.run.workers import Job, Model
from mmhall.benchmarks.scenes import write_scenes
from mmhall.errors import RunError
from mmhall.generation import Budget, _refilling as refilling, _together as together
from mmhall.results.store import Store
from mmhall.strategies import strategy
from tests.benchmarks import siege

SPECS = ("greedy", "vdd(beta=0.5)", "kvsmooth", "beam")
NARROW = Budget(16, positions=600)  # about two rows of vdd, four of greedy


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    list(write_scenes(folder, 5, 0))
    return folder


@pytest.fixture(scope="module")
def model(model_folder):
    """Its answers end at different steps."""
    lvlm = mmhall.load(model_folder)
    requests = [(None, text) for text in ("What?", "Is there a dog?", "Describe it.", "How many?")]
    said = [token for answer in lvlm.generate_batch(requests, max_new_tokens=8) for token in answer.token_ids]
    ends = lvlm.adapter.generator.generation_config
    ends.eos_token_id = [max(set(said), key=said.count)]
    return lvlm


def part_of(benchmark, scenes, *, blind=()):
    """A benchmark with its items; some of them are asked without their picture."""
    ((loaded),) = read([(benchmark, Source(scenes / "annotations.json"))])
    items = [replace(i, picture=None) if at in blind else i for at, i in enumerate(loaded.material.items)]
    return Part(benchmark, items, loaded.material.pictures)


def answered(lvlm, part, folder, budget, specs=SPECS, batch_size=16):
    methods = [strategy(spec) for spec in specs]
    run = Run(Store.create(folder, {}), (part,), specs)
    with closing(run.store):
        answer(lvlm, run, part, methods, batch_size=batch_size, budget=budget)
        return {(row.item, row.strategy): row for row in run.store.rows(part.benchmark.name)}


def facts(rows):
    return {key: (row.text, row.stopped_by, row.new_tokens, row.batch, row.error) for key, row in rows.items()}


@pytest.fixture
def passes(monkeypatch):
    """The number of batches, and positions held, in each pass that waiting prompts may join."""
    seen, step = [], together.step_together

    def spied(batches, tokens):
        step(batches, tokens)
        ((state, _),) = batches[0].parts
        seen.append((len(batches), state.ids.numel()))

    monkeypatch.setattr(refilling, "step_together", spied)
    return seen


@pytest.mark.parametrize(
    "benchmark", [Pope(max_new_tokens=6), Chair(max_new_tokens=24), Pope(sample=True, max_new_tokens=6)], ids=str
)
@pytest.mark.slow
def test_rows_are_those_of_a_run_without_a_budget(model, scenes, tmp_path, passes, benchmark):
    """Greedy, a contrast, a steered one and beams; drawn answers; items with and without a picture."""
    specs = SPECS[:3] if benchmark.settings.get("do_sample") else SPECS
    part = part_of(benchmark, scenes, blind=(1, 2))
    plain = answered(model, part, tmp_path / "plain", None, specs)
    assert not passes
    rows = answered(model, part, tmp_path / "budget", NARROW, specs)
    assert facts(rows) == facts(plain)
    assert len(rows) == len(specs) * len(part.items)
    assert max(batches for batches, _ in passes) > 1
    assert max(held for _, held in passes) <= NARROW.positions


def test_a_picture_that_cannot_be_read_fails_alone_with_the_same_error(model, scenes, tmp_path):
    part = part_of(Chair(max_new_tokens=6), scenes)
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"no picture")
    part = replace(part, pictures={**part.pictures, part.items[2].picture: torn})
    plain = answered(model, part, tmp_path / "plain", None, SPECS[:2])
    rows = answered(model, part, tmp_path / "budget", NARROW, SPECS[:2])
    assert facts(rows) == facts(plain)
    assert [item for (item, _), row in rows.items() if row.error] == [part.items[2].id] * 2


def test_costs_are_those_of_what_was_read_together(model, scenes, tmp_path):
    """Each pass reads a token of the longest answer, and each answer takes as many rows as it has tokens."""
    part = part_of(Chair(max_new_tokens=24), scenes)
    plain, rows = (
        answered(model, part, tmp_path / str(at), budget, SPECS[:2]) for at, budget in enumerate((None, NARROW))
    )
    for spec, copies in zip(SPECS[:2], (1, 2), strict=True):
        for found in (plain, rows):
            counted = [row.extra[COUNTED] for (_, own), row in found.items() if own == str(strategy(spec))]
            assert all(one["passes"] == one["tokens"] for one in counted)
            assert sum(one["rows"] for one in counted) == pytest.approx(copies * sum(one["read"] for one in counted))
            assert all(one["prompt_reads"] >= one["prompt_tokens"] for one in counted)
    assert all(row.seconds > 0 for row in rows.values())


def test_a_batch_over_its_memory_is_answered_with_fewer_rows_at_a_time(model, scenes, tmp_path, monkeypatch):
    """What three captions take; with what none takes, each fails, and says how much it takes."""
    part, sizes, begin = part_of(Chair(max_new_tokens=12), scenes), [], refilling.begin

    def spied(job):
        sizes.append(len(job.inputs["input_ids"]))
        return begin(job)

    plain = answered(model, part, tmp_path / "plain", None, SPECS[:1])
    monkeypatch.setattr(refilling, "begin", spied)
    few = answered(model, part, tmp_path / "few", Budget(16, memory=one_caption(model, part) * 3), SPECS[:1])
    assert facts(few) == facts(plain)
    assert sizes[0] == 1
    assert 1 < max(sizes[1:]) <= 3
    with pytest.raises(RunError, match=r"none of the first .* items can be answered: its answer takes about"):
        answered(model, part, tmp_path / "none", Budget(16, memory=1000), SPECS[:1])


def one_caption(lvlm, part):
    """The bytes that one takes, from the error without any room."""
    request = part.request(part.items[0])
    ((_, error),) = lvlm.generate_many([request], max_new_tokens=12, memory=1)
    number, unit = float((told := str(error).split()[4])[:-1]), told[-1]
    return int(number * {"K": 2**10, "M": 2**20}[unit])


@pytest.fixture(scope="module")
def undisturbed(model, scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    siege.begin(model, folder, scenes)
    run = reopen(folder)
    for part in run.parts:
        answer(model, run, part, siege.STRATEGIES, batch_size=siege.BATCH)
    return siege.rows(folder)


@pytest.mark.slow
def test_kills_lose_nothing_and_double_nothing(undisturbed, model, scenes, tmp_path):
    """As without a budget; as often as the environment's MMHALL_KILLS says."""
    runs = siege.kills(model, tmp_path, scenes, int(os.environ.get("MMHALL_KILLS", "4")), budget=siege.NARROW)
    for number in range(runs):
        assert siege.rows(tmp_path / f"run-{number}") == undisturbed


@pytest.mark.slow
def test_workers_get_the_budget(undisturbed, scenes, model_folder, tmp_path):
    """Without room for anything, every item fails in them."""
    plain = mmhall.load(model_folder)
    siege.begin(plain, tmp_path / "run", scenes, questions=False)
    run = reopen(tmp_path / "run")
    with pytest.raises(RunError, match="its answer takes about"):
        Job(run, Model(str(model_folder)), 1, budget=Budget(siege.BATCH, memory=1)).here()
