"""Records of a run's answers, one for each item and strategy, with the field names of lm-evaluation-harness.

Its sample logs have `doc_id`, `doc`, `target`, `arguments`, `resps`, `filtered_resps`, `filter`, `metrics`, three
hashes, and each metric by name. The records have these fields, with the counts of an answer as metrics, and further
fields that identify an answer: benchmark, strategy, item, SHA-256 digest of its picture, and the error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mmhall.benchmarks.base import Counts, Item
from mmhall.benchmarks.run.runs import Part, Run
from mmhall.errors import RunError
from mmhall.results.store import Row

COLUMNS: dict[str, type] = {
    "benchmark": str,
    "strategy": str,
    "item": str,
    "prompt": str,
    "target": str,
    "answer": str,
    "error": str,
    "stopped_by": str,
    "new_tokens": int,
    "seconds": float,
    "batch": int,
    "doc_id": int,
    "doc": str,
    "settings": str,
    "extra": str,
    "picture_sha256": str,
    "doc_hash": str,
    "prompt_hash": str,
    "target_hash": str,
}
"""Columns of a table of samples; the counts come after them."""


def samples(run: Run, benchmark: str | None = None) -> list[dict[str, Any]]:
    """Return the answers and failures of a run as records, ordered by benchmark, item and strategy.

    Args:
        run: The run; it may be unfinished.
        benchmark: The only benchmark to return; None: all.

    Raises:
        RunError: The run has no such benchmark, or cannot be read.
    """
    names = [part.benchmark.name for part in run.parts]
    if benchmark is not None and benchmark not in names:
        raise RunError(f"{run.store.path.parent}: has no {benchmark}, only {', '.join(names)}")
    chosen = [part for part in run.parts if benchmark in (None, part.benchmark.name)]
    return [record for part in chosen for record in _records(run, part)]


def flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a record for a table: prompt and answer replace the nested lists."""
    nested = ("arguments", "resps", "filtered_resps", "filter", "metrics")
    prompt, settings = record["arguments"]["gen_args_0"].values()
    answer = record["resps"][0][0] if record["error"] is None else None
    plain = {name: value for name, value in record.items() if name not in nested}
    return {**plain, "prompt": prompt, "settings": settings, "answer": answer}


def counts(part: Part, rows: Mapping[str, Row]) -> dict[str, Counts]:
    """Return the counts of one strategy's answers, by item; an item of several groups is counted in its first group."""
    counted_by_item: dict[str, Counts] = {}
    for group in dict.fromkeys(item.groups[0] for item in part.items if item.groups):
        members = [item for item in part.items if group in item.groups and item.id in rows]
        read = part.benchmark.counts(members, [rows[item.id] for item in members])
        counted_by_item |= {
            item.id: counted for item, counted in zip(members, read, strict=True) if item.groups[0] == group
        }
    return counted_by_item


def _records(run: Run, part: Part) -> Iterator[dict[str, Any]]:
    settings = run.store.setup()["benchmarks"][part.benchmark.name]["settings"]
    by_strategy: dict[str, dict[str, Row]] = {strategy: {} for strategy in run.strategies}
    for row in run.rows(part):
        by_strategy[row.strategy][row.item] = row
    counted = {
        strategy: counts(part, {item: row for item, row in rows.items() if row.error is None})
        for strategy, rows in by_strategy.items()
    }
    for number, item in enumerate(part.items):
        for strategy, rows in by_strategy.items():
            if item.id in rows:
                digest = part.digests.get(item.picture or "")
                yield _record(number, item, rows[item.id], counted[strategy].get(item.id, {}), settings, digest)


def _record(
    number: int, item: Item, row: Row, counted: Counts, settings: Mapping[str, Any], picture_digest: str | None
) -> dict[str, Any]:
    doc = {**asdict(item), "truth": dict(item.truth)}
    label = item.truth.get("label")
    target = label if isinstance(label, str) else json.dumps(doc["truth"])
    record = {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": item.prompt, "arg_1": settings}},
        "resps": _texts(row),
        "filtered_resps": [text for texts in _texts(row) for text in texts],
        "filter": "none",
        "metrics": [],
        "picture_sha256": picture_digest,
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(item.prompt),
        "target_hash": _hash(target),
        "benchmark": row.benchmark,
        "strategy": row.strategy,
        "item": row.item,
        "stopped_by": row.stopped_by,
        "new_tokens": row.new_tokens,
        "seconds": row.seconds,
        "batch": row.batch,
        "extra": row.extra,
        "error": row.error,
    }
    named = {(f"{name} (count)" if name in record or name in COLUMNS else name): n for name, n in counted.items()}
    return {**record, "metrics": list(named), **named}


def _texts(row: Row) -> Sequence[Sequence[str]]:
    return [[row.text]] if row.error is None else []


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
