"""Make the examples that ship with the page, from a run on the bundled scenes: `python -m mmhall.demo.make_examples`.

For each embedded model, all strategies of `make bench` answer pope and chair; of the telling cases of the run, those of
different pictures are kept, captions first.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mmhall
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.run.runner import answer
from mmhall.benchmarks.run.runs import make_benchmarks, make_strategies, start
from mmhall.benchmarks.scenes import write_scenes
from mmhall.demo.examples import FILE, Case, find_cases, spans
from mmhall.demo.runs import OpenRun, open_run
from mmhall.demo.scenes import COUNT, SEED
from mmhall.files import atomic_path

MODELS = ("embedded", "embedded/prior")
STRATEGIES = ("greedy", "brief", "beam", "vcd", "vdd", "pai", "vhr", "gift", "var")
MOST = 5  # for each model


def main() -> None:
    """Run the benchmarks and write the file."""
    made, examples = {}, list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        list(write_scenes(root / "scenes", COUNT, SEED))
        for name in MODELS:
            made[name] = _answer(name, root / "scenes", root / "run")
            run = open_run(root, "run")
            examples += [_record(run, case) for case in _chosen(find_cases(run))]
            (root / "run").rename(root / "scenes" / name.replace("/", "-"))
    text = json.dumps({"seed": SEED, "made_with": made, "examples": examples}, indent=1, ensure_ascii=False)
    with atomic_path(FILE) as scratch:
        scratch.write_text(text + "\n", encoding="utf-8")


def _answer(name: str, scenes: Path, folder: Path) -> dict[str, Any]:
    """Ask a model; returns its weights and the versions of what ran it."""
    lvlm = mmhall.load(name)
    source = Source(scenes / "annotations.json", seed=SEED)
    benchmarks = [(benchmark, source) for benchmark in make_benchmarks(["pope", "chair"])]
    strategies = make_strategies(STRATEGIES)
    run = start(folder, lvlm, benchmarks=benchmarks, strategies=strategies, batch_size=16)
    with closing(run.store):
        for part in run.parts:
            answer(lvlm, run, part, strategies)
        setup = run.store.setup()
    return {"weights": setup["weights"], **setup["versions"]}


def _chosen(cases: list[Case]) -> Iterator[Case]:
    """Yield the first cases of different pictures, captions first: they show more than a word."""
    pictures = set[str | None]()
    for case in sorted(cases, key=lambda case: case.benchmark != "chair"):
        if case.found.item.picture not in pictures and len(pictures) < MOST:
            pictures.add(case.found.item.picture)
            yield case


def _record(run: OpenRun, case: Case) -> dict[str, Any]:
    part, item = run.part(case.benchmark), case.found.item
    picture = part.picture(item)
    assert picture is not None
    rows = [run.answers(case.benchmark)[strategy][item.id] for strategy in (run.strategies[0], case.strategy)]
    return {
        "title": case.title,
        "model": run.model,
        "scene": int(picture.stem) - 1,
        "prompt": item.prompt,
        "max_new_tokens": part.benchmark.max_new_tokens,
        "answers": [
            {
                "strategy": row.strategy,
                "text": row.text,
                "stopped_by": row.stopped_by,
                "tokens": row.new_tokens,
                "seconds": round(row.seconds, 3),
                "spans": spans(part.benchmark, item, row.text),
            }
            for row in rows
        ],
    }


if __name__ == "__main__":
    main()
