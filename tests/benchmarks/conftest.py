"""Tiny benchmark data, written as their authors write it."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from mmhall.results.store import Row


def picture(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def write_json(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def write_lines(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def answered(benchmark, items, texts, strategy="greedy", extras=None):
    """Rows as a run stores them."""
    extras = extras or [None] * len(items)
    return [
        Row(benchmark.name, item.id, strategy, text, "eos", 2, 0.1, 0, extra)
        for item, text, extra in zip(items, texts, extras, strict=True)
    ]


def totals(benchmark, items, rows):
    """Each metric's numerator and denominator."""
    counts = benchmark.counts(items, rows)
    return {
        m.name: tuple(sum(c[k] * w for c in counts for k, w in side.items()) for side in (m.over, m.under))
        for m in benchmark.metrics
    }


@pytest.fixture
def amber(tmp_path):
    """Two pictures, their captions, and a question of each type about each."""
    types = [
        ("discriminative-attribute-state", "yes"),
        ("discriminative-attribute-number", "no"),
        ("discriminative-attribute-action", "yes"),
        ("discriminative-hallucination", "no"),
        ("discriminative-relation", "yes"),
        ("relation", "no"),
    ]
    folder = tmp_path / "amber"
    queries, notes = [], []
    for n in (1, 2):
        queries.append({"id": n, "image": f"AMBER_{n}.jpg", "query": "Describe this image."})
        notes.append({"id": n, "type": "generative", "truth": ["person", "sky"], "hallu": ["car"]})
        picture(folder / "image" / f"AMBER_{n}.jpg")
    for kind, truth in types:
        for n in (1, 2):
            number = len(queries) + 1
            queries.append({"id": number, "image": f"AMBER_{n}.jpg", "query": f"Is it {kind}?"})
            notes.append({"id": number, "type": kind, "truth": truth})
    write_json(folder / "query_all.json", queries)
    write_json(folder / "annotations.json", notes)
    write_json(
        folder / "relation.json",
        {"person": ["man", "woman"], "sky": [], "car": ["tire"], "tree": ["leave"], "man": ["boy"]},
    )
    (folder / "safe_words.txt").write_text("light\nindividual")
    return folder
