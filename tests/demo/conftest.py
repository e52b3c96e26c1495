"""Columns as the page gets them, of the embedded model; a small real run; the command line in an empty folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from functools import cache
from pathlib import Path

import pytest

from mmhall.benchmarks.base import Source
from mmhall.benchmarks.run.runner import answer
from mmhall.benchmarks.run.runs import Run, make_benchmarks, make_strategies, reopen, start
from mmhall.benchmarks.scenes import make_scene, write_scenes
from mmhall.demo.compare import compare
from mmhall.demo.serve import Address, serving
from mmhall.demo.setups import read_setup
from tests.cli.conftest import cli as cli
from tests.demo.visitor import Visitor

PROMPT = "Please describe this image in detail."
STRATEGIES = ("greedy", "vcd", "vhr")
SCENES = 8


@pytest.fixture(scope="session")
def runs_root(embedded, tmp_path_factory) -> Path:
    """Folder of runs: "first", with its scenes in it, and "group/begun", which has no answers yet."""
    root = tmp_path_factory.mktemp("store") / "runs"
    first, begun = root / "first", root / "group" / "begun"
    list(write_scenes(first / "scenes", SCENES, seed=11))
    source = Source(first / "scenes" / "annotations.json")
    sources = [(benchmark, source) for benchmark in make_benchmarks(["pope", "chair"])]
    strategies = make_strategies(STRATEGIES)
    start(begun, embedded, benchmarks=sources, strategies=strategies, batch_size=16).store.close()
    run = start(first, embedded, benchmarks=sources, strategies=strategies, batch_size=16)
    for part in run.parts:
        answer(embedded, run, part, strategies)
    run.store.close()
    os.utime(begun / "run.sqlite", (1, 1))
    return root


@pytest.fixture
def run(runs_root) -> Iterator[Run]:
    opened = reopen(runs_root / "first")
    yield opened
    opened.store.close()


@pytest.fixture(scope="session")
def disputed_root(runs_root, tmp_path_factory) -> Path:
    """A copy in which "vhr" overlooks what no strategy of this model does: an object of each visibility, and others."""
    root = Path(shutil.copytree(runs_root, tmp_path_factory.mktemp("disputed") / "runs"))
    run = reopen(root / "first")
    there = [item for part in run.parts for item in part.items if item.truth.get("label") == "yes"]
    overlooked = {item.truth["visibility"]: item.id for item in there}
    assert len(overlooked) > 2
    with run.store.writing() as connection:
        for item in (*overlooked.values(), *(item.id for item in there[:4])):
            connection.execute(
                "update answers set text = 'No' where benchmark = 'pope' and strategy = 'vhr' and item = ?", (item,)
            )
    run.store.close()
    return root


@pytest.fixture
def disputed(disputed_root) -> Iterator[Run]:
    opened = reopen(disputed_root / "first")
    yield opened
    opened.store.close()


@pytest.fixture
def own_root(runs_root, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(runs_root, tmp_path / "runs"))


@pytest.fixture(scope="session")
def compared(embedded):
    """Compare on a scene of seed 2026: returns picture, set-up, columns, objects in the picture."""

    @cache
    def run(index, specs=("greedy", "vdd"), **told):
        scene = make_scene(2026, index)
        present = sorted({seen.name for seen in scene.objects})
        made, methods = read_setup({"prompt": PROMPT, "strategies": list(specs), "max_new_tokens": 64, **told})
        *_, columns = compare(embedded, scene.image, made.prompt, methods, **made.settings)
        return scene.image, made, columns, present

    return run


@pytest.fixture(scope="session")
def page_url(embedded, tmp_path_factory) -> Iterator[str]:
    """The page, open for the whole session, on the embedded model and an empty folder of runs."""
    model = Future()
    model.set_result(embedded)
    with serving(model, Address(port=0), runs=tmp_path_factory.mktemp("runs")) as url:
        yield url


@pytest.fixture
def visitor(page_url) -> Iterator[Visitor]:
    with Visitor(page_url) as somebody:
        yield somebody


@pytest.fixture(scope="session")
def scene():
    """The fifth of the page's scenes."""
    return make_scene(2026, 4)
