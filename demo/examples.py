"""Telling cases: items that a strategy answers better than the baseline, or worse, with both stored answers.

A few ship with the page: `examples.json`, which `python -m mmhall.demo.make_examples` makes from a run on the bundled
scenes. Others come from the run that was written last below the owner's folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmhall.benchmarks.base import Benchmark, Item
from mmhall.benchmarks.report.examples import data_url, pieces
from mmhall.benchmarks.report.summary import main_group
from mmhall.demo.run_items import SIDE, Contested, contested_items
from mmhall.demo.runs import OpenRun, list_runs, open_run, render
from mmhall.demo.scenes import bundled_scenes
from mmhall.display.records import Truth, text_record
from mmhall.errors import MmhallError, RunError
from mmhall.objects.wording import with_article

FILE = Path(__file__).parent / "examples.json"


@dataclass(frozen=True, slots=True)
class Case:
    """An item that tells a strategy from the baseline.

    Attributes:
        title: What the two do, in one sentence.
        benchmark: Name of the benchmark.
        strategy: The strategy.
        found: The item and both answers.
    """

    title: str
    benchmark: str
    strategy: str
    found: Contested


def find_cases(run: OpenRun, each: int = 1) -> list[Case]:
    """Find telling cases of a run: for each strategy and benchmark those with the largest gain, and one loss of all.

    Args:
        run: The run.
        each: Number of cases for each strategy and benchmark.
    """
    cases: list[Case] = []
    for part in run.parts:
        benchmark, losses = part.benchmark, list[Case]()
        group = main_group(benchmark, {group for item in part.items for group in item.groups} or benchmark.groups)
        for strategy in run.strategies[1:]:
            told = [
                Case(title, benchmark.name, strategy, one)
                for one in contested_items(run, benchmark.name, group, benchmark.primary.name, strategy)
                if (title := describe(benchmark, one, run.strategies[0], strategy))
            ]
            gains = [case for case in told if case.found.side == "better"]
            shown = {case.found.item.id for case in cases}
            cases += sorted(gains, key=lambda case: case.found.item.id in shown)[:each]
            losses += [case for case in told if case.found.side == "worse"]
        cases += sorted(losses, key=lambda case: -abs(case.found.effect))[:1]
    return cases


def describe(benchmark: Benchmark, one: Contested, baseline: str, strategy: str) -> str:
    """Say what two answers to an item do: "greedy makes up a boat, vdd does not"; "" if there is no such sentence."""
    base, own = (benchmark.claims(one.item, text) for text in one.texts)
    worse, better = (baseline, strategy) if one.side == "better" else (strategy, baseline)
    wrong, right = (base, own) if one.side == "better" else (own, base)
    if "" in base and "" in own:
        label, asked = one.item.truth.get("label"), one.item.truth.get("object")
        if not asked or label not in ("yes", "no"):
            return ""
        if label == "yes":
            return f"{better} sees the {asked}, {worse} does not"
        return f"{worse} sees {with_article(asked)} that is not there, {better} does not"
    made_up = [name for name, holds in wrong.items() if name and not holds and name not in right]
    if made_up and not any(name not in wrong for name, holds in right.items() if not holds):
        *first, last = map(with_article, made_up)
        return f"{worse} makes up {', '.join(first)}{' and ' if first else ''}{last}, {better} does not"
    return ""


def list_examples(root: Path) -> dict[str, Any]:
    """Return the cases that ship with the page and those of the run that was written last: {html}."""
    names = list_runs(root)
    run = note = None
    try:
        run = open_run(root, names[0]) if names else None
    except MmhallError as error:
        note = str(error)
    shipped = [_shipped_card(key, example) for key, example in enumerate(_shipped()["examples"])]
    own = [] if run is None else [_run_card(run, case) for case in find_cases(run)]
    return {"html": render("examples.html", shipped=shipped, own=own, run=run, note=note)}


def stored_example(key: Any) -> dict[str, Any]:
    """Return a case that ships with the page, as `mmhall.demo.run_items.stored_item` returns an item.

    Args:
        key: Its number in the list, from 0.

    Raises:
        RunError: There is none of that number.
    """
    examples = _shipped()["examples"]
    if not isinstance(key, int) or isinstance(key, bool) or not 0 <= key < len(examples):
        raise RunError(f"there is no example {key!r}; choose one of the list")
    example = examples[key]
    truth = Truth(bundled_scenes()[example["scene"]].present)
    setup = {
        "picture": {"scene": example["scene"]},
        "prompt": example["prompt"],
        "strategies": [answer["strategy"] for answer in example["answers"]],
        "max_new_tokens": example["max_new_tokens"],
        "temperature": 0.0,
        "seed": 0,
        "present": list(truth.present or ()),
        "absent": None,
    }
    columns = [
        text_record(
            answer["text"],
            example["prompt"],
            truth,
            strategy=answer["strategy"],
            state="cut" if answer["stopped_by"] == "length" else "done",
            tokens=answer["tokens"],
            seconds=answer["seconds"],
        )
        for answer in example["answers"]
    ]
    notes = ["Stored answers: words without scores, as no tokens are stored."]
    return {"setup": setup, "image": "", "columns": columns, "model": example["model"], "notes": notes}


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return data


def _shipped_card(key: int, example: Mapping[str, Any]) -> dict[str, Any]:
    scene = bundled_scenes()[example["scene"]].data
    return {
        "title": example["title"],
        "image": scene["image"],
        "alt": scene["alt"],
        "prompt": example["prompt"],
        "answers": [
            (answer["strategy"], [(span[0], span[1]) for span in answer["spans"]]) for answer in example["answers"]
        ],
        "model": example["model"],
        "call": ["example", key],
    }


def _run_card(run: OpenRun, case: Case) -> dict[str, Any]:
    part, item = run.part(case.benchmark), case.found.item
    return {
        "title": case.title,
        "image": data_url(part.picture(item), SIDE, "jpeg"),
        "alt": f"Picture {item.picture}",
        "prompt": item.prompt,
        "answers": [
            (strategy, spans(part.benchmark, item, text))
            for strategy, text in zip((run.strategies[0], case.strategy), case.found.texts, strict=True)
        ],
        "model": run.model,
        "call": ["item", run.name, case.benchmark, item.id, case.strategy],
    }


def spans(benchmark: Benchmark, item: Item, text: str) -> list[tuple[str, str]]:
    """Return an answer's spans, each with "right", "wrong" or ""."""
    return [(piece.text, piece.kind) for piece in pieces(benchmark, item, text)]
